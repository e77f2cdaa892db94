"""The recorder: what a training step really did, as ops of a trace.

A `TorchDispatchMode` around the step sees every c10d collective - those that comm.py issues by name, and those that
DDP's C++ reducer issues by itself - with group, dtype, splits and logical bytes (S of dessim.trace.schema). Between
collectives it sums what the aten operators read and write, and their FLOPs where torch has a formula (GEMMs).

Compute segments are marked by the strategy and named as in its plan. A collective starts when it is launched; it ends
when `wait` returns, or when its work is done if that was before anyone waited (where the backend says so).
Dependencies are the program's own order: an op waits for the last compute before it and for the collectives waited for
since, so a collective launched early holds up nothing until its wait.

A thread that works ahead has a recorder of its own (`Recorder.beside`): modes of torch, the order of ops and what was
waited for are a thread's own; clock, ids and groups are common, and the stream of its ops is `prefetch`.

Looking costs time: a Python call for each aten operator, 10 to 20 us. So a step is watched in one of two ways. *Full*:
the mode is on throughout; FLOPs and bytes are counted, every collective is seen, times are too long. *Light*: the mode
is on only while comm.py launches a collective; times are true, FLOPs and bytes are not counted.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from itertools import count
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from des_ref.comm import Comm, work_future
from des_ref.recording.open_op import OpenOp
from des_ref.recording.torch_calls import COLLECTIVES, MESSAGES, SENT, bytes_of, described, touches_memory
from dessim.trace.schema import Collective, Kind, Op, Phase


class Recorder(TorchDispatchMode):
    """Records steps of one rank. Use `with recorder.step(i):` around a step whose marks and comm's tap it is."""

    def __init__(self, comm: Comm) -> None:
        super().__init__()
        self._comm = comm
        self._stream: str | None = None
        self._origin_ns, self._ids = time.perf_counter_ns(), count()
        self._step, self._full = 0, True
        self._begin()
        self.groups: dict[str, tuple[int, ...]] = {}

    def beside(self, comm: Comm, stream: str) -> Recorder:
        """A recorder of what another thread does with `comm` meanwhile, all of it on `stream`: same clock, same ids."""
        other = self._for_thread(comm)
        other._stream, other._origin_ns, other._ids = stream, self._origin_ns, self._ids
        other.groups = self.groups
        return other

    def _for_thread(self, comm: Comm) -> Recorder:
        return Recorder(comm)

    def _begin(self) -> None:
        self._ops: list[OpenOp] = []
        self._frontier: tuple[int, ...] = ()
        self._segment: OpenOp | None = None
        self._label: str | None = None
        self._made: Collective | None = None
        self._pending: dict[str, OpenOp] = {}
        self._unlabelled: list[OpenOp] = []
        self.notes: dict[str, Mapping[str, float]] = {}
        self._joined = 0  # how many of the unlabelled later ops already wait for
        self._last_us = 0.0  # when the last wait or segment ended
        self._last_cpu_us = 0.0  # what this thread had run by then
        self._started = False  # whether there has been a segment
        self._last_segment: OpenOp | None = None  # the segment that ended last, if no wait came after it

    def now_us(self) -> float:
        """Microseconds on this rank's clock."""
        return (time.perf_counter_ns() - self._origin_ns) / 1e3

    # -- what the trainer calls -----------------------------------------------------------------------------------

    @contextmanager
    def step(self, number: int = 0, full: bool = True) -> Iterator[None]:
        """Record one step, fully or lightly; its ops are then in `take`."""
        self._begin()
        self._step, self._full = number, full
        self._comm.tap = self
        self._mark()
        try:
            with self if full else nullcontext():
                yield
        finally:
            self._comm.tap = None
        self._extend_last_segment()
        for op in self._unlabelled:
            op.end_us = self._done(op)

    def take(self) -> list[Op]:
        """The last step's ops."""
        ops, on_cpu = [], self._comm.device.type == "cpu"
        for entry in self._ops:
            op = entry.finished(on_cpu)
            if entry.call is not None:
                op, ranks = described(op, *entry.call, entry.made, entry.sent)
                self.groups[op.group or ""] = ranks
            ops.append(op)
        self._ops = []  # lets go of the collectives' tensors
        return ops

    @contextmanager
    def segment(self, name: str, phase: Phase) -> Iterator[None]:
        """A compute op of the plan. Segments do not nest."""
        assert self._segment is None, f"segment {name} inside {self._segment.op.name}" if self._segment else ""
        self._open_segment(name, phase)
        try:
            yield
        finally:
            self._close_segment()
            # Nobody shows when DDP waits for its collectives: it does so before the backward it runs in returns.
            self._frontier = (*self._frontier, *(op.op.id for op in self._unlabelled[self._joined :]))
            self._joined = len(self._unlabelled)

    @contextmanager
    def copy(self, name: str, phase: Phase, moved: int) -> Iterator[None]:
        """A copy of `moved` bytes between a device and its host's memory."""
        self._extend_last_segment()
        entry = self._new(name, Kind.COPY, phase, "copy")
        entry.op = replace(entry.op, bytes=moved)
        yield
        self._synchronize()
        entry.end_us = self._mark()
        self._frontier = (entry.op.id,)

    # -- what comm.py calls (Tap) ---------------------------------------------------------------------------------

    def note(self, name: str, symbols: Mapping[str, float]) -> None:
        self.notes[name] = symbols

    def launching(self, name: str, made: Collective | None = None) -> None:
        # Host work since the last segment was that segment's; what follows until the launch is the recorder's own.
        self._extend_last_segment()
        self._label, self._made = name, made
        if not self._full:
            self.__enter__()

    def launched(self, name: str) -> None:
        if not self._full:
            self.__exit__(None, None, None)
        self._label = self._made = None
        if self._started:  # else reading the samples is on record nowhere, and belongs to the segment that comes
            self._mark()

    def waited(self, name: str) -> None:
        op = self._pending.pop(name)
        op.end_us = self._done(op)
        self._last_segment = None
        # What the collective itself waited for is implied.
        self._frontier = (*(i for i in self._frontier if i not in op.op.deps), op.op.id)
        self._mark()

    # -- what torch calls -----------------------------------------------------------------------------------------

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func.namespace == "c10d":
            return self._collective(func, args, kwargs)
        out = func(*args, **kwargs)
        segment = self._segment
        if segment is not None and touches_memory(func):
            segment.mem_bytes += bytes_of(args) + bytes_of(out)
            if (packet := func._overloadpacket) in flop_registry:
                segment.flops += int(flop_registry[packet](*args, **kwargs, out_val=out))
        return out

    def _collective(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        name = func._overloadpacket.__name__
        made = self._made if name in MESSAGES else None
        if made is None and name not in COLLECTIVES:
            return func(*args, **kwargs)
        sent = bytes_of(args[0]) if name == SENT else 0
        if made is not None and self._label in self._pending:  # one more of its messages
            self._pending[self._label].sent += sent
            return func(*args, **kwargs)
        # A launch inside a segment (DDP's reducer in the midst of backward) cuts it: what follows runs beside it.
        inside = self._segment
        if inside is not None:
            self._close_segment()
        label = self._label or f"ddp_{made or COLLECTIVES[name][0]}_{len(self._unlabelled)}"
        phase = inside.op.phase if inside is not None else Phase.BACKWARD
        # Only the call is kept here; reading group, bytes and splits out of it can wait until the step is over.
        entry = self._new(label, Kind.COLLECTIVE, phase, "comm", (name, args))
        entry.made, entry.sent = made, sent
        out = func(*args, **kwargs)
        self._listen(entry, out[-1] if isinstance(out, tuple) else out)
        if self._label is not None:
            self._pending[label] = entry
        else:
            self._unlabelled.append(entry)
        if inside is not None:
            self._open_segment(_continued(inside.op.name), phase)
        return out

    def _mark(self) -> float:
        """What comes next starts now [us]."""
        self._last_us, self._last_cpu_us = self.now_us(), _cpu_us()
        return self._last_us

    # -- bookkeeping ----------------------------------------------------------------------------------------------

    def _listen(self, op: OpenOp, work: Any) -> None:
        """Have the backend say when the work is done. On a GPU the callback runs early: there only `wait` counts."""
        future = work_future(work) if self._comm.device.type == "cpu" else None
        if future is not None:
            future.then(lambda _: op.done_us.append(self.now_us()))

    def _done(self, op: OpenOp) -> float:
        """When the op ended: when `wait` returned, or earlier if it was done before anyone waited for it."""
        self._synchronize()
        now = self.now_us()
        done = min([now, *op.done_us])
        return max(done, op.op.start_us) if done <= self._last_us else now

    def _synchronize(self) -> None:
        if self._comm.device.type == "cuda":
            # Of this thread's stream alone: others go on beside it.
            torch.cuda.current_stream(self._comm.device).synchronize()

    def _extend_last_segment(self) -> None:
        if self._last_segment is not None:
            self._synchronize()
            self._last_segment.end_us = self.now_us()
            self._last_segment.cpu_us += _cpu_us() - self._last_cpu_us
            self._last_segment = None

    def _new(
        self, name: str, kind: Kind, phase: Phase, stream: str, call: tuple[str, Sequence[Any]] | None = None
    ) -> OpenOp:
        self._synchronize()
        # Host work since the last collective belongs to the segment that it prepares.
        start = self._last_us if kind is Kind.COMPUTE else self.now_us()
        op = Op(next(self._ids), self._step, phase, kind, name, self._stream or stream, start, 0.0, self._frontier)
        self._ops.append(OpenOp(op, call, cpu_us=self._last_cpu_us))
        return self._ops[-1]

    def _open_segment(self, name: str, phase: Phase) -> None:
        self._started = True
        self._segment = self._new(name, Kind.COMPUTE, phase, "compute")

    def _close_segment(self) -> None:
        segment = self._segment
        assert segment is not None
        self._synchronize()
        before = segment.cpu_us
        segment.end_us = self._mark()
        segment.cpu_us = self._last_cpu_us - before
        self._segment, self._last_segment = None, segment
        self._frontier = (segment.op.id,)


def _cpu_us() -> float:
    """What this thread has run."""
    return time.thread_time_ns() / 1e3


def _continued(name: str) -> str:
    """`backward` -> `backward.2` -> `backward.3`: names stay unique within a step."""
    stem, _, number = name.rpartition(".")
    return f"{stem}.{int(number) + 1}" if stem and number.isdigit() else f"{name}.2"
