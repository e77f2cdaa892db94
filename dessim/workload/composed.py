"""Composed plans: groups of tables, each trained by its own strategy, below one dense part.

    table_wise       each table, or some of its columns, on a worker that the plan names
    table_row_wise   each table on a server that the plan names, rows spread by hash over its workers
    row_wise         rows spread by hash, partial pooled vectors summed
    row_all_to_all   rows spread by hash, distinct rows fetched
    data_parallel    rows on every worker

Every worker runs the dense part on its own B/N samples, as these strategies do. Each group has the ops of its
strategy, `pooled.table_wise` for `pooled`, with the sizes of its tables: symbols of a group end in its name (`F` is
`F_table_wise`). `dense_forward` waits for the vectors of all groups, and `dense_backward` starts the backward of all.

A stream runs its ops in order. Ops that wait for no message of their phase therefore come first, those that wait for
one come next, and so on: while a message travels, another group computes. With one group the order is that of the
strategy alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

from dessim.errors import UsageError
from dessim.trace.schema import Kind, Phase
from dessim.workload.formula import renamed
from dessim.workload.model import Model
from dessim.workload.options import Options
from dessim.workload.plan import Placement, Plan, PlannedOp, Shard, TableGroup
from dessim.workload.replicas import OF_BLOCK, block_of, check, in_blocks, symbols_of_blocks
from dessim.workload.spilt import by_worker, names_of, with_copies
from dessim.workload.spilt import check as check_spilt
from dessim.workload.strategies import STRATEGIES
from dessim.workload.strategies.data_parallel import DATA_PARALLEL
from dessim.workload.strategies.row_all_to_all import ROW_ALL_TO_ALL
from dessim.workload.strategies.sharded import ROW_WISE, TABLE_WISE
from dessim.workload.strategies.table_row_wise import TABLE_ROW_WISE
from dessim.workload.symbol_values import counts_by_table, floats_of
from dessim.workload.symbols import ONE_WIDTH

_SPECS = {spec.name: spec for spec in (TABLE_WISE, TABLE_ROW_WISE, ROW_WISE, ROW_ALL_TO_ALL, DATA_PARALLEL)}
"""The strategies that groups of tables may have, in the order of their ops."""
GROUPED = tuple(name for name in _SPECS if name in STRATEGIES)
"""Those that whole models may have too."""
ON_SERVERS = TABLE_ROW_WISE.name
COLUMN_WISE = "column_wise"
"""The name by which users choose table_wise with several owners of a table's columns."""
SPILT = "spilt"
"""The word for tables with rows in the host's memory, in names of plans and in what users leave out."""
_COUNTS = ("F", "V", "m", "u", "U")
_MEANS = tuple(name for name in ONE_WIDTH if name[1] in _COUNTS)
_SPLIT_MEANS = (
    "rowwise_adagrad takes a row's mean over each owner's columns, as in TorchRec, so how columns are split changes "
    "what is trained"
)
_DENSE = ("dense_forward", "dense_backward", "dense_grad", "update_dense")


@dataclass(frozen=True, slots=True)
class TablePlan:
    """How a composed plan trains one table.

    `strategy`: one of GROUPED, or ON_SERVERS. `ranks`, `columns`: with table_wise its owners, and the columns of each.
    With table_row_wise `ranks` are the workers of its server, which have consecutive numbers. `cached_rows`: of its
    rows, which are in the host's memory, those that each owner's GPU caches (dessim.workload.spilt); 0: all rows are on
    GPUs.
    """

    strategy: str
    ranks: tuple[int, ...] = ()
    columns: tuple[int, ...] = ()
    cached_rows: int = 0

    @property
    def family(self) -> str:
        """The name by which users choose it: column_wise with several owners."""
        return COLUMN_WISE if self.is_split else self.strategy

    @property
    def placement(self) -> Placement:
        """Where its rows are."""
        return placement_of(self.strategy)

    @property
    def is_split(self) -> bool:
        """Whether its columns have several owners."""
        return len(self.columns) > 1


def placement_of(strategy: str) -> Placement:
    """Where a strategy keeps the rows of its tables: one of GROUPED, or ON_SERVERS."""
    placement = _SPECS[strategy].table_placement
    assert placement is not None, f"{strategy} trains whole models only"
    return placement


def tables_of_strategy(strategy: str, model: Model, workers: int) -> tuple[TablePlan, ...]:
    """The tables of one of GROUPED that trains the whole model; under table_wise table f is on worker f mod N."""
    if placement_of(strategy) is not Placement.TABLES:
        return (TablePlan(strategy),) * model.input.fields
    return tuple(TablePlan(strategy, (f % workers,), (width,)) for f, width in enumerate(model.widths))


def owners_of_rows(table: TablePlan, workers: int) -> int:
    """The number of workers over which the rows of a table are spread."""
    return 1 if table.columns else len(table.ranks) or workers


def can_split_columns(model: Model) -> bool:
    """Whether the columns of a table may have several owners: its rows are embeddings alone, and so are its bags."""
    return set(model.row_widths) == {"v"} and model.bag_floats == 0


def compose(model: Model, tables: Sequence[TablePlan], replicas: int = 1) -> Plan:
    """The plan of a step whose table i is trained as `tables[i]` says. Raises UsageError where a strategy cannot.

    With `replicas` the ranks of tables are those of a block of workers (dessim.workload.replicas).
    """
    assert len(tables) == model.input.fields, f"{len(tables)} tables planned, {model.name} has {model.input.fields}"
    shards: dict[str, list[Shard]] = {name: [] for name in _SPECS}
    check(replicas, [table.placement for table in tables], any(table.is_split for table in tables))
    check_spilt([table.strategy for table in tables if table.cached_rows], replicas)
    servers = {len(table.ranks) for table in tables if table.placement is Placement.SERVERS}
    assert len(servers) <= 1, "servers have equally many workers"
    server = max(servers, default=0)
    for number, (table, width) in enumerate(zip(tables, model.widths, strict=True)):
        if table.placement is Placement.TABLES:
            parts = zip(table.columns, table.ranks, accumulate(table.columns), strict=True)
            cached = table.cached_rows
            shards[table.strategy] += [
                Shard(number, columns, rank, end - columns, cached) for columns, rank, end in parts
            ]
        else:
            owner = table.ranks[0] if table.ranks else None
            shards[table.strategy].append(Shard(number, width, owner, cached_rows=table.cached_rows))
    plans = {name: _built(name, model) for name in _SPECS if shards[name]}
    groups = tuple(_group(name, plan, tuple(shards[name]), server, replicas) for name, plan in plans.items())
    named = {group.name: _renamed_ops(group, plans[group.name].ops) for group in groups}
    takes_means = model.row_optimizer.column_floats > 0
    return Plan(
        describe(tables, replicas),
        tuple(_ordered(model, plans, named)),
        caveat=_SPLIT_MEANS if takes_means and any(table.is_split for table in tables) else "",
        placement=Placement.REPLICATED,
        groups=groups,
        own_symbols=_group_symbols(model, groups, replicas),
        precision=model.precision.dense,
    )


def describe(tables: Sequence[TablePlan], replicas: int = 1) -> str:
    """The name of a composed plan: its strategies, how many tables each has, how many of all are spilt, and its
    replicas if it has several."""
    counts = dict.fromkeys((TABLE_WISE.name, COLUMN_WISE, *_SPECS), 0)
    for table in tables:
        counts[table.family] += 1
    parts = [f"{count} {name}" for name, count in counts.items() if count]
    spilt = sum(table.cached_rows > 0 for table in tables)
    parts += [f"{spilt} {SPILT}"] if spilt else []
    return ", ".join([*parts, *([f"{replicas} replicas"] if replicas > 1 else [])])


def _built(name: str, model: Model) -> Plan:
    """A strategy's plan whose formulas name means over tables even where all have one width: a group has its own means.

    Raises UsageError where the strategy cannot train the model.
    """
    spec = _SPECS[name]
    reason = spec.refuses(model, Options())
    if reason:
        raise UsageError(f"{name} {reason}")
    return spec.build(model, Options())


def _group(name: str, plan: Plan, shards: tuple[Shard, ...], server: int, replicas: int) -> TableGroup:
    replicas = 1 if plan.placement is Placement.REPLICATED else replicas
    names = _names(name, replicas)
    return TableGroup(
        name,
        shards,
        placement=plan.placement,
        owned=tuple(symbol for symbol in plan.owned if symbol in _COUNTS),
        busiest_by=plan.busiest_by,
        rows_held=plan.rows_held.renamed(names),
        row_bytes=plan.row_bytes.renamed(names),
        state_bytes=plan.state_bytes.renamed(names),
        server=server if plan.placement is Placement.SERVERS else 0,
        replicas=replicas,
    )


def _names(group: str, replicas: int) -> dict[str, str]:
    """The names that symbols have in a group."""
    own = {symbol: f"{symbol}_{group}" for symbol in (*_COUNTS, *_MEANS)} | names_of(group)
    return own | OF_BLOCK if replicas > 1 else own


def _renamed_ops(group: TableGroup, ops: Iterable[PlannedOp]) -> list[PlannedOp]:
    """The ops of a group without those of the dense part, under the group's names."""
    symbols = _names(group.name, group.replicas)
    own = [
        replace(
            renamed(op, symbols),
            name=f"{op.name}.{group.name}",
            deps=tuple(dep if dep in _DENSE else f"{dep}.{group.name}" for dep in op.deps),
        )
        for op in ops
        if op.name not in _DENSE
    ]
    if group.is_spilt:
        return with_copies(own, group, symbols)
    return in_blocks(own, group) if group.replicas > 1 else own


def _ordered(model: Model, plans: Mapping[str, Plan], groups: Mapping[str, Sequence[PlannedOp]]) -> list[PlannedOp]:
    """The ops of all groups and of the dense part, in issue order."""
    one_width = ONE_WIDTH if model.tables_have_one_width else {}
    dense = {
        name: replace(
            renamed(next(iter(plans.values())).op(name), one_width),
            deps=tuple(
                dict.fromkeys(
                    dep if dep in _DENSE else f"{dep}.{group}"
                    for group, plan in plans.items()
                    for dep in plan.op(name).deps
                )
            ),
        )
        for name in _DENSE
    }
    dense["update_dense"] = replace(dense["update_dense"], deps=_last(dense["update_dense"].deps, "dense_grad"))
    ops = [op for found in groups.values() for op in found]
    after = _messages_before(ops)
    # Gradients of pooled vectors need no further compute, so they are sent before those of replicated weights.
    returned = [op for op in ops if op.kind is Kind.COLLECTIVE and op.deps == ("dense_backward",)]

    def of(phase: Phase) -> list[PlannedOp]:
        of_phase = [op for op in ops if op.phase is phase and op not in returned]
        return sorted(of_phase, key=lambda op: after[op.name])

    return [
        *of(Phase.INPUT),
        *of(Phase.FORWARD),
        *(dense["dense_forward"], dense["dense_backward"]),
        *(*returned, dense["dense_grad"]),
        *of(Phase.BACKWARD),
        *of(Phase.OPTIMIZER),
        dense["update_dense"],
    ]


def _last(deps: tuple[str, ...], name: str) -> tuple[str, ...]:
    """`deps` with `name` as the last."""
    return (*(dep for dep in deps if dep != name), name)


def _messages_before(ops: Iterable[PlannedOp]) -> dict[str, int]:
    """For each op the number of collectives of its phase that finish before it starts, on the longest chain."""
    by_name: dict[str, PlannedOp] = {}
    after: dict[str, int] = {}
    for op in ops:
        by_name[op.name] = op
        waits = [
            after[dep] + (by_name[dep].kind is Kind.COLLECTIVE)
            for dep in op.deps
            if dep in by_name and by_name[dep].phase is op.phase
        ]
        after[op.name] = max(waits, default=0)
    return after


def _group_symbols(
    model: Model, groups: Sequence[TableGroup], replicas: int
) -> Callable[[Mapping[str, float]], dict[str, float]]:
    """A function from a job's symbols to those of the groups.

    A group has its tables' part of each count: of the rows, the ids, and the distinct ids that the job has.
    """

    def symbols_of(job: Mapping[str, float]) -> dict[str, float]:
        of_job = counts_by_table(model, job)
        of_block = counts_by_table(model, block_of(job, replicas)) if replicas > 1 else of_job
        of_groups = symbols_of_blocks(job, replicas) if replicas > 1 else {}
        for group in groups:
            counts = of_block if group.replicas > 1 else of_job
            if group.server:
                of_groups["L"] = float(group.server)
            tables = [shard.table for shard in group.shards]
            floats = floats_of(model, [shard.columns for shard in group.shards])
            for name in _COUNTS:
                of_groups[group.symbol(name)] = job[name] * float(counts[name][tables].sum() / of_job[name].sum())
            if group.replicas > 1:
                of_groups[group.symbol("UR")] = job["U"] * float(of_job["U"][tables].sum() / of_job["U"].sum())
            for name in _MEANS:
                of_shard = counts[name[1]][tables]
                of_groups[group.symbol(name)] = float((of_shard * floats[name[0]]).sum() / of_shard.sum())
            if group.is_spilt:
                spilt = by_worker(group, model, job)
                of_groups |= {group.symbol(name): float(values.mean()) for name, values in spilt.items()}
        return of_groups

    return symbols_of
