"""Rows that travel: different ones are fetched from their owners and their gradients returned, by AllToAll.

Rows are spread by hash. Each worker asks for the different rows of its B/N samples and pools them itself. (DES.md's row
AllToAll sends every id; here each different one once, as rows are.)

With `hot_rows` the H most frequent rows are on every worker, and nobody asks for them. Ahead of the step an AllReduce
of a byte each says which of them the global batch has, U - X; another one adds up the gradients of these, and every
worker updates them alike. So of the bytes of a worker

    2 (N-1)/N u W s + (N-1)/N u k    becomes    2 (N-1)/N (x W s + (U - X) W s + H) + (N-1)/N x k

A row that every worker needs costs as much either way but for its id: to fetch a row and to return its gradient is what
a ReduceScatter and an AllGather of it send. A hot row that one worker in two needs costs twice.

With `look_ahead` more of the x rows are a worker's own: 1 - l takes the place of (N-1)/N, and x is smaller, because
fewer workers need the same row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from dessim.trace.schema import Collective, Phase
from dessim.workload.ids import ZipfLaw
from dessim.workload.model import Model
from dessim.workload.options import Expected, Options
from dessim.workload.plan import Plan, PlannedOp, Traffic, collective, compute
from dessim.workload.strategies.parts import (
    dense_grad,
    dense_part,
    dense_weights,
    keys_to_owners,
    lookup_asked,
    pool_own,
    scatter_own,
    sum_asked,
    update_dense,
    update_rows,
)

LOOKS_AHEAD = "every worker reads the whole global batch, to deal out its samples; that time is not counted"


def row_all_to_all(model: Model, options: Options = Options()) -> Plan:  # noqa: B008 -- frozen
    """Plan of fetching unique rows: the worker pools them itself."""
    asked, rows = asked_rows(options)
    a2a, stays = Collective.ALL_TO_ALL, stays_of(options)
    plan = Plan(
        "row_all_to_all",
        (
            *keys_to_owners("ids", asked, stays),
            *hot_seen(options),
            lookup_asked("ids", asked, rows),
            collective("rows", Phase.FORWARD, a2a, Traffic.SPARSE, f"{asked}*W*s", "lookup", stays=stays),
            *hot_lookup(options),
            pool_own("rows", *(op.name for op in hot_lookup(options))),
            *dense_part(model, "(B/N)", "pool"),
            dense_grad(model),
            scatter_own(),
            *hot_grad(options),
            collective("rows_grad", Phase.BACKWARD, a2a, Traffic.SPARSE, f"{asked}*W*s", "scatter_grad", stays=stays),
            sum_asked("rows_grad", asked=asked, rows=rows),
            updated(model, options),
            update_dense(dense_weights(model), "update_rows", "dense_grad"),
        ),
    )
    return with_options(plan, model, options)


def asked_rows(options: Options) -> tuple[str, str]:
    """Keys that a worker asks for, and different rows that an owner is asked for."""
    return ("x", "X/N") if options else ("u", "U/N")


def stays_of(options: Options) -> str:
    """The share of a worker's keys that it owns itself."""
    return "l" if options.look_ahead else "1/N"


def hot_seen(options: Options) -> Sequence[PlannedOp]:
    """Which hot rows the global batch has: a byte each."""
    if not options.hot_rows:
        return ()
    return (collective("hot_seen", Phase.INPUT, Collective.ALL_REDUCE, Traffic.IDS, "H", "split_ids"),)


def hot_lookup(options: Options) -> Sequence[PlannedOp]:
    """Hot rows of a worker's own samples, which it finds in its own table."""
    if not options.hot_rows:
        return ()
    mem, kept = "(u - x)*2*(k + W*s)", "(u - x)*W*s"
    return (compute("hot_lookup", Phase.FORWARD, "split_ids", mem=mem, kernels=12, keeps=kept, rows="u - x"),)


def hot_grad(options: Options) -> Sequence[PlannedOp]:
    """Gradients of the hot rows that the batch has."""
    if not options.hot_rows:
        return ()
    size, deps = "(U - X)*W*s", ("scatter_grad", "hot_seen")
    return (collective("hot_grad", Phase.BACKWARD, Collective.ALL_REDUCE, Traffic.SPARSE, size, *deps),)


def updated(model: Model, options: Options) -> PlannedOp:
    """An owner's rows, and with hot ones those of the batch."""
    rows = "X/N + (U - X)" if options else "U/N"
    return update_rows(model, rows, "sum_grad", *(op.name for op in hot_grad(options)))


def with_options(plan: Plan, model: Model, options: Options) -> Plan:
    """The plan under its full name, with the options' symbols."""
    if not options:
        return plan
    return replace(
        plan,
        strategy=plan.strategy + str(options),
        caveat="; ".join(filter(None, (plan.caveat, LOOKS_AHEAD if options.look_ahead else ""))),
        rows_held="V/N + H" if options.hot_rows else plan.rows_held,
        own_symbols=Expected(options, ZipfLaw(model.input.vocabulary, model.input.skew)),
    )
