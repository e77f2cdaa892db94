"""Costs of each table with each strategy, by formula: seconds of compute and of messages, and bytes of memory.

The ops are those of the strategies' plans, evaluated for one table. A load has two parts: what every worker has
(`everywhere`), and what the owners of its rows have together (`owned`). The owner is one worker for a table that is
placed whole, or for each part of one split by columns. With hash placement all workers are owners, with shares that
follow from the hash.

    compute    kernels of forward, backward and optimizer, without launches
    messages   collectives of forward and backward, without starts
    input      ids: their kernels and messages run a step ahead, beside all others
    memory     bytes
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace

import numpy as np

from dessim.arrays import Floats
from dessim.cluster import Gpu
from dessim.commands.support.step import work_of
from dessim.errors import UsageError
from dessim.plan.rates import Rate, RateOf
from dessim.sim.core.kernel_times import launched, op_seconds
from dessim.trace.schema import Kind, Phase
from dessim.workload.codecs import PLAIN, CodecConfig
from dessim.workload.coded_plan import coded
from dessim.workload.composed import (
    COLUMN_WISE,
    GROUPED,
    ON_SERVERS,
    SPILT,
    TablePlan,
    can_split_columns,
    compose,
    placement_of,
)
from dessim.workload.memory import INDEX, result_bytes
from dessim.workload.model import Model
from dessim.workload.owners import hashed_shares
from dessim.workload.plan import OwnerRole, Placement, Plan, PlannedOp, TableGroup
from dessim.workload.plan_file import TABLE_STRATEGIES
from dessim.workload.replicas import block_of, symbols_of_blocks
from dessim.workload.symbol_values import counts_by_table, floats_of
from dessim.workload.symbols import ONE_WIDTH

STAGES = ("compute", "messages", "input", "memory")
COMPUTE = STAGES.index("compute")
MEMORY = STAGES.index("memory")
STRATEGIES = (*TABLE_STRATEGIES, SPILT)
"""Strategies that tables may have, and the word for rows in the host's memory."""
_LEAST_COLUMNS = 16
"""The fewest columns of a part of a split table: shorter rows use the memory's bandwidth badly."""


@dataclass(frozen=True, slots=True)
class Choice:
    """A strategy for a table; `parts` owners share its columns, or with table_row_wise its rows.

    `cache`: its rows are in the host's memory, and each owner's GPU caches those of the last `cache` steps; 0: all are
    on GPUs.
    """

    strategy: str
    parts: int = 1
    cache: int = 0

    @property
    def family(self) -> str:
        """The name by which a candidate allows it."""
        return COLUMN_WISE if self.column_parts > 1 else self.strategy

    @property
    def placement(self) -> Placement:
        """Where its rows are."""
        return placement_of(self.strategy)

    @property
    def column_parts(self) -> int:
        """The number of owners among which its columns are split."""
        return self.parts if self.placement is Placement.TABLES else 1

    @property
    def is_placed(self) -> bool:
        """Whether a plan names the owners of its shards."""
        return self.placement in (Placement.TABLES, Placement.SERVERS)


@dataclass(frozen=True, slots=True)
class Load:
    """The load of one table by stage [4], in the order of STAGES. With several parts, `owned` is that of one.

    `cached_rows`: on each owner, where its rows are in the host's memory; `host`: bytes there of all owners together.
    """

    everywhere: Floats
    owned: Floats
    cached_rows: int = 0
    host: float = 0.0


@dataclass(frozen=True, slots=True)
class Fixed:
    """Seconds of a strategy that do not depend on its tables.

    `launch`: launches of its kernels, which its compute cannot undercut. `floor`: what its kernels take besides their
    work. `messages`, `input`: starts of its collectives in forward and backward, and of those in input.
    """

    launch: float
    floor: float
    messages: float
    input: float


@dataclass(frozen=True, slots=True)
class Loads:
    """The loads of a job on one number of GPUs.

    `by_choice[choice][table]`: None where the choice cannot be. `shares[choice][table]` [workers]: what each worker has
    of the owned load, for tables spread by hash. `fixed`: by strategy. `dense_s`: compute of the dense part;
    `dense_grad_s`: the AllReduce of its gradients. `room`: bytes of a GPU's memory that are left for tables.
    `host_room`: bytes of the memory of all hosts together.
    """

    workers: int
    by_choice: Mapping[Choice, tuple[Load | None, ...]]
    shares: Mapping[Choice, tuple[Floats, ...]]
    fixed: Mapping[str, Fixed]
    dense_s: float
    dense_grad_s: float
    room: float
    host_room: float = math.inf

    @property
    def tables(self) -> int:
        return len(next(iter(self.by_choice.values())))


def loads_of(
    model: Model,
    symbols: Mapping[str, float],
    gpu: Gpu,
    *,
    rate_of: RateOf,
    graphs: bool = False,
    server: int = 0,
    codecs: CodecConfig = PLAIN,
    replicas: int = 1,
) -> Loads:
    """The loads of all tables with all strategies.

    `server`: the GPUs of each server where there are several; 0 otherwise. `codecs`: the formats of values on the wire.
    With `replicas`, the workers are those of a block, no columns are split, and `rate_of` takes a block for a server.

    Raises UsageError where no strategy can train the model.
    """
    n = int(symbols["N"]) // replicas
    groups = {}
    refusals = []
    owners = {Placement.TABLES: (0,), Placement.SERVERS: tuple(range(server))}
    for name in (*GROUPED, *([ON_SERVERS] if server else [])):
        placement = placement_of(name)
        ranks = owners.get(placement, ())
        is_whole = placement is Placement.TABLES
        tables = [TablePlan(name, ranks, (width,) if is_whole else ()) for width in model.widths]
        try:
            plan = compose(model, tables, replicas)
        except UsageError as error:
            refusals.append(str(error))
            continue
        with suppress(UsageError):  # it sends nothing that the codecs encode
            plan = coded(plan, model, CodecConfig(codecs.by_buffer, strict=False))
        symbols = {**plan.expects, **symbols}
        groups[name] = (plan, plan.groups[0])
    if not groups:
        raise UsageError(refusals[0])
    of_job = _Scope(symbols, counts_by_table(model, symbols))
    of_block = of_job.block(model, replicas) if replicas > 1 else of_job
    by_choice: dict[Choice, tuple[Load | None, ...]] = {}
    shares: dict[Choice, tuple[Floats, ...]] = {}
    fixed: dict[str, Fixed] = {}
    # A model derives these from its operators each time, which takes long for hundreds of tables.
    splits = _parts(model, n) if replicas == 1 else [1]
    all_columns = sorted({width // parts for width in model.widths for parts in splits})
    floats = {width: floats_of(model, [width]) for width in all_columns}
    widths = model.widths
    for name, (plan, group) in groups.items():
        scope = of_block if group.replicas > 1 else of_job
        rates = _rates(plan, symbols, rate_of)
        fixed[name] = _fixed(plan, group, gpu, rates, graphs)
        if group.placement is Placement.SERVERS:
            whole = (_symbols(group, scope, floats[width], table) for table, width in enumerate(widths))
            of_tables = (_load(plan, group, of_table, gpu, rates) for of_table in whole)
            by_choice[Choice(name, server)] = tuple(replace(load, owned=load.owned / server) for load in of_tables)
            continue
        for parts in splits if group.placement is Placement.TABLES else [1]:
            choice = Choice(name, parts)
            by_choice[choice] = tuple(
                _load(plan, group, _symbols(group, scope, floats[width // parts], table), gpu, rates)
                if parts == 1 or (width % parts == 0 and width // parts >= _LEAST_COLUMNS)
                else None
                for table, width in enumerate(widths)
            )
            if group.placement is Placement.HASH:
                shares[choice] = tuple(hashed_shares(model, scope.symbols, group.busiest_by))
    plan, _ = next(iter(groups.values()))
    held = sum(result_bytes(op, symbols) for op in plan.ops if "." not in op.name)
    dense = _dense(plan, symbols, gpu, _rates(plan, symbols, rate_of), graphs)
    return Loads(n, by_choice, shares, fixed, *dense, gpu.memory - held)


def _rates(plan: Plan, symbols: Mapping[str, float], rate_of: RateOf) -> dict[str, Rate]:
    """The rate of each collective of a plan, near its size with all tables in one strategy."""
    of_job = plan.symbols(symbols)
    return {
        op.name: rate_of(op.collective, op.even_size(of_job), op.participants)
        for op in plan.ops
        if op.collective is not None
    }


def _parts(model: Model, n: int) -> list[int]:
    """The numbers of owners among which the columns of a table may be split."""
    most = min(n, max(model.widths) // _LEAST_COLUMNS) if can_split_columns(model) else 1
    return [2**i for i in range(max(most, 1).bit_length())]


@dataclass(frozen=True, slots=True)
class _Scope:
    """Symbols of all workers, or of those of a block, and each table's part of them.

    `joint` [tables]: the distinct ids of the global batch.
    """

    symbols: Mapping[str, float]
    counts: Mapping[str, Floats]
    joint: Floats | None = None

    def block(self, model: Model, replicas: int) -> _Scope:
        """The scope of one block, where these workers are `replicas` blocks."""
        of_block = block_of(self.symbols, replicas)
        counts = counts_by_table(model, of_block)
        distinct = self.symbols["U"] / self.counts["U"].sum()
        names = symbols_of_blocks(self.symbols, replicas)
        own = {**of_block, **names, "U": float(distinct * counts["U"].sum())}
        return _Scope(own, counts, np.asarray(distinct * self.counts["U"]))


def _symbols(group: TableGroup, scope: _Scope, floats: Mapping[str, Floats], table: int) -> dict[str, float]:
    """The symbols of a scope, with those of a group whose only table is `table`. `floats` [1]: those of a row."""
    names = ("F", "V", "m", "u", "U")
    job = scope.symbols
    counts = scope.counts
    own = {group.symbol(name): job[name] * float(counts[name][table] / counts[name].sum()) for name in names}
    if group.replicas > 1 and scope.joint is not None:
        own[group.symbol("UR")] = float(scope.joint[table])
    means = {group.symbol(name): float(floats[name[0]][0]) for name in ONE_WIDTH if name[1] in names}
    return {**job, **own, **means, **({"L": float(group.server)} if group.server else {})}


def _is_of(op: PlannedOp, group: TableGroup) -> bool:
    """Whether an op of a composed plan belongs to a group of tables, or encodes or decodes for one that does."""
    return (op.part_of or op.name).endswith(f".{group.name}")


def _load(plan: Plan, group: TableGroup, symbols: Mapping[str, float], gpu: Gpu, rates: Mapping[str, Rate]) -> Load:
    """The load of the table that `symbols` describe. `owned` is that of all owners together."""
    n = symbols["N"]
    owned_names = (*group.owned, *(["UR"] if group.replicas > 1 else []))
    owner = {**symbols, **{group.symbol(name): symbols[group.symbol(name)] * n for name in owned_names}}
    everywhere = np.zeros(len(STAGES))
    owned = np.zeros(len(STAGES))
    for op in plan.ops:
        if not _is_of(op, group):
            continue
        is_owned = op.role is not OwnerRole.NONE
        values = owner if is_owned else symbols
        into = owned if is_owned else everywhere
        stage = STAGES.index("input") if op.phase is Phase.INPUT else STAGES.index(_STAGE_OF[op.kind])
        into[stage] += _seconds(op, values, gpu, plan, rates)
        copies = 2 if op.phase is Phase.INPUT else 1  # of this step's ids and of the next one's
        into[MEMORY] += copies * result_bytes(op, values)
    # Rows of tables with named owners count at the owners, all others at every worker.
    placed = group.placement in (Placement.TABLES, Placement.SERVERS)
    rows = group.rows_held.evaluate(owner if placed else symbols)
    row = sum(size.evaluate(symbols) for size in (group.row_bytes, group.state_bytes, INDEX))
    (owned if placed else everywhere)[MEMORY] += rows * row
    return Load(everywhere, owned)


_STAGE_OF = {Kind.COMPUTE: "compute", Kind.COLLECTIVE: "messages"}


def _seconds(op: PlannedOp, symbols: Mapping[str, float], gpu: Gpu, plan: Plan, rates: Mapping[str, Rate]) -> float:
    """Seconds of an op without launches and starts."""
    if op.collective is not None:
        return rates[op.name].per_byte * op.even_size(symbols)
    work = work_of(op, symbols, plan.precision)
    return op_seconds(gpu, replace(work, kernels=0.0))


def _fixed(plan: Plan, group: TableGroup, gpu: Gpu, rates: Mapping[str, Rate], graphs: bool) -> Fixed:
    ops = [op for op in plan.ops if _is_of(op, group)]
    kernels = float(sum(op.kernels for op in ops if op.phase is not Phase.INPUT))
    ahead = [rates[op.name].start for op in ops if op.collective is not None and op.phase is Phase.INPUT]
    beside = [rates[op.name].start for op in ops if op.collective is not None and op.phase is not Phase.INPUT]
    launch = launched(gpu, kernels, 0.0, graphs)
    # The host launches kernels one by one while others run; elsewhere launches and work add up.
    floor = launch if graphs or gpu.kernels is None else kernels * gpu.kernels.floor
    return Fixed(launch, floor, sum(beside), sum(ahead))


def _dense(
    plan: Plan, symbols: Mapping[str, float], gpu: Gpu, rates: Mapping[str, Rate], graphs: bool
) -> tuple[float, float]:
    """Seconds of the dense part's compute, and of the AllReduce of its gradients."""
    compute = sum(
        op_seconds(gpu, work_of(op, symbols, plan.precision), graphs)
        for op in plan.ops
        if "." not in op.name and op.kind is Kind.COMPUTE
    )
    messages = [op for op in plan.collectives if "." not in op.name]
    return compute, sum(rates[op.name].start + rates[op.name].per_byte * op.even_size(symbols) for op in messages)
