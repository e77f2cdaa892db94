"""The plan of one training step: every op, what it waits for, and how big it is.

Three uses of the same list: the trainer executes it, the certificate checks recorded bytes against it, the simulator
prices it. A strategy (dessim/workload/strategies/) is a function from a model to a `Plan`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from dessim.errors import FormulaError
from dessim.trace.schema import PREFETCH, Collective, Kind, Phase, sent_factor
from dessim.workload import formula


class Traffic(StrEnum):
    """What an op's bytes are for; studies and reports sum by it."""

    IDS = "ids"  # feature ids and their coordinates
    SPARSE = "sparse"  # what stands for the weights-rich operators
    DENSE = "dense"  # gradients and parameters of replicated weights
    CONTROL = "control"  # counts, lengths, labels
    NONE = "none"  # compute


@dataclass(frozen=True, slots=True)
class PlannedOp:
    """One op of a step. Formulas are over the symbols of dessim.workload.symbols, a worker.

    `size` is S as nccl-tests counts it (dessim.trace.schema). `mem` is bytes of memory traffic, `kernels` how many
    kernels a GPU launches for it (a count of the trainer's torch calls, for launch overhead). `keeps` is bytes of what
    a compute op makes and later ops need (dessim.workload.memory), `rows` how many different rows of the tables it
    touches. `part_of`: the op of the strategy that it stands for together with others (coded_plan.py), whose
    symbols are its own. `stays` is the share of an AllToAll's S that is meant for the rank itself.
    """

    name: str
    phase: Phase
    kind: Kind
    deps: tuple[str, ...]
    stream: str
    collective: Collective | None = None
    traffic: Traffic = Traffic.NONE
    size: str = "0"
    flops: str = "0"
    mem: str = "0"
    kernels: int = 0
    keeps: str = "0"
    rows: str = "0"
    part_of: str = ""
    stays: str = "1/N"

    def bytes(self, symbols: Mapping[str, float]) -> int:
        """S in whole bytes. Every term counts whole things, so rounding only removes float noise from means."""
        return round(formula.evaluate(self.size, symbols))

    def sent_bytes(self, symbols: Mapping[str, float]) -> float:
        """Bytes a worker sends, on average over workers."""
        if self.collective is None:
            return 0.0
        return sent_factor(self.collective, int(symbols["N"])) * self.even_size(symbols)

    def even_size(self, symbols: Mapping[str, float]) -> float:
        """S of the op that moves as much and sends the same to each rank, itself included."""
        size, n = formula.evaluate(self.size, symbols), symbols["N"]
        if self.stays == "1/N" or n == 1:
            return size
        return size * (1 - formula.evaluate(self.stays, symbols)) * n / (n - 1)


@dataclass(frozen=True, slots=True)
class Plan:
    """The ops of one step of one strategy, in issue order. `caveat` says what the plan leaves out, if it matters.

    `pipelines`: whether ops of Phase.INPUT, which need the samples alone, may run a step ahead.

    `rows_held`: how many of the V rows of all tables a worker keeps, a formula.

    `own_symbols` gives symbols of its own from those of a job, as means (dessim.workload.options).

    `expects`: values of symbols that only a run can know, where it has not been asked.
    """

    strategy: str
    ops: tuple[PlannedOp, ...]
    caveat: str = ""
    pipelines: bool = True
    rows_held: str = "V/N"
    own_symbols: Callable[[Mapping[str, float]], Mapping[str, float]] | None = None
    expects: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        seen: dict[str, None] = {}
        for op in self.ops:
            late = [d for d in op.deps if d not in seen]
            assert not late and op.name not in seen, f"{self.strategy}: {op.name} waits for {late} or is there twice"
            seen[op.name] = None

    def op(self, name: str) -> PlannedOp:
        """The op of this name. Raises FormulaError when the plan has none: trainer and plan have come apart."""
        for op in self.ops:
            if op.name == name:
                return op
        raise FormulaError(f"strategy {self.strategy} plans no op {name!r}")

    def symbols(self, job: Mapping[str, float]) -> dict[str, float]:
        """A job's symbols with what this plan adds to them."""
        return {**self.expects, **job, **(self.own_symbols(job) if self.own_symbols is not None else {})}

    def pipelined(self) -> Plan:
        """The plan of a step that sends the next one's ids: its ops of Phase.INPUT serve that, beside all others.

        They are the same ops every step, so one step stands for all: it starts with its own ids at hand, sent in the
        step before, and is over when the next one's are too (des_ref/pipeline.py). Its length is the pipeline's period.
        """
        if not self.pipelines:
            return self
        ahead = {op.name: op for op in self.ops if op.phase is Phase.INPUT}
        ops = (
            replace(op, stream=PREFETCH)
            if op.name in ahead
            else replace(op, deps=tuple(d for d in op.deps if d not in ahead))
            for op in self.ops
        )
        return replace(self, ops=tuple(ops))

    @property
    def is_pipelined(self) -> bool:
        """Whether some ops serve the next step."""
        return any(op.stream == PREFETCH for op in self.ops)

    @property
    def collectives(self) -> tuple[PlannedOp, ...]:
        return tuple(op for op in self.ops if op.kind is Kind.COLLECTIVE)

    @property
    def copies(self) -> tuple[PlannedOp, ...]:
        """Ops that move bytes between a GPU and its host's memory."""
        return tuple(op for op in self.ops if op.kind is Kind.COPY)

    def sent_bytes(self, symbols: Mapping[str, float], traffic: Traffic | None = None) -> float:
        """Bytes a worker sends in a step, of one kind of traffic or of all."""
        return sum(op.sent_bytes(symbols) for op in self.ops if traffic is None or op.traffic is traffic)


def compute(
    name: str,
    phase: Phase,
    *deps: str,
    flops: str = "0",
    mem: str = "0",
    kernels: int = 1,
    keeps: str = "0",
    rows: str = "0",
) -> PlannedOp:
    """A compute op on the compute stream."""
    return PlannedOp(
        name, phase, Kind.COMPUTE, deps, "compute", flops=flops, mem=mem, kernels=kernels, keeps=keeps, rows=rows
    )


def collective(
    name: str, phase: Phase, op: Collective, traffic: Traffic, size: str, *deps: str, stays: str = "1/N"
) -> PlannedOp:
    """A collective over all workers on the communication stream."""
    return PlannedOp(name, phase, Kind.COLLECTIVE, deps, "comm", collective=op, traffic=traffic, size=size, stays=stays)


def copy(name: str, phase: Phase, size: str, *deps: str) -> PlannedOp:
    """A copy between a GPU and its host's memory, on a stream of its own."""
    return PlannedOp(name, phase, Kind.COPY, deps, "copy", size=size)
