"""The best simulated plan, improved one table at a time, by simulation.

The estimate by which the candidates were chosen knows neither overlap nor contention between messages. It is good
enough to tell which changes of a single table are worth simulating.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from dessim.arrays import Ints, significant
from dessim.plan.choose import allowed
from dessim.plan.limits import MAX_TABLES_IN_FULL
from dessim.plan.loads import Choice, Loads
from dessim.plan.place import Placed, place
from dessim.workload.composed import TablePlan

_ROUNDS = 4
_SIMULATED = 6
"""Changes that are simulated in each round."""
_GAIN = 1e-3

Simulate = Callable[[Sequence[Placed]], Mapping[tuple[TablePlan, ...], float]]
"""Simulates plans. Returns the seconds of a step of each that fits the memory, by its tables."""


def refine(
    loads: Loads,
    starts: Mapping[tuple[TablePlan, ...], float],
    strategies: Sequence[str],
    *,
    pinned: Mapping[int, Choice],
    widths: Sequence[int],
    nodes: Ints,
    simulate: Simulate,
) -> None:
    """Simulate changes of the plans `starts`, and of each better plan found. `starts` has the seconds of their steps.

    `simulate` keeps what it simulates. Other arguments are those of `place` and `allowed`.
    """
    if loads.tables > MAX_TABLES_IN_FULL:
        return
    options = allowed(loads, strategies, pinned)
    known = dict(starts)
    for tables, step_s in starts.items():
        _from(
            loads,
            tables,
            step_s,
            options=options,
            widths=widths,
            nodes=nodes,
            simulate=simulate,
            known=known,
        )


def _from(
    loads: Loads,
    tables: Sequence[TablePlan],
    step_s: float,
    *,
    options: Sequence[Sequence[Choice]],
    widths: Sequence[int],
    nodes: Ints,
    simulate: Simulate,
    known: dict[tuple[TablePlan, ...], float],
) -> None:
    """Simulate changes of one plan. `known`: the plans that were simulated; this adds its own."""
    choices = [_choice(loads, number, table) for number, table in enumerate(tables)]
    for _ in range(_ROUNDS):
        changed: dict[tuple[TablePlan, ...], tuple[Placed, list[Choice]]] = {}
        for table, of_table in enumerate(options):
            caches = _caches_near(loads, choices[table])
            for choice in (choice for choice in of_table if choice.cache in caches):
                new = [choice if number == table else kept for number, kept in enumerate(choices)]
                placed = place(loads, new, widths, nodes) if choice != choices[table] else None
                if placed is not None and placed.tables not in known:
                    changed.setdefault(placed.tables, (placed, new))
        best = sorted(changed.values(), key=lambda pair: significant(pair[0].seconds))[:_SIMULATED]
        steps = simulate([placed for placed, _ in best])
        known |= steps
        better = min(steps, key=lambda tables: significant(steps[tables]), default=None)
        if better is None or steps[better] >= step_s * (1 - _GAIN):
            return
        step_s = steps[better]
        choices = changed[better][1]


def _caches_near(loads: Loads, choice: Choice) -> tuple[int, ...]:
    """The caches that a table tries: that of `choice`, none, the next smaller, and the next larger."""
    if not choice.cache:
        return (0,)
    caches = sorted({one.cache for one in loads.by_choice})
    place = caches.index(choice.cache)
    return (0, *caches[place - 1 : place + 2])


def _choice(loads: Loads, number: int, table: TablePlan) -> Choice:
    """The choice that a planned table has."""
    parts = max(len(table.ranks), 1)
    return next(
        choice
        for choice, of_tables in loads.by_choice.items()
        if (choice.strategy, choice.parts) == (table.strategy, parts)
        and (load := of_tables[number]) is not None
        and load.cached_rows == table.cached_rows
    )
