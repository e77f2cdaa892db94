"""What a rank computed: kernels and copies of its GPU, or without one the ops of its host threads."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections import defaultdict
from dataclasses import dataclass

from dessim.trace.importers.kineto_calls import is_nccl, launches
from dessim.trace.importers.kineto_file import Event, Profile
from dessim.trace.schema import Kind, Phase

# Old profiles count whole microseconds: neighbours on a stream may overlap by what was rounded.
_ROUNDING_US = 2.0
_COMMUNICATION = ("c10d::", "_c10d_functional", "record_param_comms", "gloo:", "nccl:")


@dataclass(frozen=True, slots=True)
class Work:
    """Something computed or copied; `asked_us` and `asked_tid` are when and on which thread the host asked for it."""

    kind: Kind
    name: str
    stream: str
    asked_us: float
    asked_tid: str
    start_us: float
    dur_us: float


def work_of(profile: Profile) -> list[Work]:
    """A profile's compute by its start."""
    on_gpu = [e for e in profile.events if e.category in ("kernel", "gpu_memcpy", "gpu_memset")]
    found = _on_gpu(profile, on_gpu) if on_gpu else _on_host(profile)
    return sorted(found, key=lambda work: work.start_us)


def _on_gpu(profile: Profile, events: list[Event]) -> list[Work]:
    launched = launches(profile)
    reach: dict[str, float] = {}
    found = []
    for event in events:
        stream = f"stream {event.tid}"
        start, end = event.start_us, event.end_us
        if start < reach.get(stream, start) <= start + _ROUNDING_US:
            start = reach[stream]
        reach[stream] = max(end, reach.get(stream, end))
        if is_nccl(event):
            continue
        launch = launched.get(event.args.get("correlation"), event)
        kind = Kind.COPY if event.category == "gpu_memcpy" else Kind.COMPUTE
        name = short_name(event.name)
        found.append(Work(kind, name, stream, launch.start_us, launch.tid, start, max(end - start, 0.0)))
    return found


def _on_host(profile: Profile) -> list[Work]:
    """Ops that are in no other op of their thread; calls that hand something to communicate over are none."""
    workers = {event.tid for event in profile.events if event.name.startswith("gloo:")}
    reach: dict[str, float] = {}
    found = []
    for event in profile.events:
        if event.category != "cpu_op" or event.tid in workers or event.start_us < reach.get(event.tid, float("-inf")):
            continue
        reach[event.tid] = event.end_us
        if not event.name.startswith(_COMMUNICATION):
            stream, name = f"thread {event.tid}", short_name(event.name)
            found.append(Work(Kind.COMPUTE, name, stream, event.start_us, event.tid, event.start_us, event.dur_us))
    return found


def short_name(name: str) -> str:
    """A kernel's name without return type, template arguments, parameters and namespaces that say nothing."""
    name = name.removeprefix("autograd::engine::evaluate_function: ").removeprefix("void ")
    name = name.replace("(anonymous namespace)::", "").replace("at::native::", "")
    depth = 0
    kept: list[str] = []
    for letter in name:
        if letter == "<":
            depth += 1
        elif letter == ">" and depth:
            depth -= 1
        elif depth == 0:
            if letter == "(" and kept and not name.startswith("Mem"):
                break
            kept.append(letter)
    return re.sub(r"\s+", " ", "".join(kept)).strip()[:80] or name[:80] or "unnamed"


class Phases:
    """In which phase of a step the host was, by what it ran: autograd's functions, an optimizer, a data loader."""

    _MARKS = (
        ("autograd::engine::evaluate_function", Phase.BACKWARD),
        ("Optimizer.step#", Phase.OPTIMIZER),
        ("enumerate(DataLoader)", Phase.INPUT),
    )

    def __init__(self, profile: Profile) -> None:
        self._marked: dict[str, list[tuple[float, float, Phase]]] = defaultdict(list)
        for event in profile.events:
            for mark, phase in self._MARKS:
                if event.category in ("cpu_op", "user_annotation") and event.name.startswith(mark):
                    self._marked[event.tid].append((event.start_us, event.end_us, phase))
        self._starts = {tid: [start for start, _, _ in marks] for tid, marks in self._marked.items()}

    def at(self, tid: str, when_us: float) -> Phase:
        """The phase of thread `tid` at a time; forward where nothing says otherwise."""
        place = bisect_right(self._starts.get(tid, ()), when_us) - 1
        if place >= 0 and when_us <= self._marked[tid][place][1]:
            return self._marked[tid][place][2]
        return Phase.FORWARD
