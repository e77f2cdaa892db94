"""Tables on servers: chosen, placed, refused where there is one server only, and part of a plan's file."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from functools import lru_cache

import numpy as np
import pytest

from dessim.errors import CapacityError
from dessim.plan.choose import choose
from dessim.plan.loads import MEMORY, Choice, Loads
from dessim.plan.place import place
from dessim.plan.scales import PlanRequest, run_plan
from dessim.workload.composed import ON_SERVERS, TablePlan
from dessim.workload.plan_file import TABLE_STRATEGIES
from dessim.workload.scale import Job
from tests.plan.small import BATCH, TABLES, cluster, loads, model_of

GPUS, SERVER = 32, 8
NODES = np.arange(GPUS) // SERVER
MODEL = model_of()


@lru_cache
def on_servers() -> Loads:
    return loads(MODEL, GPUS, server=SERVER)


def servers_of(tables: tuple[TablePlan, ...]) -> list[int]:
    """The server of each table, all of whose GPUs it has."""
    firsts = [table.ranks[0] for table in tables]
    for first, table in zip(firsts, tables, strict=True):
        assert table.ranks == tuple(range(first, first + SERVER)) and first % SERVER == 0 and not table.columns
    return [first // SERVER for first in firsts]


def test_tables_are_spread_over_the_servers_and_the_bound_is_below_them() -> None:
    of = on_servers()
    chosen = choose(of, (ON_SERVERS,))
    assert chosen is not None and set(chosen.choices) == {Choice(ON_SERVERS, SERVER)}
    found = place(of, chosen.choices, MODEL.widths, NODES)
    assert found is not None
    servers = servers_of(found.tables)
    assert servers[0] not in servers[1:]  # the table with 20 of 27 ids has a server for itself
    assert set(servers) == set(range(GPUS // SERVER))
    assert chosen.bound <= found.seconds * (1 + 1e-9)
    by_server = found.loads.reshape(-1, SERVER, found.loads.shape[1])
    assert (by_server == by_server[:, :1]).all()  # its GPUs share a table evenly


def test_with_all_strategies_the_bound_stays_below_the_plan() -> None:
    of = on_servers()
    free, alone = choose(of, TABLE_STRATEGIES), choose(of, (ON_SERVERS,))
    assert free is not None and alone is not None and free.bound <= alone.bound * (1 + 1e-2)
    found = place(of, free.choices, MODEL.widths, NODES)
    assert found is not None and free.bound <= found.seconds * (1 + 1e-9)


def test_a_server_without_room_gets_no_table() -> None:
    of = on_servers()
    choices = [Choice(ON_SERVERS, SERVER)] * 5
    needed = sorted(load.owned[MEMORY] for load in of.by_choice[choices[0]] if load is not None)
    everywhere = sum(load.everywhere[MEMORY] for load in of.by_choice[choices[0]] if load is not None)
    tight = replace(of, room=float(everywhere + needed[-1] * 1.001))
    found = place(tight, choices, MODEL.widths, NODES)
    assert found is not None and Counter(servers_of(found.tables))[servers_of(found.tables)[0]] == 1
    assert place(replace(of, room=float(everywhere + needed[-1] * 0.999)), choices, MODEL.widths, NODES) is None


def test_a_pinned_table_gets_a_server_and_none_where_there_is_one_server() -> None:
    model = model_of(TABLES[:3])
    request = PlanRequest(job=Job.of_model(model), cluster=cluster(), gpus=[16], batch=BATCH, by_table=True)
    pinned = replace(request, pinned={1: Choice(ON_SERVERS)}, strategies=("table_wise", "row_wise"))
    best = run_plan(pinned).scales[0].plans.best
    assert servers_of(best.tables[1:2])[0] in (0, 1) and best.tables[1].family == ON_SERVERS
    assert "1 table_row_wise" in best.row.strategy
    with pytest.raises(CapacityError, match="t1 cannot be table_row_wise"):
        run_plan(replace(pinned, gpus=[8]))
    with pytest.raises(CapacityError, match="can have none of table_row_wise"):
        run_plan(replace(request, gpus=[8], strategies=(ON_SERVERS,)))
