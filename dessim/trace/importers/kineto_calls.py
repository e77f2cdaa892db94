"""Collective calls in a Kineto profile: what was asked for, and when it ran.

Three ways in which a profile says it, by backend and age:

    NCCL, torch >= 2.3   the kernel's own arguments: "Collective name", "In msg nelems", "dtype", "Process Group Ranks"
    NCCL, before         the host's `nccl:all_to_all` annotation that surrounds the kernel's launch, and `c10d::...`
                         around that: shapes, no group, no splits
    gloo                 `gloo:all_reduce` on a worker thread, and the `c10d::...` that queued it: shapes and splits,
                         no group

A kernel runs from when this rank began to wait for the others until all was there.
"""

from __future__ import annotations

import json
import math
import re
from bisect import bisect_right
from collections import defaultdict, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from dessim.errors import TraceError
from dessim.trace.importers.kineto_file import Event, Profile
from dessim.trace.schema import MAX_RANKS, Collective

# Names of torch's c10d (torch/csrc/distributed/c10d), without "_", "coalesced" and the like; see `_kind`.
_KINDS = {
    "allreduce": Collective.ALL_REDUCE,
    "reducescatter": Collective.REDUCE_SCATTER,
    "allgather": Collective.ALL_GATHER,
    "alltoall": Collective.ALL_TO_ALL,
    "alltoallv": Collective.ALL_TO_ALL,
    "broadcast": Collective.BROADCAST,
    "reduce": Collective.REDUCE,
    "gather": Collective.GATHER,
    "scatter": Collective.SCATTER,
    "barrier": Collective.BARRIER,
    "monitoredbarrier": Collective.BARRIER,
    "send": Collective.SEND_RECV,
    "recv": Collective.SEND_RECV,
    "recvanysource": Collective.SEND_RECV,
}
_BYTES = {
    **{"double": 8, "long": 8, "longint": 8, "complexfloat": 8, "float": 4, "int": 4, "half": 2, "bfloat16": 2},
    **{"short": 2, "shortint": 2, "byte": 1, "char": 1, "bool": 1, "unsignedchar": 1, "signedchar": 1},
    **{"float8_e4m3fn": 1, "float8_e5m2": 1},
}
_NAMES = {
    **{"float": "float32", "double": "float64", "half": "float16", "int": "int32", "long": "int64", "longint": "int64"},
    **{"short": "int16", "shortint": "int16", "byte": "uint8", "unsignedchar": "uint8", "char": "int8"},
    **{"signedchar": "int8", "complexfloat": "complex64"},
}
_ENCLOSING = 16  # events deep: c10d, record_param_comms, nccl:... follow each other closely
DEFAULT_GROUPS = frozenset({"", "0", "default_pg"})


@dataclass(frozen=True, slots=True)
class Call:
    """One rank's part of a collective.

    `inputs` and `outputs` are elements, `outputs` None where only the input is recorded. `group` and `ranks` are None
    where the profile does not say; `splits` are elements to each member. `asked_us` and `asked_tid` are when and on
    which thread the host asked for it. `strided` are the ranks by their first and stride, for lists that were cut.
    """

    kind: Collective
    inputs: int
    outputs: int | None
    dtype: str
    width: int
    stream: str
    asked_us: float
    asked_tid: str
    start_us: float
    dur_us: float
    group: str | None = None
    ranks: tuple[int, ...] | None = None
    strided: tuple[int, ...] | None = None
    splits: tuple[int, ...] | None = None
    peer: int | None = None


def is_nccl(event: Event) -> bool:
    """Whether this is a kernel that communicates."""
    return event.category == "kernel" and event.name.startswith("nccl")


def launches(profile: Profile) -> dict[Any, Event]:
    """What the host did to start each kernel and copy, by correlation."""
    return {
        event.args["correlation"]: event
        for event in profile.events
        if event.category in ("cuda_runtime", "cuda_driver") and _hashable(event.args.get("correlation"))
    }


def calls_of(profile: Profile) -> list[Call]:
    """The collective calls of a profile by their start. Raises TraceError where a call's size is not recorded."""
    kernels = [event for event in profile.events if is_nccl(event)]
    found = list(_nccl(profile, kernels)) if kernels else list(_gloo(profile))
    return sorted(found, key=lambda call: (call.asked_us, call.start_us))


def _nccl(profile: Profile, kernels: Sequence[Event]) -> Iterator[Call]:
    launched = launches(profile)
    by_thread: dict[str, list[Event]] = defaultdict(list)
    for event in profile.events:
        if event.category in ("cpu_op", "user_annotation") and event.name.startswith(("nccl:", "c10d::")):
            by_thread[event.tid].append(event)
    starts = {tid: [event.start_us for event in events] for tid, events in by_thread.items()}
    for kernel in kernels:
        launch = launched.get(kernel.args.get("correlation"))
        asked = launch or kernel
        if "Collective name" in kernel.args:
            yield _from_arguments(profile, kernel, asked)
            continue
        around: list[Event] = []
        if launch is not None and launch.tid in by_thread:
            last = bisect_right(starts[launch.tid], launch.start_us)
            near = by_thread[launch.tid][max(0, last - _ENCLOSING) : last]
            around = [event for event in near if event.end_us >= launch.start_us]
        annotation = next((event for event in reversed(around) if event.name.startswith("nccl:")), None)
        outer = next((event for event in around if event.name.startswith("c10d::")), None)
        if annotation is None:
            raise _unsized(profile, kernel)
        yield _from_shapes(profile, kernel, annotation, outer, f"stream {kernel.tid}", asked)


def _gloo(profile: Profile) -> Iterator[Call]:
    """Pair what was queued with what ran: both in order, per kind as gloo runs it and size."""
    ran: dict[tuple[Collective, tuple[int, ...]], deque[Event]] = defaultdict(deque)
    for event in profile.events:
        if event.name.startswith("gloo:") and (kind := _kind(event.name)) is not None:
            ran[kind, tuple(_elements(event))].append(event)
    for queued in profile.events:
        kind = _kind(queued.name) if queued.category == "cpu_op" and queued.name.startswith("c10d::") else None
        if kind is None:
            continue
        shapes = _elements(queued)
        base = "base" in queued.name  # (output, input); others name the tensors they work on first
        inside = shapes[1:2] if base else shapes[:1]
        # gloo runs reduce_scatter as an all_reduce of the whole input.
        as_run = Collective.ALL_REDUCE if kind is Collective.REDUCE_SCATTER else kind
        keys = [(as_run, tuple(inside)), (as_run, ()), *(key for key in ran if key[0] is as_run)]
        for spans in (ran[key] for key in keys if key in ran):
            while spans and spans[0].start_us < queued.start_us:
                spans.popleft()  # was queued before the profile began
            if spans:
                first = spans.popleft()
                yield _from_shapes(profile, first, first, queued, "gloo", queued)
                break


def _from_arguments(profile: Profile, kernel: Event, asked: Event) -> Call:
    args = kernel.args
    kind = _kind(str(args["Collective name"]))
    width = _BYTES.get(_plain(args.get("dtype")))
    inputs, outputs = args.get("In msg nelems"), args.get("Out msg nelems")
    if kind is None or width is None or not isinstance(inputs, int) or not isinstance(outputs, int):
        what = {key: args.get(key) for key in ("Collective name", "dtype", "In msg nelems", "Out msg nelems")}
        raise TraceError(profile.path, f"{kernel.name[:60]} at {kernel.start_us:.3f} us", f"not understood: {what}")
    name, ranks = str(args.get("Process Group Name", "")), _ints(args.get("Process Group Ranks"))
    rooted = args.get("Dst Rank") if "send" in str(args["Collective name"]) else args.get("Src Rank")
    return Call(
        kind=kind,
        inputs=inputs,
        outputs=outputs,
        dtype=_dtype(args["dtype"]),
        width=width,
        stream=f"stream {kernel.tid}",
        asked_us=asked.start_us,
        asked_tid=asked.tid,
        start_us=kernel.start_us,
        dur_us=kernel.dur_us,
        group="world" if name in DEFAULT_GROUPS else name,
        ranks=ranks,
        strided=_strided(args.get("Global rank start"), args.get("Global rank stride"), args.get("Group size")),
        splits=_elements_to_each(_ints(args.get("In split size")), inputs),
        peer=rooted if kind is Collective.SEND_RECV and isinstance(rooted, int) else None,
    )


def _from_shapes(profile: Profile, ran: Event, said: Event, outer: Event | None, stream: str, asked: Event) -> Call:
    """A call by its annotation and the op around it.

    `said`, the annotation, has the input's shape; `outer`, `c10d::...`, says best what it is and, if its name has
    `base` in it, the shapes of output and input.
    """
    kind = (_kind(outer.name) if outer is not None else None) or _kind(said.name)
    if kind is None:
        raise _unsized(profile, ran)
    when = (asked.start_us, asked.tid, ran.start_us, ran.dur_us)
    if kind is Collective.BARRIER:
        return Call(kind, 0, 0, "uint8", 1, stream, *when)
    shapes, splits = _elements(said) or (_elements(outer) if outer is not None else []), None
    outputs: int | None = None
    if outer is not None and "base" in outer.name:
        both = _elements(outer)
        if len(both) < 2:
            raise _unsized(profile, ran)
        outputs, inputs = both[0], both[1]
        concrete = outer.args.get("Concrete Inputs")
        if kind is Collective.ALL_TO_ALL and isinstance(concrete, list) and len(concrete) > 4:
            splits = _elements_to_each(_ints(concrete[4]), inputs)
    elif shapes:
        inputs = shapes[0]
    else:
        raise _unsized(profile, ran)
    types = [*_types(said), *(_types(outer) if outer is not None else ())]
    dtype = next((t for t in types if _plain(t) in _BYTES), None)
    if dtype is None:
        raise _unsized(profile, ran)
    width = _BYTES[_plain(dtype)]
    return Call(kind, inputs, outputs, _dtype(dtype), width, stream, *when, splits=splits)


def _unsized(profile: Profile, event: Event) -> TraceError:
    what = "its size or type is not recorded; profile with record_shapes=True"
    return TraceError(profile.path, f"{event.name[:60]} at {event.start_us:.3f} us", what)


def _kind(name: str) -> Collective | None:
    """The collective that a name of c10d, `nccl:` or `gloo:` means; None where it is none."""
    plain = name.lower().removeprefix("c10d::").removeprefix("nccl:").removeprefix("gloo:")
    plain = plain.split(" ")[0]  # nccl:send 0->1
    plain = re.sub(r"_into_tensor|_tensor|_coalesced|_oop|_base|_single|_", "", plain)
    return _KINDS.get(plain)


def _elements(event: Event) -> list[int]:
    """Elements of each tensor argument; of a list of tensors their sum. Empty where shapes were not recorded."""
    counts = []
    for dims in event.args.get("Input Dims") or ():
        if not isinstance(dims, list) or not dims:
            continue
        lists = dims if isinstance(dims[0], list) else [dims]
        if lists and lists[0] and isinstance(lists[0][0], list):
            lists = lists[0]
        if all(isinstance(n, int) and n >= 0 for shape in lists for n in shape):
            counts.append(sum(math.prod(shape) for shape in lists))
    return counts


def _types(event: Event) -> list[str]:
    types = event.args.get("Input type")
    return [str(t) for t in types] if isinstance(types, list) else []


def _plain(dtype: Any) -> str:
    return str(dtype).lower().removeprefix("c10::").replace(" ", "")


def _dtype(dtype: Any) -> str:
    return _NAMES.get(_plain(dtype), _plain(dtype))


def _ints(text: Any) -> tuple[int, ...] | None:
    """A list of whole numbers, written as text. None where it is none, is empty or was cut ("...")."""
    if isinstance(text, str):
        try:
            text = json.loads(text)
        except (ValueError, RecursionError):
            return None
    if not isinstance(text, list) or not text or not all(type(n) is int for n in text):
        return None
    return tuple(text)


def _strided(first: Any, stride: Any, size: Any) -> tuple[int, ...] | None:
    """Ranks by their first, stride and number; None where these are none (torch writes -1 for irregular groups)."""
    if not all(type(n) is int for n in (first, stride, size)) or first < 0 or stride < 1 or not 1 <= size <= MAX_RANKS:
        return None
    return tuple(range(first, first + stride * size, stride))


def _elements_to_each(splits: tuple[int, ...] | None, inputs: int) -> tuple[int, ...] | None:
    """Splits are rows of the tensor; as elements."""
    if splits is None or min(splits) < 0:
        return None
    rows = sum(splits)
    if rows == 0 or inputs % rows:
        return splits if rows == inputs else None
    return tuple(n * (inputs // rows) for n in splits)


def _hashable(value: Any) -> bool:
    return isinstance(value, int | str)
