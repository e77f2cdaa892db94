"""The recorder: the ops that a training step really ran.

A `TorchDispatchMode` around the step sees every c10d collective, both those that comm.py issues by name and those that
DDP's C++ reducer issues, with group, dtype, splits and logical bytes (S of dessim.trace.schema). Between collectives it
sums the bytes that aten operators read and write, and their FLOPs where torch has a formula (GEMMs).

The strategy marks and names compute segments. A collective starts when it is launched. It ends when `wait` returns, or
when its work is done if that was before anyone waited for it (where the backend reports it). Dependencies follow
program order: an op depends on the last compute op before it and on the collectives waited for since; a collective
that is launched early holds up nothing until it is waited for.

A thread that works ahead of the step has its own recorder (`Recorder.for_stream`), because torch's modes, the order of
ops and the collectives waited for belong to one thread. Both recorders share the clock, the ids of ops, and the groups;
the thread's ops are on a separate stream.

Recording costs time: a Python call of 10 to 20 us for each aten operator. A step is therefore recorded in one of two
modes. *Full*: the mode is on throughout; FLOPs and bytes are counted and every collective is seen, but times are too
long. *Light*: the mode is on only while comm.py launches a collective; times are true, but FLOPs and bytes are not
counted. A certificate needs every collective but no costs of compute: it records in full without `costs`, for which
the mode is not needed (intercept.py).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from itertools import count
from typing import Any, Self

from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from des_ref.comm import Comm, work_future
from des_ref.recording.intercept import intercepted
from des_ref.recording.open_op import OpenOp
from des_ref.recording.torch_calls import (
    COLLECTIVES,
    MESSAGES,
    SEND,
    bytes_of,
    described,
    touched_bytes,
    touches_memory,
)
from dessim.trace.schema import Collective, Kind, Op, Phase


class Recorder(TorchDispatchMode):
    """Records steps of one rank.

    Use `with recorder.step(i):` around a step whose strategy has the recorder as its marks. During the step the
    recorder is also `comm`'s tap. `groups` maps each process group seen to its ranks; `notes` maps ops of the last step
    to symbols that became known while they were encoded.
    """

    def __init__(self, comm: Comm) -> None:
        super().__init__()
        self._comm = comm
        self._stream: str | None = None
        self._origin_ns = time.perf_counter_ns()
        self._ids = count()
        self._step = 0
        self._is_full = True
        self._begin()
        self.groups: dict[str, tuple[int, ...]] = {}

    def for_stream(self, comm: Comm, stream: str) -> Self:
        """A recorder for another thread that uses `comm` at the same time. Its ops are on `stream`."""
        other = self._for_thread(comm)
        other._stream = stream
        other._origin_ns = self._origin_ns
        other._ids = self._ids
        other.groups = self.groups
        return other

    def _for_thread(self, comm: Comm) -> Self:
        return type(self)(comm)

    def _begin(self) -> None:
        """Forget the last step."""
        self._ops: list[OpenOp] = []
        self._frontier: tuple[int, ...] = ()  # ids that the next op depends on
        self._segment: OpenOp | None = None  # the open compute segment
        self._label: str | None = None  # name of the collective that comm.py is launching
        self._built_as: Collective | None = None  # the collective whose messages comm.py is launching
        self._pending: dict[str, OpenOp] = {}  # collectives that comm.py has not waited for
        self._unlabelled: list[OpenOp] = []  # collectives that comm.py did not launch
        self._joined = 0  # how many of the unlabelled ones later ops already depend on
        self.notes: dict[str, Mapping[str, float]] = {}
        self._last_us = 0.0  # when the last wait or segment ended
        self._last_cpu_us = 0.0  # CPU time of this thread at that moment
        self._has_segment = False  # whether the step has had a segment yet
        self._last_segment: OpenOp | None = None  # the segment that ended last; None after a wait

    def now_us(self) -> float:
        """Microseconds on this rank's clock."""
        return _us_since(self._origin_ns)

    # -- called by the trainer ------------------------------------------------------------------------------------

    @contextmanager
    def step(self, number: int = 0, full: bool = True, costs: bool = True) -> Iterator[None]:
        """Record one step in full or light mode. `take` then returns its ops.

        Without `costs`, a step in full mode does not count FLOPs and bytes of memory.
        """
        self._begin()
        self._step = number
        self._is_full = full
        self._comm.tap = self
        self._mark()
        try:
            with (self if costs else intercepted(self._collective)) if full else nullcontext():
                yield
        finally:
            self._comm.tap = None
        self._extend_last_segment()
        for op in self._unlabelled:
            op.end_us = self._done(op)

    def take(self) -> list[Op]:
        """The last step's ops, in the order in which they started. A second call returns none."""
        on_cpu = self._comm.device.type == "cpu"
        ops = []
        for entry in self._ops:
            op = entry.finished(on_cpu)
            if entry.call is not None:
                op, ranks = described(op, entry)
                self.groups[op.group or ""] = ranks
            ops.append(op)
        # Release tensors and groups here: dropping the last reference to a gloo group joins its thread, which may need
        # the GIL.
        self._ops = []
        self._unlabelled = []
        self._pending = {}
        self._joined = 0
        return ops

    @contextmanager
    def segment(self, name: str, phase: Phase) -> Iterator[None]:
        """Record a compute op. Segments do not nest."""
        assert self._segment is None, f"segment {name} inside {self._segment.op.name}" if self._segment else ""
        self._open_segment(name, phase)
        try:
            yield
        finally:
            self._close_segment()
            # DDP waits for its collectives unseen, before the backward pass that it runs in returns.
            self._frontier = (*self._frontier, *(op.op.id for op in self._unlabelled[self._joined :]))
            self._joined = len(self._unlabelled)

    @contextmanager
    def copy(self, name: str, phase: Phase, moved: int) -> Iterator[None]:
        """Record a copy of `moved` bytes between a device and its host's memory."""
        self._extend_last_segment()
        entry = self._new(name, Kind.COPY, phase, "copy")
        entry.op = replace(entry.op, bytes=moved)
        yield
        self._comm.synchronize()
        entry.end_us = self._mark()
        self._frontier = (entry.op.id,)

    # -- called by comm.py (Tap) ----------------------------------------------------------------------------------

    def note(self, name: str, symbols: Mapping[str, float]) -> None:
        self.notes[name] = symbols

    def launching(self, name: str, built_as: Collective | None = None) -> None:
        # Host work up to here belongs to the last segment; from here to the launch it is the recorder's own.
        self._extend_last_segment()
        self._label = name
        self._built_as = built_as
        if not self._is_full:
            self.__enter__()

    def launched(self, name: str) -> None:
        if not self._is_full:
            self.__exit__(None, None, None)
        self._label = None
        self._built_as = None
        # Before the first segment, time runs on: reading the samples is part of the segment that follows.
        if self._has_segment:
            self._mark()

    def waited(self, name: str) -> None:
        op = self._pending.pop(name)
        op.end_us = self._done(op)
        self._last_segment = None
        # Dependencies of the collective itself are implied by it.
        self._frontier = (*(i for i in self._frontier if i not in op.op.deps), op.op.id)
        self._mark()

    # -- called by torch ------------------------------------------------------------------------------------------

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func.namespace == "c10d":
            return self._collective(func._overloadpacket.__name__, partial(func, *args, **kwargs), args)
        out = func(*args, **kwargs)
        segment = self._segment
        if segment is not None and touches_memory(func):
            segment.mem_bytes += touched_bytes(func, args, out)
            if (packet := func._overloadpacket) in flop_registry:
                segment.flops += int(flop_registry[packet](*args, **kwargs, out_val=out))
        return out

    def _collective(self, name: str, run: Callable[[], Any], args: Sequence[Any]) -> Any:
        built_as = self._built_as if name in MESSAGES else None
        if built_as is None and name not in COLLECTIVES:
            return run()
        sent = bytes_of(args[0]) if name == SEND else 0
        if built_as is not None and self._label in self._pending:  # a further message of the same collective
            self._pending[self._label].sent += sent
            return run()
        # A launch inside a segment (by DDP's reducer during backward) cuts it in two; the rest overlaps the collective.
        cut_segment = self._segment
        if cut_segment is not None:
            self._close_segment()
        label = self._label or f"ddp_{built_as or COLLECTIVES[name][0]}_{len(self._unlabelled)}"
        phase = cut_segment.op.phase if cut_segment is not None else Phase.BACKWARD
        # Keep only the call here; group, bytes and splits are read from it after the step.
        entry = self._new(label, Kind.COLLECTIVE, phase, "comm", (name, args))
        entry.built_as = built_as
        entry.sent = sent
        out = run()
        self._listen(entry, out[-1] if isinstance(out, tuple) else out)
        if self._label is not None:
            self._pending[label] = entry
        else:
            self._unlabelled.append(entry)
        if cut_segment is not None:
            self._open_segment(_continued(cut_segment.op.name), phase)
        return out

    def _mark(self) -> float:
        """Start the time of the next segment now; returns now [us]."""
        self._last_us = self.now_us()
        self._last_cpu_us = _cpu_us()
        return self._last_us

    # -- bookkeeping ----------------------------------------------------------------------------------------------

    def _listen(self, op: OpenOp, work: Any) -> None:
        """Have the backend report when the work is done. On a GPU its callback runs too early to be used."""
        future = work_future(work) if self._comm.device.type == "cpu" else None
        if future is not None:
            # The backend's thread drops this function, which therefore must not keep the call and its group alive.
            done_us = op.done_us
            now_us = partial(_us_since, self._origin_ns)
            future.then(lambda _: done_us.append(now_us()))

    def _done(self, op: OpenOp) -> float:
        """When the op ended: when `wait` returned, or earlier if it was done before anyone waited for it."""
        self._comm.synchronize()
        now = self.now_us()
        done = min([now, *op.done_us])
        return max(done, op.op.start_us) if done <= self._last_us else now

    def _extend_last_segment(self) -> None:
        """Add the time since the last segment ended to that segment, unless a collective was waited for since."""
        if self._last_segment is not None:
            self._comm.synchronize()
            self._last_segment.end_us = self.now_us()
            self._last_segment.cpu_us += _cpu_us() - self._last_cpu_us
            self._last_segment = None

    def _new(
        self, name: str, kind: Kind, phase: Phase, stream: str, call: tuple[str, Sequence[Any]] | None = None
    ) -> OpenOp:
        self._comm.synchronize()
        # Host work since the last collective belongs to the segment that it prepares.
        start_us = self._last_us if kind is Kind.COMPUTE else self.now_us()
        op = Op(
            id=next(self._ids),
            step=self._step,
            phase=phase,
            kind=kind,
            name=name,
            stream=self._stream or stream,
            start_us=start_us,
            dur_us=0.0,
            deps=self._frontier,
        )
        self._ops.append(OpenOp(op, call, cpu_us=self._last_cpu_us))
        return self._ops[-1]

    def _open_segment(self, name: str, phase: Phase) -> None:
        self._has_segment = True
        self._segment = self._new(name, Kind.COMPUTE, phase, "compute")

    def _close_segment(self) -> None:
        segment = self._segment
        assert segment is not None
        self._comm.synchronize()
        cpu_us_at_start = segment.cpu_us
        segment.end_us = self._mark()
        segment.cpu_us = self._last_cpu_us - cpu_us_at_start
        self._segment = None
        self._last_segment = segment
        self._frontier = (segment.op.id,)


def _us_since(origin_ns: int) -> float:
    return (time.perf_counter_ns() - origin_ns) / 1e3


def _cpu_us() -> float:
    """CPU time of this thread [us]."""
    return time.thread_time_ns() / 1e3


def _continued(name: str) -> str:
    """The name of the rest of a cut segment: `backward` -> `backward.2` -> `backward.3`, unique within a step."""
    stem, _, number = name.rpartition(".")
    return f"{stem}.{int(number) + 1}" if stem and number.isdigit() else f"{name}.2"
