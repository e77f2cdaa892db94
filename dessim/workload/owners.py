"""Owners: the share of the tables that each worker owns, and the symbols of ops whose work follows it.

A plan's formulas take means over workers. Workers do not own equal shares:

    tables placed whole    Field f lives on worker f mod N. With more workers than fields some own nothing, and those
                           that own a table do N/F times the mean work.
    rows spread by hash    The most frequent ids are few, so the worker that happens to own several of them receives
                           more ids than others. Ids are those of the trainer's synthetic data, whose owners are known.

Workers with equal shares form an `Owner`. Under hash placement there are two, the busiest worker and all others at
their mean: a step waits for the busiest, and hardly notices by how much the others differ.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from dessim.arrays import Floats
from dessim.workload.hash_placement import frequent_ids_owners
from dessim.workload.ids import IdBins
from dessim.workload.model import Model
from dessim.workload.plan import OwnerRole, Placement, Plan, PlannedOp
from dessim.workload.symbol_values import counts_by_table, floats_by_table
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
    if n == 1 or plan.placement is Placement.REPLICATED:
        return (Owner(range(n)),)
    if plan.placement is Placement.TABLES:
        return _grouped(_placed_whole(plan, model, symbols), n)
    return _busiest_and_others(_hashed(plan, model, symbols, n), plan.busiest_by, n)


def busiest_server(plan: Plan, model: Model, symbols: Mapping[str, float], servers: int) -> tuple[Owner, Owner]:
    """The busiest of `servers` dedicated servers, server 0 by convention, and all others at their mean.

    Their scale is what one server owns of a message's `u` rows, and of a step's `U` rows, relative to the mean. Servers
    that differ by less than half a per cent count as equal, because equal ones are simulated as one.
    """
    found = sorted(
        _busiest_and_others(_hashed(plan, model, symbols, servers), plan.busiest_by, servers), key=_asked_for
    )
    others, busiest = found[0], found[-1]
    return (busiest, others) if _asked_for(busiest) > _EVEN else (MEAN, MEAN)


def _asked_for(owner: Owner) -> float:
    """The floats that an owner is asked for in a message, relative to the mean."""
    return owner.scale.get("u", 1.0) * owner.scale.get("Wu", 1.0)


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
    return {name: np.bincount(owner, loads, minlength=n) * n / loads.sum() for name, loads in of_field.items()}


def _grouped(scale: Mapping[str, Floats], n: int) -> tuple[Owner, ...]:
    """Workers with equal `scale` [workers] of every symbol as one owner."""
    scale = {name: np.round(values, _DIGITS) for name, values in scale.items()}
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


def _hashed(plan: Plan, model: Model, symbols: Mapping[str, float], n: int) -> dict[str, Floats]:
    """The share of each symbol's value that each of `n` owners has, relative to the mean [n], by hash placement.

    The most frequent ids of each field are assigned one by one; all others are spread evenly.
    """
    workers = int(symbols["N"])
    draws = symbols["B"] * symbols["m"]
    tables = model.law.tables(symbols.get("H", 0.0))
    names = ("m", "u", "U", "x", "X")
    floats = {} if model.tables_have_one_width else floats_by_table(model)
    groups = sorted(set(model.widths))
    means = [name for name in ONE_WIDTH if name[1] in ("m", "u", "U")] if floats else []
    loads = {name: np.zeros(n) for name in (*names, *means)}
    bins: IdBins | None = None
    for number, (part, share, hot_ids) in enumerate(tables):
        if bins is None or part != tables[number - 1][0]:
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
        group = groups.index(model.widths[number]) if floats else None
        owner = frequent_ids_owners(number, bins.single, n, group)
        of_table = {
            name: np.bincount(owner, weight[: bins.single], minlength=n) + weight[bins.single :].sum() / n
            for name, weight in zip(names, weights, strict=True)
        }
        of_table |= {name: of_table[name[1]] * floats[name[0]][number] for name in means}
        for name, load in of_table.items():
            loads[name] += load
    found = {name: load * n / load.sum() for name, load in loads.items() if load.any()}
    found["q"] = np.minimum(found["m"], len(tables) / symbols["q"])
    owned = (*plan.owned, *(name for name in means if name[1] in plan.owned))
    return {name: values for name, values in found.items() if name in owned}
