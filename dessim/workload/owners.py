"""Owners: the share of the tables that each worker owns, and the symbols of ops whose work follows it.

A plan's formulas take means over workers. Workers do not own equal shares:

    tables placed whole    Field f lives on worker f mod N. With more workers than fields some own nothing, and those
                           that own a table do N/F times the mean work.
    rows spread by hash    The most frequent ids are few, so the worker that happens to own several of them receives
                           more ids than others. Ids are those of the trainer's synthetic data, whose owners are known.

    groups of tables       A composed plan has some of both, and tables whose rows are spread by hash over the workers
                           of one server. Symbols of a group end in its name.

Workers with equal shares form an `Owner`. Under hash placement there are two, the busiest worker and all others at
their mean: a step waits for the busiest, and hardly notices by how much the others differ.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np

from dessim.arrays import Floats, Ints
from dessim.workload.hash_placement import frequent_ids_owners
from dessim.workload.ids import ZipfLaw
from dessim.workload.model import Model
from dessim.workload.plan import OwnerRole, Placement, Plan, PlannedOp, TableGroup
from dessim.workload.replicas import block_of
from dessim.workload.spilt import by_worker
from dessim.workload.symbol_values import counts_by_table, floats_by_table, floats_of
from dessim.workload.symbols import ONE_WIDTH

_DIGITS = 11
"""Decimals of a share. The last bits of sums differ between processors, and no step may depend on them."""


_EVEN = 1.005
"""Up to this share of the mean, the load of the busiest dedicated server counts as equal to that of all others."""


@dataclass(frozen=True, slots=True)
class Owner:
    """Workers `ranks`, which own equal shares. `scale` is what they own of a symbol's value, relative to the mean."""

    ranks: Sequence[int]
    scale: Mapping[str, float] = field(default_factory=dict)

    def symbols(self, job: Mapping[str, float], role: OwnerRole = OwnerRole.WORKS) -> dict[str, float]:
        """A job's symbols as they would be if every worker owned as much as these; for ops without a role, the job's.

        Rows that every worker holds (hot rows: u - x and U - X) do not scale.
        """
        values = dict(job)
        if role is OwnerRole.NONE:
            return values
        for name, factor in self.scale.items():
            if name in values:
                values[name] *= factor
        for name, cold in (("u", "x"), ("U", "X")):
            if cold in values:
                values[name] = job[name] - job[cold] + values[cold]
        return values


MEAN = Owner(())
"""Every worker, if all owned equal shares."""


def owners_of(plan: Plan, model: Model, symbols: Mapping[str, float]) -> tuple[Owner, ...]:
    """The owners of a job of `plan`, which partition its workers, in the order of their first rank."""
    n = int(symbols["N"])
    if n == 1 or (plan.placement is Placement.REPLICATED and not plan.groups):
        return (Owner(range(n)),)
    if plan.groups:
        return _grouped(_of_groups(plan, model, symbols, n), n)
    if plan.placement is Placement.TABLES:
        return _grouped(_placed_whole(plan, model, symbols), n)
    return _busiest_and_others(_hashed(plan.owned, model, symbols, n), plan.busiest_by, n)


def busiest_server(plan: Plan, model: Model, symbols: Mapping[str, float], servers: int) -> tuple[Owner, Owner]:
    """The busiest of `servers` dedicated servers, server 0 by convention, and all others at their mean.

    Their scale is what one server owns of a message's `u` rows, and of a step's `U` rows, relative to the mean. Servers
    that differ by less than half a per cent count as equal, because equal ones are simulated as one.
    """
    by_load = sorted(
        _busiest_and_others(_hashed(plan.owned, model, symbols, servers), plan.busiest_by, servers), key=_asked_for
    )
    others = by_load[0]
    busiest = by_load[-1]
    return (busiest, others) if _asked_for(busiest) > _EVEN else (MEAN, MEAN)


def _asked_for(owner: Owner) -> float:
    """The floats that an owner is asked for in a message, relative to the mean."""
    return owner.scale.get("u", 1.0) * owner.scale.get("Wu", 1.0)


def hashed_shares(model: Model, symbols: Mapping[str, float], by: str) -> list[Floats]:
    """The share of symbol `by` (m, u, U) of each table that each worker owns by hash placement [workers]."""
    n = int(symbols["N"])
    draws = symbols["B"] * symbols["m"]
    widths = model.widths
    groups = sorted(set(widths))
    shares = []
    for number, (part, share, hot_ids) in enumerate(model.law.tables()):
        group = groups.index(widths[number]) if len(groups) > 1 else None
        of_names = _hashed_table(part, share, hot_ids, draws=draws, workers=n, n=n, number=number, group=group)
        values = of_names[_HASHED.index(by)]
        shares.append(values / values.sum())
    return shares


def sizes_of(op: PlannedOp, symbols: Mapping[str, float], owners: Sequence[Owner]) -> list[float]:
    """S [bytes] of a collective for each owner; that of the largest share for all of them where shares are padded."""
    sizes = [op.even_size(owner.symbols(symbols, op.role)) for owner in owners]
    return [max(sizes)] * len(sizes) if op.role is OwnerRole.PADS else sizes


def by_rank(owners: Sequence[Owner], values: Sequence[float]) -> Floats:
    """The values of owners, one for each of their workers [workers]."""
    spread = np.zeros(sum(len(owner.ranks) for owner in owners))
    for owner, value in zip(owners, values, strict=True):
        spread[np.asarray(owner.ranks, dtype=np.int64)] = value
    return spread


def _placed_whole(plan: Plan, model: Model, symbols: Mapping[str, float]) -> dict[str, Floats]:
    """The share of each symbol's value that each worker owns, relative to the mean [workers], by whole tables."""
    n = int(symbols["N"])
    owner = np.arange(model.input.fields) % n
    counts = counts_by_table(model, symbols)
    of_field = {name: counts[name] for name in plan.owned}
    if not model.tables_have_one_width:
        floats = floats_by_table(model)
        of_field |= {name: counts[name[1]] * floats[name[0]] for name in ONE_WIDTH if name[1] in plan.owned}
    return _at_owners(owner, of_field, n)


def _at_owners(owner: Sequence[int] | Ints, loads: Mapping[str, Floats], n: int) -> dict[str, Floats]:
    """The share of the sum of `loads` [shards] that each of `n` workers owns, relative to the mean [n]."""
    return {
        name: np.round(np.bincount(owner, load, minlength=n) * n / load.sum(), _DIGITS) for name, load in loads.items()
    }


def _of_groups(plan: Plan, model: Model, symbols: Mapping[str, float], n: int) -> dict[str, Floats]:
    """The share of each symbol's value that each worker owns, relative to the mean [n], in a composed plan."""
    scale: dict[str, Floats] = {}
    of_job = symbols
    workers = n
    for group in plan.groups:
        symbols = block_of(of_job, group.replicas)
        n = workers // group.replicas
        if group.placement is Placement.TABLES:
            shares = _placed_shards(group, model, symbols, n)
        elif group.placement is Placement.SERVERS:
            shares = _on_servers(group, model, symbols, n)
        elif group.placement is Placement.HASH:
            tables = [shard.table for shard in group.shards]
            owners = _busiest_and_others(_hashed(group.owned, model, symbols, n, tables), group.busiest_by, n)
            names = owners[0].scale
            shares = {name: by_rank(owners, [owner.scale[name] for owner in owners]) for name in names}
        else:
            continue
        shares = {group.symbol(name): np.tile(values, group.replicas) for name, values in shares.items()}
        if group.is_spilt:
            shares |= {group.symbol(name): _relative(v) for name, v in by_worker(group, model, of_job).items()}
        if group.replicas > 1:
            shares[group.symbol("UR")] = shares[group.symbol("U")]
        scale |= shares
    return scale


def _relative(values: Floats) -> Floats:
    """`values` [workers] relative to their mean; 1 where all are 0."""
    return np.round(values * len(values) / values.sum(), _DIGITS) if values.any() else np.ones(len(values))


def _placed_shards(group: TableGroup, model: Model, symbols: Mapping[str, float], n: int) -> dict[str, Floats]:
    """The share of a group's values that each worker owns, relative to the mean [n], by the owners of its shards."""
    tables = [shard.table for shard in group.shards]
    floats = floats_of(model, [shard.columns for shard in group.shards])
    counts = {name: values[tables] for name, values in counts_by_table(model, symbols).items() if name in group.owned}
    of_shard = counts | {name: counts[name[1]] * floats[name[0]] for name in ONE_WIDTH if name[1] in counts}
    owner = [shard.owner for shard in group.shards if shard.owner is not None]
    return _means_by_worker(_at_owners(owner, of_shard, n), n)


def _on_servers(group: TableGroup, model: Model, symbols: Mapping[str, float], n: int) -> dict[str, Floats]:
    """The share of a group's values that each worker owns, relative to the mean [n], where a table's rows are spread by
    hash over the workers of its server."""
    draws = symbols["B"] * symbols["m"]
    tables = model.law.tables()
    widths = model.widths
    floats = floats_of(model, widths)
    distinct = sorted(set(widths))
    loads = {name: np.zeros(n) for name in (*group.owned, *(mean for mean in ONE_WIDTH if mean[1] in group.owned))}
    for shard in group.shards:
        assert shard.owner is not None
        part, share, hot_ids = tables[shard.table]
        width = distinct.index(widths[shard.table]) if len(distinct) > 1 else None
        of_names = _hashed_table(
            part, share, hot_ids, draws=draws, workers=n, n=group.server, number=shard.table, group=width
        )
        of_table = dict(zip(_HASHED, of_names, strict=True))
        of_table |= {"F": np.ones(group.server), "V": np.full(group.server, part.vocabulary / group.server)}
        workers = slice(shard.owner, shard.owner + group.server)
        for name, load in loads.items():
            own = of_table[name] if name in of_table else of_table[name[1]] * floats[name[0]][shard.table]
            load[workers] += own
    relative = {name: np.round(load * n / load.sum(), _DIGITS) for name, load in loads.items()}
    return _means_by_worker(relative, n)


def _means_by_worker(shares: Mapping[str, Floats], n: int) -> dict[str, Floats]:
    """`shares` [n] by symbol, those of means over tables by `_with_means`."""
    by_worker = [_with_means({name: values[rank] for name, values in shares.items()}) for rank in range(n)]
    return {name: np.array([scale[name] for scale in by_worker]) for name in shares}


def _grouped(scale: Mapping[str, Floats], n: int) -> tuple[Owner, ...]:
    """Workers with equal `scale` [workers] of every symbol as one owner."""
    groups: dict[tuple[float, ...], list[int]] = {}
    for rank in range(n):
        groups.setdefault(tuple(float(values[rank]) for values in scale.values()), []).append(rank)
    return tuple(Owner(tuple(ranks), _with_means(dict(zip(scale, key, strict=True)))) for key, ranks in groups.items())


def _busiest_and_others(scale: Mapping[str, Floats], by: str, n: int) -> tuple[Owner, ...]:
    """The worker with the largest `scale` [workers] of symbol `by`, and the mean of all others."""
    busiest = int(np.argmax(scale.get(f"W{by}", scale[by])))
    largest = {name: round(float(values[busiest]), _DIGITS) for name, values in scale.items()}
    if all(value == 1 for value in largest.values()):
        return (Owner(range(n)),)
    others = {name: (n - value) / (n - 1) for name, value in largest.items()}
    rest = Owner(tuple(rank for rank in range(n) if rank != busiest), _with_means(others))
    both = (Owner((busiest,), _with_means(largest)), rest)
    return both if busiest == 0 else both[::-1]


def _with_means(scale: Mapping[str, float]) -> dict[str, float]:
    """The scale of an owner, whose means over tables (such as Wu) stand as the floats they are of (u*Wu) before."""
    return {
        name: (factor / scale[name[1]] if scale[name[1]] else 1.0) if name in ONE_WIDTH else factor
        for name, factor in scale.items()
    }


def _hashed(
    owned: Sequence[str], model: Model, symbols: Mapping[str, float], n: int, of: Sequence[int] | None = None
) -> dict[str, Floats]:
    """The share of each `owned` symbol that each of `n` owners has by hash placement, relative to the mean [n].

    `of`: the tables, all by default. The most frequent ids of each are assigned one by one; all others are spread
    evenly.
    """
    workers = int(symbols["N"])
    draws = symbols["B"] * symbols["m"]
    tables = model.law.tables(symbols.get("H", 0.0))
    floats = {} if model.tables_have_one_width else floats_by_table(model)
    widths = model.widths
    groups = sorted(set(widths))
    means = [name for name in ONE_WIDTH if name[1] in ("m", "u", "U")] if floats else []
    loads = {name: np.zeros(n) for name in (*_HASHED, *means)}
    for number in range(len(tables)) if of is None else of:
        part, share, hot_ids = tables[number]
        group = groups.index(widths[number]) if floats else None
        of_names = _hashed_table(part, share, hot_ids, draws=draws, workers=workers, n=n, number=number, group=group)
        of_table = dict(zip(_HASHED, of_names, strict=True))
        of_table |= {name: of_table[name[1]] * floats[name[0]][number] for name in means}
        for name, load in of_table.items():
            loads[name] += load
    relative = {name: load * n / load.sum() for name, load in loads.items() if load.any()}
    relative["q"] = np.minimum(relative["m"], len(tables) / symbols["q"])
    kept = (*owned, *(name for name in means if name[1] in owned))
    return {name: values for name, values in relative.items() if name in kept}


_HASHED = ("m", "u", "U", "x", "X")


# Candidate plans of a job hash the same tables.
@lru_cache(maxsize=512)  # 0.6 MB each for 16,384 owners
def _hashed_table(
    part: ZipfLaw,
    share: float,
    hot_ids: float,
    *,
    draws: float,
    workers: int,
    n: int,
    number: int,
    group: int | None,
) -> tuple[Floats, ...]:
    """The `_HASHED` symbols' values of table `number` on each of `n` owners [n]."""
    bins = part.bins
    one_worker = bins.expected_present(draws * share / workers)
    all_workers = bins.expected_present(draws * share)
    cold = bins.beyond(hot_ids)
    weights = (
        share * bins.p * bins.ids,
        one_worker * bins.ids,
        all_workers * bins.ids,
        one_worker * cold,
        all_workers * cold,
    )
    owner = frequent_ids_owners(number, bins.single, n, group)
    loads = tuple(
        np.bincount(owner, weight[: bins.single], minlength=n) + weight[bins.single :].sum() / n for weight in weights
    )
    for load in loads:
        load.flags.writeable = False  # all callers share it
    return loads
