"""The plan of one training step: every op, what it waits for, and how large it is.

The same list has three uses. The trainer executes it, the certificate checks recorded bytes against it, and the
simulator prices it. A strategy (dessim/workload/strategies/) turns a model into a `Plan`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from dessim.compute import Access, Precision
from dessim.errors import FormulaError
from dessim.trace.schema import PREFETCH, Collective, Kind, Phase, sent_factor
from dessim.workload.dag import WORLD
from dessim.workload.formula import ONE, ZERO, Formula
from dessim.workload.options import Options
from dessim.workload.symbols import EVEN_SHARE, OV, OWNED_VOCABULARY, WV, so, sr


class Traffic(StrEnum):
    """The purpose of an op's bytes. Studies and reports sum by it."""

    IDS = "ids"  # feature ids and their coordinates
    SPARSE = "sparse"  # rows, or the partials and pooled vectors that replace them, and their gradients
    DENSE = "dense"  # gradients and parameters of replicated weights
    CONTROL = "control"  # counts, lengths, labels
    NONE = "none"  # compute and copies


class Placement(StrEnum):
    """Where a strategy keeps the rows of the tables."""

    HASH = "hash"  # each row on the worker that a hash of its id names
    TABLES = "tables"  # all rows of a field on one worker
    SERVERS = "servers"  # all rows of a field on one server, spread by a hash of the id over its workers
    REPLICATED = "replicated"  # every row on every worker


class OwnerRole(StrEnum):
    """How an op depends on what a worker owns (dessim.workload.owners)."""

    NONE = "none"  # not at all: it follows the worker's own samples, or the global batch
    WORKS = "works"  # its work is that of an owner
    RECEIVES = "receives"  # an AllToAll to owners: its size is what one owner receives from all workers
    SENDS = "sends"  # an AllToAll from owners: its size is what one owner sends to all workers
    PADS = "pads"  # an AllGather or ReduceScatter of owners' rows, padded to the largest share


class Participants(StrEnum):
    """The workers that take part in a collective.

    A server has L workers with consecutive ranks. Where tables are replicated, a block of workers with one replica
    stands for a server.
    """

    ALL = "all"
    SERVER = "server"  # those of one server
    BETWEEN = "between"  # the i-th worker of each server

    def group(self, rank: int, n: int, server: int) -> tuple[str, range]:
        """The name and the ranks of the group of `rank`, among `n` ranks with `server` on each server."""
        if self is Participants.ALL:
            return WORLD, range(n)
        first = rank - rank % server if self is Participants.SERVER else rank % server
        members = range(first, first + server) if self is Participants.SERVER else range(first, n, server)
        return f"{self} {first}", members


@dataclass(frozen=True, slots=True)
class PlannedProduct:
    """`count` products of a matrix of m x k values by one of k x n, a part of a compute op."""

    m: Formula
    n: Formula
    k: Formula
    count: Formula = ONE


@dataclass(frozen=True, slots=True)
class PlannedOp:
    """One op of a training step on one worker.

    Sizes are formulas over dessim.workload.symbols. Values that differ between workers stand as their means.

    `deps`: names of the ops that must finish before it starts.
    `stream`: where it runs: "compute", "comm", "copy", or PREFETCH for ops that serve the next step.
    `role`: how its formulas depend on what a worker owns.
    `kernels`: kernels that a GPU launches for it, counted as the trainer's torch calls, for launch overheads.

    Compute ops:
    `flops`, `mem`: FLOPs, and bytes of memory traffic.
    `keeps`: bytes that it creates and later ops need (dessim.workload.memory).
    `table_rows`: distinct rows of the embedding tables that it reads or updates.
    `products`: products of matrices, which are part of `flops` and `mem`.
    `access`, `row_bytes`: how it uses the memory of `mem`, and for rows in random places the bytes of each.
    `rows`, `width`: of `update_dense`, the weights as one row; 0 of others.

    Collectives and copies:
    `keeps`: bytes of the buffer in which an AllReduce sums, if not in its input.
    `size`: S [bytes] as nccl-tests counts it (dessim.trace.schema).
    `rows`, `width`: the floats that a worker contributes, `rows` rows of `width` floats that a codec may encode.
    `exact_width`: further floats of each row that a codec must leave as they are. All three are 0 for collectives that
        no codec applies to.
    `local_share`: the share of an AllToAll's S that the rank addresses to itself.
    `participants`: the workers that take part.
    `part_of`: the op of the uncoded plan that this op and others stand for (coded_plan.py). It supplies the values of
        data-dependent symbols.
    """

    name: str
    phase: Phase
    kind: Kind
    deps: tuple[str, ...]
    stream: str
    role: OwnerRole = OwnerRole.NONE
    collective: Collective | None = None
    traffic: Traffic = Traffic.NONE
    size: Formula = ZERO
    rows: Formula = ZERO
    width: Formula = ZERO
    exact_width: Formula = ZERO
    local_share: Formula = EVEN_SHARE
    participants: Participants = Participants.ALL
    flops: Formula = ZERO
    mem: Formula = ZERO
    kernels: int = 0
    keeps: Formula = ZERO
    table_rows: Formula = ZERO
    products: tuple[PlannedProduct, ...] = ()
    access: Access = Access.STREAM
    row_bytes: Formula = ZERO
    part_of: str = ""

    def bytes(self, symbols: Mapping[str, float]) -> int:
        """S in whole bytes. Every term counts whole things, so rounding only removes float noise from means."""
        return round(self.size.evaluate(symbols))

    def sent_bytes(self, symbols: Mapping[str, float]) -> float:
        """Bytes that a worker sends to others, mean over workers."""
        if self.collective is None:
            return 0.0
        return sent_factor(self.collective, self.members(symbols)) * self.even_size(symbols)

    def members(self, symbols: Mapping[str, float]) -> int:
        """The number of workers that take part in a collective."""
        n = int(symbols["N"])
        return n if self.participants is Participants.ALL else len(self.participants.group(0, n, int(symbols["L"]))[1])

    def even_size(self, symbols: Mapping[str, float]) -> float:
        """S [bytes] of a collective with the same traffic whose ranks address equal shares to all ranks, themselves
        included."""
        size = self.size.evaluate(symbols)
        n = self.members(symbols)
        if self.local_share == EVEN_SHARE or n == 1:
            return size
        return size * (1 - self.local_share.evaluate(symbols)) * n / (n - 1)


@dataclass(frozen=True, slots=True)
class Shard:
    """`columns` columns of a table from column `first` on. `owner`: the worker that holds them; None where the group's
    strategy determines it. `cached_rows`: the rows that each owner's GPU caches, where rows are in the host's memory
    (dessim.workload.spilt); 0 where they are on GPUs."""

    table: int
    columns: int
    owner: int | None = None
    first: int = 0
    cached_rows: int = 0


@dataclass(frozen=True, slots=True)
class TableGroup:
    """Tables of a composed plan that one strategy trains (dessim.workload.composed).

    `name`: the strategy's; ops end in `.name`, and symbols of the group's tables in `_name`.
    `placement`, `owned`, `busiest_by`, `rows_held`, `row_bytes`, `state_bytes`: as those of a plan, for these tables.
    `server`: the workers of a server, where tables are on servers; the owner of a shard is then the first of them.
    `replicas`: of the tables, each in a block of workers (dessim.workload.replicas).
    """

    name: str
    shards: tuple[Shard, ...]
    placement: Placement
    owned: tuple[str, ...]
    busiest_by: str
    rows_held: Formula
    row_bytes: Formula
    state_bytes: Formula
    server: int = 0
    replicas: int = 1

    @property
    def is_spilt(self) -> bool:
        """Whether rows of some table are in the host's memory."""
        return any(shard.cached_rows for shard in self.shards)

    def symbol(self, name: str) -> str:
        """The group's name of a symbol."""
        return f"{name}_{self.name}"


@dataclass(frozen=True, slots=True)
class Plan:
    """The ops of one step of one strategy, in issue order.

    `strategy`: the strategy's name with its options, which `options` holds.
    `caveat`: what the plan leaves out, where that matters; empty otherwise.
    `is_lower_bound`: whether a real step always takes longer than the plan's, so that it must not win a comparison.
    `pipelines`: whether ops of Phase.INPUT, which need only the samples, may run a step ahead.
    `rows_held`: how many of the V rows of all tables a worker holds.
    `row_bytes`, `state_bytes`: of one of these rows, and of its optimizer state, mean over rows.
    `placement`: where the rows are. `owned` are the symbols whose values follow what a worker owns, and `busiest_by`
        the one whose largest value makes a worker the busiest.
    `groups`: of a plan composed of several strategies, their tables, which then say what workers hold and own.
    `own_symbols`: computes further symbols from those of a job, as means (dessim.workload.options).
    `expects`: expected values of symbols that only a run can measure. A job's own values take precedence.
    `precision`: in which products of matrices are computed.
    `graphs`: whether CUDA graphs launch the kernels of a step; otherwise the host launches each.
    """

    strategy: str
    ops: tuple[PlannedOp, ...]
    options: Options = field(default_factory=Options)
    caveat: str = ""
    is_lower_bound: bool = False
    pipelines: bool = True
    rows_held: Formula = OWNED_VOCABULARY
    row_bytes: Formula = WV * sr
    state_bytes: Formula = OV * so
    placement: Placement = Placement.HASH
    owned: tuple[str, ...] = ("m", "q", "u", "U", "x", "X")
    busiest_by: str = "m"
    groups: tuple[TableGroup, ...] = ()
    own_symbols: Callable[[Mapping[str, float]], Mapping[str, float]] | None = None
    expects: Mapping[str, float] = field(default_factory=dict)
    precision: Precision = Precision.FP32
    graphs: bool = False

    def __post_init__(self) -> None:
        earlier: set[str] = set()
        for op in self.ops:
            missing = [dep for dep in op.deps if dep not in earlier]
            assert not missing and op.name not in earlier, (
                f"{self.strategy}: {op.name} waits for {missing} or appears twice"
            )
            earlier.add(op.name)

    def op(self, name: str) -> PlannedOp:
        """The op of this name. Raises FormulaError if the plan has none: trainer and plan disagree."""
        for op in self.ops:
            if op.name == name:
                return op
        raise FormulaError(f"strategy {self.strategy} plans no op {name!r}")

    def symbols(self, job: Mapping[str, float]) -> dict[str, float]:
        """A job's symbols, with those that this plan adds or replaces."""
        return {**self.expects, **job, **(self.own_symbols(job) if self.own_symbols is not None else {})}

    def pipelined(self) -> Plan:
        """The plan of a step that sends the next step's ids: its ops of Phase.INPUT run beside all others.

        Every step has the same ops, so one step stands for all. It starts with its own ids in place, since the step
        before sent them, and ends when the next step's ids have arrived too (des_ref/pipeline.py). Its length is the
        pipeline's period.
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
    flops: Formula = ZERO,
    mem: Formula = ZERO,
    kernels: int = 1,
    keeps: Formula = ZERO,
    table_rows: Formula = ZERO,
    products: tuple[PlannedProduct, ...] = (),
    access: Access = Access.STREAM,
    row_bytes: Formula = ZERO,
    role: OwnerRole = OwnerRole.NONE,
) -> PlannedOp:
    """A compute op on the compute stream; the arguments are fields of PlannedOp."""
    return PlannedOp(
        name,
        phase,
        Kind.COMPUTE,
        deps,
        stream="compute",
        role=role,
        flops=flops,
        mem=mem,
        kernels=kernels,
        keeps=keeps,
        table_rows=table_rows,
        products=products,
        access=access,
        row_bytes=row_bytes,
    )


def collective(
    name: str,
    phase: Phase,
    op: Collective,
    traffic: Traffic,
    size: Formula,
    *deps: str,
    rows: Formula = ZERO,
    width: Formula = ZERO,
    exact_width: Formula = ZERO,
    local_share: Formula = EVEN_SHARE,
    role: OwnerRole = OwnerRole.NONE,
) -> PlannedOp:
    """A collective over all workers on the communication stream; the arguments are fields of PlannedOp."""
    return PlannedOp(
        name,
        phase,
        Kind.COLLECTIVE,
        deps,
        stream="comm",
        role=role,
        collective=op,
        traffic=traffic,
        size=size,
        rows=rows,
        width=width,
        exact_width=exact_width,
        local_share=local_share,
    )


def copy(name: str, phase: Phase, size: Formula, *deps: str, role: OwnerRole = OwnerRole.NONE) -> PlannedOp:
    """A copy between a GPU and its host's memory, on the copy stream."""
    return PlannedOp(name, phase, Kind.COPY, deps, stream="copy", size=size, role=role)
