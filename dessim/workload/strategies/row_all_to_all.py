"""Row AllToAll: workers fetch distinct rows from their owners and return their gradients, both by AllToAll.

Rows are spread by hash. Each worker requests the distinct rows of its B/N samples and pools them itself. (DES.md's row
AllToAll sends every id; here each id is sent once, like its row.)

With `hot_rows` every worker holds the H most frequent rows and requests none of them. Before the step an AllReduce of
one byte a hot row determines which of them occur in the global batch, U - X of them. A second one sums their gradients,
and every worker applies the same update. The bytes that a worker sends change as follows:

    2 (N-1)/N u W s + (N-1)/N u k    becomes    2 (N-1)/N (x W s + (U - X) W s + H) + (N-1)/N x k

A row that every worker needs costs the same either way except for its id: fetching a row and returning its gradient
sends what a ReduceScatter and an AllGather of it would. A hot row that half of the workers need costs twice as much.

With `look_ahead` a worker owns more of the x rows that it needs: 1 - l replaces (N-1)/N. Also x is smaller, because
fewer workers need the same row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from dessim.trace.schema import Collective, Phase
from dessim.workload.formula import Formula, group
from dessim.workload.model import Model
from dessim.workload.options import Expected, Options
from dessim.workload.plan import OwnerRole, Placement, Plan, PlannedOp, Traffic, collective
from dessim.workload.strategies.parts import (
    dense_grad,
    dense_part,
    dense_weights,
    keys_to_owners,
    lookup_own,
    lookup_requested,
    pool_local,
    scatter_local,
    sum_requested,
    update_dense,
    update_rows,
)
from dessim.workload.strategies.spec import StrategySpec
from dessim.workload.symbols import EVEN_SHARE, LOCAL_SAMPLES, H, N, U, V, W, Wu, X, l, s, u, x

LOOKS_AHEAD = "every worker reads the whole global batch, to deal out its samples; that time is not counted"


def row_all_to_all(model: Model, options: Options) -> Plan:
    """Plan of fetching distinct rows by AllToAll."""
    requested, rows = requested_rows(options)
    plan = Plan(
        "row_all_to_all",
        (
            *keys_to_owners("ids", requested, local_share_of(options)),
            *hot_seen(options),
            lookup_requested("ids", requested, rows),
            rows_message("rows", Phase.FORWARD, options, "lookup"),
            *hot_lookup(options),
            pool_local("rows", *(op.name for op in hot_lookup(options))),
            *dense_part(model, LOCAL_SAMPLES, "pool"),
            dense_grad(model),
            scatter_local(),
            *hot_grad(options),
            rows_message("rows_grad", Phase.BACKWARD, options, "scatter_grad"),
            sum_requested("rows_grad", requested=requested, rows=rows),
            update_owned_and_hot(model, options),
            update_dense(dense_weights(model), "update_rows", "dense_grad"),
        ),
        busiest_by=busiest_by(options),
    )
    return with_options(plan, model, options)


def requested_rows(options: Options) -> tuple[Formula, Formula]:
    """Keys that a worker requests, and distinct rows that an owner is asked for."""
    return (x, X / N) if options else (u, U / N)


def busiest_by(options: Options) -> str:
    """The symbol of the rows that owners are asked for, whose largest value makes a worker the busiest."""
    return "x" if options else "u"


def local_share_of(options: Options) -> Formula:
    """The share of the requested rows that a worker owns itself."""
    return l if options.look_ahead else EVEN_SHARE


def rows_message(name: str, phase: Phase, options: Options, dep: str) -> PlannedOp:
    """The requested rows, or their gradients, between workers and owners."""
    requested, _ = requested_rows(options)
    return collective(
        name,
        phase,
        Collective.ALL_TO_ALL,
        Traffic.SPARSE,
        requested * Wu * s,
        dep,
        rows=requested,
        width=Wu,
        local_share=local_share_of(options),
        role=OwnerRole.SENDS if phase is Phase.FORWARD else OwnerRole.RECEIVES,
    )


def hot_seen(options: Options) -> Sequence[PlannedOp]:
    """Which hot rows occur in the global batch: one byte each."""
    if not options.hot_rows:
        return ()
    return (collective("hot_seen", Phase.INPUT, Collective.ALL_REDUCE, Traffic.IDS, H, "split_ids"),)


def hot_lookup(options: Options) -> Sequence[PlannedOp]:
    """The hot rows of a worker's own samples, which it finds in its own table."""
    if not options.hot_rows:
        return ()
    return (lookup_own("hot_lookup", u - x),)


def hot_grad(options: Options) -> Sequence[PlannedOp]:
    """The AllReduce of the gradients of the hot rows that occur in the batch."""
    if not options.hot_rows:
        return ()
    size = (U - X) * W * s
    deps = ("scatter_grad", "hot_seen")
    return (collective("hot_grad", Phase.BACKWARD, Collective.ALL_REDUCE, Traffic.SPARSE, size, *deps),)


def update_owned_and_hot(model: Model, options: Options) -> PlannedOp:
    """The optimizer on the rows that a worker owns, and on the hot rows of the batch."""
    rows = X / N + group(U - X) if options else U / N
    return update_rows(model, rows, "sum_grad", *(op.name for op in hot_grad(options)))


def with_options(plan: Plan, model: Model, options: Options) -> Plan:
    """The plan under its full name, with the symbols of its options."""
    if not options:
        return plan
    return replace(
        plan,
        strategy=plan.strategy + str(options),
        caveat="; ".join(filter(None, (plan.caveat, LOOKS_AHEAD if options.look_ahead else ""))),
        rows_held=V / N + H if options.hot_rows else plan.rows_held,
        own_symbols=Expected(options, model.law),
    )


ROW_ALL_TO_ALL = StrategySpec(
    "row_all_to_all",
    build=row_all_to_all,
    options=("hot_rows", "look_ahead", "shampoo"),
    table_placement=Placement.HASH,
)
