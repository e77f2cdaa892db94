"""Records a trace of a few training steps: warm up, record, then time further steps without recording.

    steps 0 .. warmup-1    not recorded: the hash table fills, buffers and threads are created
    the next `steps`       recorded fully, for FLOPs and bytes of memory
    the next `steps`       recorded lightly, for times and collectives, and written, a whole step at a time
    the next `steps`       timed only: `Header.step_us["plain"]`, which a replay is compared with

Where a pipeline sends the next batch at the same time, a step's ops are those of both threads, on separate streams.
FLOPs and memory bytes of a written op are those counted `steps` steps earlier, scaled by the plan's formula from that
step's ids to this step's. A timed step starts at a barrier and lasts from the last rank's start to the last rank's end,
on clocks that pings have made comparable.
"""

from __future__ import annotations

import json
import platform
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

from des_ref.comm import WORLD_GROUP, Comm
from des_ref.pipeline import Pipeline
from des_ref.recording.clocks import clock_offsets_us
from des_ref.strategies.base import NoMarks, StepResult, Strategy
from des_ref.tracing.planned import PlannedRecorder, with_sizes
from dessim.errors import FileError
from dessim.trace.io import RankWriter, begin, finish
from dessim.trace.schema import PREFETCH, Header, Kind, Op
from dessim.workload import formula
from dessim.workload.model import Model
from dessim.workload.symbol_values import value_bytes


@dataclass(frozen=True, slots=True)
class TraceOptions:
    """Where a trace goes, how many steps to run before it, and how many steps it has."""

    path: Path
    warmup: int
    steps: int

    @property
    def steps_needed(self) -> int:
        """Training steps that recording the trace takes."""
        return self.warmup + 3 * self.steps


@dataclass(frozen=True, slots=True)
class _Recorded:
    """Ops of a step. `ahead` are those of the thread that works ahead; their sizes are those of the next step."""

    is_full: bool
    ops: list[Op]
    ahead: list[Op]


@dataclass(frozen=True, slots=True)
class _IdCounts:
    """Ids of one lightly recorded step, as this worker sees them."""

    sent: float  # occurrences in its own samples
    unique: float  # different ids in its own samples
    rows: float  # different rows that it updates; rows that every worker updates count 1/n
    pairs: float  # (sample, field) pairs with an id that it owns

    def to_list(self) -> list[float]:
        return [self.sent, self.unique, self.rows, self.pairs]


class TraceSession:
    """Runs the first steps of a training in place of `pipeline.step`, until `done`.

    Every rank creates one at the same point and calls `step` together. `batch` is the global batch. Raises FileError
    if the trace cannot be written.
    """

    def __init__(
        self, options: TraceOptions, comm: Comm, strategy: Strategy, *, pipeline: Pipeline, model: Model, batch: int
    ) -> None:
        self._options = options
        self._comm = comm
        self._strategy = strategy
        self._pipeline = pipeline
        self._model = model
        self._batch = batch
        self._next_step = 0
        self._recorder = PlannedRecorder(comm, strategy.plan)
        lane = pipeline.lane
        self._ahead = self._recorder.for_stream(lane.comm, PREFETCH) if lane is not None else None
        self._last: _Recorded | None = None  # the step before, whose ops ahead still lack their sizes
        symbols = strategy.plan.symbols(model.symbols(comm.world_size, batch))
        self._symbols = symbols | value_bytes(strategy.value_bytes)
        self._counted: list[dict[str, Op]] = []  # ops of the fully recorded steps, by name
        self._written = 0
        self._recorded_spans_us: list[tuple[float, float]] = []  # start and end on this rank's clock
        self._plain_spans_us: list[tuple[float, float]] = []
        self._id_counts: list[_IdCounts] = []
        self._offsets_us = clock_offsets_us(comm, self._recorder.now_us)
        if comm.rank == 0:
            try:
                begin(options.path, self._header())
            except OSError as error:
                raise FileError(options.path, "", f"cannot be written: {error.strerror}") from None
        comm.barrier()
        self._writer = RankWriter(options.path, comm.rank)

    @property
    def done(self) -> bool:
        """Whether the trace is complete and written."""
        return self._next_step >= self._options.steps_needed

    def step(self) -> StepResult:
        """Run one training step, recorded or timed as the schedule says. The last one completes the trace."""
        number = self._next_step
        self._next_step += 1
        options = self._options
        if number < options.warmup:
            return self._pipeline.step()
        previous, self._last = self._last, None
        if number < options.warmup + 2 * options.steps:
            result = self._record(number, full=number < options.warmup + options.steps)
        else:
            self._comm.barrier()
            start_us = self._recorder.now_us()
            result = self._pipeline.step()
            self._comm.synchronize()
            self._plain_spans_us.append((start_us, self._recorder.now_us()))
        if previous is not None:
            self._keep(previous, result)
        if self.done:
            self._finish()
        return result

    def _record(self, number: int, full: bool) -> StepResult:
        """Run a step under the recorders. Its ops are kept in `_last` until the next step."""
        batch = self._pipeline.batch
        lane = self._pipeline.lane
        ahead = self._ahead
        self._comm.barrier()
        start_us = self._recorder.now_us()
        self._strategy.marks = self._recorder
        if lane is not None and ahead is not None:
            lane.marks = ahead
            result = self._pipeline.step(lambda: self._recorder.step(number, full), lambda: ahead.step(number, full))
            lane.marks = NoMarks()
        else:
            result = self._pipeline.step(lambda: self._recorder.step(number, full))
        self._strategy.marks = NoMarks()
        ops = self._recorder.take_planned(self._strategy.op_vars(result.counts, self._batch))
        ops_ahead = ahead.take_planned({}) if ahead is not None else []
        self._last = _Recorded(full, ops, ops_ahead)
        if not full:
            end_us = max(op.end_us for op in (*ops, *ops_ahead))
            self._recorded_spans_us.append((start_us, end_us))
            counts = result.counts
            rows = counts.rows - counts.common + counts.common / self._comm.world_size
            unique = len(torch.unique(batch.ids))
            self._id_counts.append(_IdCounts(counts.ids_sent, unique, rows, counts.pairs))
        return result

    def _keep(self, recorded: _Recorded, following: StepResult) -> None:
        """Count or write a step. `following` is the step after it, whose ids were sent during it."""
        variables = self._strategy.op_vars(following.counts, self._batch)
        ops = sorted((*recorded.ops, *with_sizes(recorded.ahead, variables)), key=lambda op: op.start_us)
        if recorded.is_full:
            self._counted.append({op.name: op for op in ops})
            return
        counted = self._counted[self._written]
        self._written += 1
        self._writer.write_step(self._with_counts(op, counted.get(op.name)) for op in ops)

    def _with_counts(self, op: Op, counted: Op | None) -> Op:
        """`op` with FLOPs and memory bytes of the same op in a fully recorded step, scaled to this step's ids."""
        if counted is None or op.kind is not Kind.COMPUTE:
            return op
        flops = counted.flops * self._growth(op.flops_size, counted, op)
        mem_bytes = counted.mem_bytes * self._growth(op.mem_size, counted, op)
        return replace(op, flops=round(flops), mem_bytes=round(mem_bytes))

    def _growth(self, size: str | None, earlier: Op, now: Op) -> float:
        """The value of the formula for `now` over its value for `earlier`; 1 without a formula or where it is 0."""
        if size is None:
            return 1.0
        earlier_value = formula.evaluate(size, {**self._symbols, **earlier.vars})
        value = formula.evaluate(size, {**self._symbols, **now.vars})
        return value / earlier_value if earlier_value else 1.0

    def _finish(self) -> None:
        """Write the final header: step times and id counts over all ranks. Every rank calls it."""
        self._writer.close()
        walls_us = self._walls_us()
        means = self._mean_id_counts()
        # A rank sees the groups that it is in.
        for text in self._comm.gather_text("groups", json.dumps(self._recorder.groups)):
            self._recorder.groups |= {name: tuple(ranks) for name, ranks in json.loads(text).items()}
        self._comm.barrier()
        if self._comm.rank == 0:
            n = self._comm.world_size
            measured = {"m": means.sent * n / self._batch, "u": means.unique, "U": means.rows * n}
            if means.pairs:
                measured["q"] = means.pairs / self._batch
            recorded_us = tuple(walls_us[: self._options.steps].tolist())
            plain_us = tuple(walls_us[self._options.steps :].tolist())
            finish(self._options.path, self._header(measured, {"recorded": recorded_us, "plain": plain_us}))

    def _walls_us(self) -> np.ndarray:
        """Duration of each lightly recorded and each plain step [2 * steps], from the last start to the last end."""
        spans = np.array([*self._recorded_spans_us, *self._plain_spans_us])
        gathered = np.array(self._comm.gather_rows("spans", spans.reshape(-1).tolist()))
        clocks = np.array(self._offsets_us)[:, None, None]
        starts, ends = np.moveaxis(gathered.reshape(self._comm.world_size, -1, 2) + clocks, 2, 0)
        return ends.max(axis=0) - starts.max(axis=0)

    def _mean_id_counts(self) -> _IdCounts:
        """Means over ranks and steps."""
        own = np.array([counts.to_list() for counts in self._id_counts]).reshape(-1).tolist()
        gathered = np.array(self._comm.gather_rows("counts", own))
        return _IdCounts(*gathered.reshape(self._comm.world_size, -1, 4).mean(axis=(0, 1)))

    def _header(
        self, measured: dict[str, float] | None = None, step_us: dict[str, tuple[float, ...]] | None = None
    ) -> Header:
        comm = self._comm
        strategy = self._strategy
        options = self._options
        first_recorded = options.warmup + options.steps
        return Header(
            name=self._model.name,
            world_size=comm.world_size,
            backend=comm.backend,
            device=_device_name(comm),
            strategy=strategy.plan.strategy,
            model=self._model.model_dump(mode="json"),
            symbols=self._symbols | {k: float(v) for k, v in (measured or {}).items()},
            groups={WORLD_GROUP: tuple(range(comm.world_size))} | self._recorder.groups,
            warmup_steps=tuple(range(options.warmup)),
            recorded_steps=tuple(range(first_recorded, first_recorded + options.steps)),
            clock_offset_us=self._offsets_us,
            step_us=step_us or {},
            software={
                "dessim": version("dessim"),
                "torch": torch.__version__,
                "python": platform.python_version(),
                "system": platform.platform(),
                "threads_per_rank": str(torch.get_num_threads()),
            },
        )


def _device_name(comm: Comm) -> str:
    if comm.device.type == "cuda":
        return torch.cuda.get_device_name(comm.device)
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        model = platform.processor() or platform.machine()
    return f"cpu: {model}"
