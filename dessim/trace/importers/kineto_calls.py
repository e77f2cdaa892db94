"""Collective calls in a Kineto profile: the requested op and size, and the time at which it ran.

Profiles record them in three forms, by backend and version of torch:

    NCCL, torch >= 2.3   arguments of the kernel: "Collective name", "In msg nelems", "dtype", "Process Group Ranks"
    NCCL, older torch    an annotation on the host such as `nccl:all_to_all` around the launch of the kernel, inside an
                         op `c10d::...`: shapes, but no group and no splits
    gloo                 a span such as `gloo:all_reduce` on a worker thread, and the op `c10d::...` that queued it:
                         shapes and splits, but no group

A kernel runs from the moment at which this rank begins to wait for the others until all of its data has arrived.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from dessim.errors import TraceError
from dessim.trace.importers.kineto_args import (
    bytes_per_element,
    elements,
    input_types,
    integers,
    kind_of,
    splits_in_elements,
    strided_ranks,
    torch_dtype,
)
from dessim.trace.importers.kineto_file import Event, Profile
from dessim.trace.schema import Collective

# The events around a launch (c10d, record_param_comms, nccl) are among the last ones on its thread.
_MAX_ENCLOSING_EVENTS = 16
DEFAULT_GROUPS = frozenset({"", "0", "default_pg"})


@dataclass(frozen=True, slots=True)
class Call:
    """One rank's call of a collective.

    `inputs` and `outputs` are numbers of elements of `width` bytes; `outputs` is None if only the input is recorded.
    The host issued the call at `issued_us` on thread `issued_tid`. `group` and `ranks` are None if the profile does not
    record them; `strided` are the ranks derived from their first, stride and number, for truncated lists. `splits` are
    elements sent to each member.
    """

    kind: Collective
    inputs: int
    outputs: int | None
    dtype: str
    width: int
    stream: str
    issued_us: float
    issued_tid: str
    start_us: float
    dur_us: float
    group: str | None = None
    ranks: tuple[int, ...] | None = None
    strided: tuple[int, ...] | None = None
    splits: tuple[int, ...] | None = None
    peer: int | None = None


def is_nccl(event: Event) -> bool:
    """Whether an event is a kernel of NCCL."""
    return event.category == "kernel" and event.name.startswith("nccl")


def launches(profile: Profile) -> dict[Any, Event]:
    """The host's launches of kernels and copies, by correlation id."""
    return {
        event.args["correlation"]: event
        for event in profile.events
        if event.category in ("cuda_runtime", "cuda_driver") and isinstance(event.args.get("correlation"), int | str)
    }


def calls_of(profile: Profile) -> list[Call]:
    """The collective calls of a profile in the order in which the host issued them.

    Raises TraceError if the size of a call is not recorded.
    """
    kernels = [event for event in profile.events if is_nccl(event)]
    calls = list(_nccl_calls(profile, kernels)) if kernels else list(_gloo_calls(profile))
    return sorted(calls, key=lambda call: (call.issued_us, call.start_us))


def _nccl_calls(profile: Profile, kernels: Sequence[Event]) -> Iterator[Call]:
    launched = launches(profile)
    by_thread: dict[str, list[Event]] = defaultdict(list)
    for event in profile.events:
        if event.category in ("cpu_op", "user_annotation") and event.name.startswith(("nccl:", "c10d::")):
            by_thread[event.tid].append(event)
    starts = {tid: [event.start_us for event in events] for tid, events in by_thread.items()}
    for kernel in kernels:
        launch = launched.get(kernel.args.get("correlation"))
        if "Collective name" in kernel.args:
            yield _from_arguments(profile, kernel, issued=launch or kernel)
            continue
        enclosing: list[Event] = []
        if launch is not None and launch.tid in by_thread:
            end = bisect_right(starts[launch.tid], launch.start_us)
            candidates = by_thread[launch.tid][max(0, end - _MAX_ENCLOSING_EVENTS) : end]
            enclosing = [event for event in candidates if event.end_us >= launch.start_us]
        annotation = next((event for event in reversed(enclosing) if event.name.startswith("nccl:")), None)
        outer = next((event for event in enclosing if event.name.startswith("c10d::")), None)
        if annotation is None:
            raise _unsized(profile, kernel)
        recorded = _Recorded(kernel, annotation, outer, issued=launch or kernel, stream=f"stream {kernel.tid}")
        yield _from_shapes(profile, recorded)


def _gloo_calls(profile: Profile) -> Iterator[Call]:
    """Pair queued ops with spans of worker threads: those of equal kind and size are in the same order."""
    spans_of: dict[tuple[Collective, tuple[int, ...]], deque[Event]] = defaultdict(deque)
    for event in profile.events:
        if event.name.startswith("gloo:") and (kind := kind_of(event.name)) is not None:
            spans_of[kind, tuple(elements(event))].append(event)
    for queued in profile.events:
        kind = kind_of(queued.name) if queued.category == "cpu_op" and queued.name.startswith("c10d::") else None
        if kind is None:
            continue
        shapes = elements(queued)
        # The arguments of a `base` op are (output, input); other ops have the tensors that they work on first.
        input_shape = shapes[1:2] if "base" in queued.name else shapes[:1]
        # gloo runs reduce_scatter as an all_reduce of the whole input.
        run_as = Collective.ALL_REDUCE if kind is Collective.REDUCE_SCATTER else kind
        # Prefer spans of equal size, then spans without shapes, then any of this kind.
        keys = [(run_as, tuple(input_shape)), (run_as, ()), *(key for key in spans_of if key[0] is run_as)]
        for spans in (spans_of[key] for key in keys if key in spans_of):
            while spans and spans[0].start_us < queued.start_us:
                spans.popleft()  # queued before the profile began
            if spans:
                span = spans.popleft()
                yield _from_shapes(profile, _Recorded(span, span, queued, issued=queued, stream="gloo"))
                break


def _from_arguments(profile: Profile, kernel: Event, issued: Event) -> Call:
    """A call from the arguments of its kernel."""
    args = kernel.args
    kind = kind_of(str(args["Collective name"]))
    width = bytes_per_element(args.get("dtype"))
    inputs = args.get("In msg nelems")
    outputs = args.get("Out msg nelems")
    if kind is None or width is None or not isinstance(inputs, int) or not isinstance(outputs, int):
        values = {key: args.get(key) for key in ("Collective name", "dtype", "In msg nelems", "Out msg nelems")}
        raise TraceError(profile.path, f"{kernel.name[:60]} at {kernel.start_us:.3f} us", f"not understood: {values}")
    name = str(args.get("Process Group Name", ""))
    peer = args.get("Dst Rank") if "send" in str(args["Collective name"]) else args.get("Src Rank")
    return Call(
        kind=kind,
        inputs=inputs,
        outputs=outputs,
        dtype=torch_dtype(args["dtype"]),
        width=width,
        stream=f"stream {kernel.tid}",
        issued_us=issued.start_us,
        issued_tid=issued.tid,
        start_us=kernel.start_us,
        dur_us=kernel.dur_us,
        group="world" if name in DEFAULT_GROUPS else name,
        ranks=integers(args.get("Process Group Ranks")),
        strided=strided_ranks(args.get("Global rank start"), args.get("Global rank stride"), args.get("Group size")),
        splits=splits_in_elements(integers(args.get("In split size")), inputs),
        peer=peer if kind is Collective.SEND_RECV and isinstance(peer, int) else None,
    )


@dataclass(frozen=True, slots=True)
class _Recorded:
    """The events of a call without arguments: `ran` on `stream`, its `annotation`, and the `outer` op `c10d::...`.

    The annotation has the shape of the input. The outer op names the collective most precisely; if `base` is in its
    name, it has the shapes of output and input. `issued` is the event with which the host issued the call.
    """

    ran: Event
    annotation: Event
    outer: Event | None
    issued: Event
    stream: str

    @property
    def kind(self) -> Collective | None:
        return (kind_of(self.outer.name) if self.outer is not None else None) or kind_of(self.annotation.name)

    def sizes(self) -> tuple[int, int | None] | None:
        """Elements of the input, and of the output where it is recorded; None if no size is recorded."""
        outer_elements = elements(self.outer) if self.outer is not None else []
        if self.outer is not None and "base" in self.outer.name:
            return (outer_elements[1], outer_elements[0]) if len(outer_elements) > 1 else None
        counts = elements(self.annotation) or outer_elements
        return (counts[0], None) if counts else None

    def splits(self, inputs: int) -> tuple[int, ...] | None:
        """Elements that an all_to_all sends to each member, where they are recorded."""
        if self.outer is None or "base" not in self.outer.name or self.kind is not Collective.ALL_TO_ALL:
            return None
        values = self.outer.args.get("Concrete Inputs")
        return splits_in_elements(integers(values[4]), inputs) if isinstance(values, list) and len(values) > 4 else None

    def dtype(self) -> str | None:
        """The first known element type."""
        types = [*input_types(self.annotation), *(input_types(self.outer) if self.outer is not None else ())]
        return next((t for t in types if bytes_per_element(t) is not None), None)


def _from_shapes(profile: Profile, recorded: _Recorded) -> Call:
    """A call from its annotation and the op around it."""
    kind = recorded.kind
    if kind is None:
        raise _unsized(profile, recorded.ran)
    if kind is Collective.BARRIER:
        return _call(recorded, kind, inputs=0, outputs=0, dtype="byte")
    sizes = recorded.sizes()
    dtype = recorded.dtype()
    if sizes is None or dtype is None:
        raise _unsized(profile, recorded.ran)
    inputs, outputs = sizes
    return _call(recorded, kind, inputs, outputs, dtype, splits=recorded.splits(inputs))


def _call(
    recorded: _Recorded,
    kind: Collective,
    inputs: int,
    outputs: int | None,
    dtype: str,
    splits: tuple[int, ...] | None = None,
) -> Call:
    width = bytes_per_element(dtype)
    assert width is not None
    return Call(
        kind=kind,
        inputs=inputs,
        outputs=outputs,
        dtype=torch_dtype(dtype),
        width=width,
        stream=recorded.stream,
        issued_us=recorded.issued.start_us,
        issued_tid=recorded.issued.tid,
        start_us=recorded.ran.start_us,
        dur_us=recorded.ran.dur_us,
        splits=splits,
    )


def _unsized(profile: Profile, event: Event) -> TraceError:
    problem = "its size or type is not recorded; profile with record_shapes=True"
    return TraceError(profile.path, f"{event.name[:60]} at {event.start_us:.3f} us", problem)
