"""A rank's compute in a Kineto profile: kernels and copies of its GPU or, without a GPU, the ops of host threads."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections import defaultdict
from dataclasses import dataclass

from dessim.trace.importers.kineto_calls import is_nccl, launches
from dessim.trace.importers.kineto_file import Event, Profile
from dessim.trace.schema import Kind, Phase

# Old profiles round to microseconds, so consecutive kernels of a stream may overlap slightly.
_ROUNDING_US = 2.0
_COMMUNICATION = ("c10d::", "_c10d_functional", "record_param_comms", "gloo:", "nccl:")


@dataclass(frozen=True, slots=True)
class Work:
    """A computation or copy, which the host issued at `issued_us` on thread `issued_tid`."""

    kind: Kind
    name: str
    stream: str
    issued_us: float
    issued_tid: str
    start_us: float
    dur_us: float


def work_of(profile: Profile) -> list[Work]:
    """The compute of a profile, ordered by start."""
    on_gpu = [e for e in profile.events if e.category in ("kernel", "gpu_memcpy", "gpu_memset")]
    work = _on_gpu(profile, on_gpu) if on_gpu else _on_host(profile)
    return sorted(work, key=lambda w: w.start_us)


def _on_gpu(profile: Profile, events: list[Event]) -> list[Work]:
    launched = launches(profile)
    busy_until: dict[str, float] = {}
    work = []
    for event in events:
        stream = f"stream {event.tid}"
        start = event.start_us
        end = event.end_us
        if start < busy_until.get(stream, start) <= start + _ROUNDING_US:
            start = busy_until[stream]
        busy_until[stream] = max(end, busy_until.get(stream, end))
        if is_nccl(event):
            continue
        launch = launched.get(event.args.get("correlation"), event)
        work.append(
            Work(
                kind=Kind.COPY if event.category == "gpu_memcpy" else Kind.COMPUTE,
                name=short_name(event.name),
                stream=stream,
                issued_us=launch.start_us,
                issued_tid=launch.tid,
                start_us=start,
                dur_us=max(end - start, 0.0),
            )
        )
    return work


def _on_host(profile: Profile) -> list[Work]:
    """The outermost ops of each thread, except calls that issue communication."""
    gloo_threads = {event.tid for event in profile.events if event.name.startswith("gloo:")}
    busy_until: dict[str, float] = {}
    work = []
    for event in profile.events:
        if event.category != "cpu_op" or event.tid in gloo_threads:
            continue
        if event.start_us < busy_until.get(event.tid, float("-inf")):
            continue
        busy_until[event.tid] = event.end_us
        if not event.name.startswith(_COMMUNICATION):
            work.append(
                Work(
                    kind=Kind.COMPUTE,
                    name=short_name(event.name),
                    stream=f"thread {event.tid}",
                    issued_us=event.start_us,
                    issued_tid=event.tid,
                    start_us=event.start_us,
                    dur_us=event.dur_us,
                )
            )
    return work


def short_name(name: str) -> str:
    """A kernel's name in at most 80 characters: no return type, template arguments, parameters, common namespaces."""
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
    """The phase of a step that the host was in, recognised by functions of autograd, an optimizer or a data loader."""

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
        """The phase of thread `tid` at a time; forward by default."""
        place = bisect_right(self._starts.get(tid, ()), when_us) - 1
        if place >= 0 and when_us <= self._marked[tid][place][1]:
            return self._marked[tid][place][2]
        return Phase.FORWARD
