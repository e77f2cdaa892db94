"""A trace of a few training steps: warm up, record, then time as many steps with nobody looking.

    steps 0 .. warmup-1    run as they are: the hash table fills, buffers and threads come up
    the next `steps`       watched fully, for FLOPs and bytes of memory
    the next `steps`       watched lightly, for times and collectives, and written, a whole step at a time
    the next `steps`       timed only: `Header.step_us["plain"]`, what a replay is held against

Where a pipeline sends the next batch meanwhile, a step's ops are those of both threads, on streams of their own.
FLOPs and memory bytes of a written op are those counted `steps` steps earlier, scaled by the plan's formula from that
step's ids to this one's. A timed step starts at a barrier and is measured from the last rank's start to the last
rank's end, on clocks made comparable by exchanging pings.
"""

from __future__ import annotations

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


@dataclass(frozen=True, slots=True)
class _Watched:
    """A step's ops: its own, and those of the thread that worked ahead, whose sizes are the next step's."""

    full: bool
    ops: list[Op]
    ahead: list[Op]


class TraceSession:
    """Runs the first steps of a training in place of `pipeline.step`, until `done`."""

    def __init__(
        self,
        path: Path,
        comm: Comm,
        strategy: Strategy,
        pipeline: Pipeline,
        model: Model,
        batch: int,
        warmup: int,
        steps: int,
    ) -> None:
        self._path, self._comm, self._strategy, self._model, self._batch = path, comm, strategy, model, batch
        self._pipeline, self._warmup, self._steps, self._at = pipeline, warmup, steps, 0
        self._recorder = PlannedRecorder(comm, strategy.plan)
        lane = pipeline.lane
        self._ahead = self._recorder.beside(lane.comm, PREFETCH) if lane is not None else None
        self._watched: _Watched | None = None
        symbols = strategy.plan.symbols(model.symbols(comm.world_size, batch))
        self._symbols = symbols | {"s": float(strategy.value_bytes)}
        self._counted: list[dict[str, Op]] = []
        self._written = 0
        self._spans: dict[str, list[tuple[float, float]]] = {"recorded": [], "plain": []}
        self._counts: list[tuple[float, float, float, float]] = []
        self._offsets = clock_offsets_us(comm, self._recorder.now_us)
        if comm.rank == 0:
            try:
                begin(path, self._header())
            except OSError as error:
                raise FileError(path, "", f"cannot be written: {error.strerror}") from None
        comm.barrier()
        self._writer = RankWriter(path, comm.rank)

    @property
    def done(self) -> bool:
        return self._at >= self._warmup + 3 * self._steps

    @staticmethod
    def steps_needed(warmup: int, steps: int) -> int:
        return warmup + 3 * steps

    def step(self) -> StepResult:
        """One training step, recorded or timed if its turn has come; the last one writes the trace."""
        at, self._at = self._at, self._at + 1
        if at < self._warmup:
            return self._pipeline.step()
        before, self._watched = self._watched, None
        if at < self._warmup + 2 * self._steps:
            result = self._watch(at, full=at < self._warmup + self._steps)
        else:
            self._comm.barrier()
            start = self._recorder.now_us()
            result = self._pipeline.step()
            self._spans["plain"].append((start, self._recorder.now_us()))
        if before is not None:
            self._keep(before, result)
        if self.done:
            self._finish()
        return result

    def _watch(self, number: int, full: bool) -> StepResult:
        batch, lane, ahead = self._pipeline.batch, self._pipeline.lane, self._ahead
        self._comm.barrier()
        start = self._recorder.now_us()
        self._strategy.marks = self._recorder
        if lane is not None and ahead is not None:
            lane.marks = ahead
            result = self._pipeline.step(lambda: self._recorder.step(number, full), lambda: ahead.step(number, full))
            lane.marks = NoMarks()
        else:
            result = self._pipeline.step(lambda: self._recorder.step(number, full))
        self._strategy.marks = NoMarks()
        ops = self._recorder.take_planned(self._strategy.op_vars(result.counts, self._batch))
        self._watched = _Watched(full, ops, ahead.take_planned({}) if ahead is not None else [])
        if not full:
            end = max(op.end_us for op in (*self._watched.ops, *self._watched.ahead))
            self._spans["recorded"].append((start, end))
            counts = result.counts
            unique = len(torch.unique(batch.ids))
            mine = counts.rows - counts.common + counts.common / self._comm.world_size
            self._counts.append((counts.ids_sent, unique, mine, counts.pairs))
        return result

    def _keep(self, watched: _Watched, following: StepResult) -> None:
        """Count or write a step, now that the step after it says how much was sent ahead for it."""
        sizes = self._strategy.op_vars(following.counts, self._batch)
        ops = sorted((*watched.ops, *with_sizes(watched.ahead, sizes)), key=lambda op: op.start_us)
        if watched.full:
            self._counted.append({op.name: op for op in ops})
            return
        counted = self._counted[self._written]
        self._written += 1
        self._writer.write_step(self._with_counts(op, counted.get(op.name)) for op in ops)

    def _with_counts(self, op: Op, seen: Op | None) -> Op:
        if seen is None or op.kind is not Kind.COMPUTE:
            return op
        flops = seen.flops * self._growth(op.flops_size, seen, op)
        return replace(op, flops=round(flops), mem_bytes=round(seen.mem_bytes * self._growth(op.mem_size, seen, op)))

    def _growth(self, size: str | None, before: Op, now: Op) -> float:
        """How much more the formula gives for `now` than for `before`."""
        if size is None:
            return 1.0
        then, value = (formula.evaluate(size, {**self._symbols, **op.vars}) for op in (before, now))
        return value / then if then else 1.0

    def _finish(self) -> None:
        comm = self._comm
        self._writer.close()
        spans = np.array([*self._spans["recorded"], *self._spans["plain"]])
        gathered = np.array(comm.gather_rows("spans", spans.reshape(-1).tolist()))
        clocks = np.array(self._offsets)[:, None, None]
        starts, ends = np.moveaxis(gathered.reshape(comm.world_size, -1, 2) + clocks, 2, 0)
        walls = ends.max(axis=0) - starts.max(axis=0)
        counts = np.array(comm.gather_rows("counts", np.array(self._counts).reshape(-1).tolist()))
        means = counts.reshape(comm.world_size, -1, 4).mean(axis=(0, 1))
        comm.barrier()
        if comm.rank == 0:
            n = comm.world_size
            measured = {"m": means[0] * n / self._batch, "u": means[1], "U": means[2] * n}
            if means[3]:
                measured["q"] = means[3] / self._batch
            walls_us = {"recorded": walls[: self._steps], "plain": walls[self._steps :]}
            finish(self._path, self._header(measured, {k: tuple(v.tolist()) for k, v in walls_us.items()}))

    def _header(
        self, measured: dict[str, float] | None = None, step_us: dict[str, tuple[float, ...]] | None = None
    ) -> Header:
        comm, strategy = self._comm, self._strategy
        return Header(
            name=self._model.name,
            world_size=comm.world_size,
            backend=comm.backend,
            device=_device_name(comm),
            strategy=strategy.plan.strategy,
            model=self._model.model_dump(mode="json"),
            symbols=self._symbols | {k: float(v) for k, v in (measured or {}).items()},
            groups={WORLD_GROUP: tuple(range(comm.world_size))} | self._recorder.groups,
            warmup_steps=tuple(range(self._warmup)),
            recorded_steps=tuple(range(self._warmup + self._steps, self._warmup + 2 * self._steps)),
            clock_offset_us=self._offsets,
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
