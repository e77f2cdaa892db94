"""Plans improved by simulation, one table at a time; rates near the size of a message."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pytest

from dessim.cluster import load_cluster
from dessim.commands.project import run_projection
from dessim.commands.support.median_step import FEW_STEPS, STEPS
from dessim.commands.support.project_request import ProjectRequest
from dessim.commands.support.projection import Projection
from dessim.plan.candidates import Candidate, PlanProblem, order, settled
from dessim.plan.loads import Choice
from dessim.plan.place import Placed, place
from dessim.plan.rates import simulated_rates
from dessim.plan.refine import refine
from dessim.results.metrics import step_times
from dessim.sim.engine import simulate
from dessim.sim.fluid.route_cache import RouteCache
from dessim.trace.schema import Collective
from dessim.workload.composed import TablePlan
from dessim.workload.one_collective import one_collective
from dessim.workload.plan_file import TABLE_STRATEGIES
from dessim.workload.scale import Job
from dessim.workload.strategies import plan as plan_of
from tests.plan.small import cluster, loads, model_of

MODEL = model_of()
N = 16
LOADS = loads(MODEL, N)
NODES = cluster().node_of(np.arange(N))


class Simulation:
    """Steps that have another winner than the estimate: 1 s less for each table with `strategy`."""

    def __init__(self, strategy: str) -> None:
        self.strategy = strategy
        self.asked: list[tuple[TablePlan, ...]] = []

    def __call__(self, plans: Sequence[Placed]) -> Mapping[tuple[TablePlan, ...], float]:
        self.asked += [placed.tables for placed in plans]
        return {placed.tables: self.step_s(placed.tables) for placed in plans}

    def step_s(self, tables: Sequence[TablePlan]) -> float:
        return 10.0 - sum(table.family == self.strategy for table in tables)


def refined(strategy: str, pinned: Mapping[int, Choice] | None = None) -> Simulation:
    start = place(LOADS, [Choice("row_wise")] * 5, MODEL.widths, NODES)
    assert start is not None
    found = Simulation(strategy)
    refine(
        LOADS,
        {start.tables: found.step_s(start.tables)},
        TABLE_STRATEGIES,
        pinned=pinned or {},
        widths=MODEL.widths,
        nodes=NODES,
        simulate=found,
    )
    return found


def test_each_round_changes_one_table_until_none_is_better() -> None:
    found = refined("row_all_to_all")
    best = min(found.asked, key=found.step_s)
    assert sum(table.strategy == "row_all_to_all" for table in best) == 4, "one for each of four rounds"
    assert len(found.asked) == len(set(found.asked)) <= 4 * 6


def test_a_round_without_a_better_plan_is_the_last() -> None:
    assert len(refined("none").asked) == 6


def test_pinned_tables_are_not_changed() -> None:
    pinned = {table: Choice("row_wise") for table in range(4)}
    assert all(table.strategy == "row_wise" for tables in refined("table_wise", pinned).asked for table in tables[:4])


@pytest.mark.parametrize("size", [2.0**16, 2.0**20, 2.0**26])
def test_a_rate_gives_the_simulated_time_of_its_size_and_of_less(size: float) -> None:
    """NCCL changes protocol between 64 KiB and 64 MiB, so no one line holds for all sizes."""
    routed = RouteCache(cluster(), True)
    for op in (Collective.ALL_TO_ALL, Collective.ALL_REDUCE):
        rate = simulated_rates(routed, N)(op, size)
        for part in (size, size / 16):
            seconds = simulate(routed.cluster, one_collective(op, N, part), routed=routed).end
            assert rate.start + rate.per_byte * part == pytest.approx(seconds, rel=1e-9)


def test_the_best_plans_of_the_packet_network_are_simulated_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """All plans are simulated roughly first; the fastest then have all steps and runs, in the order of these."""
    monkeypatch.setattr("dessim.plan.candidates._SETTLED", 2)
    bed = load_cluster("lab/switch_4")
    model = model_of(((20_000, 4), (500, 1)), width=16)
    problem = PlanProblem(Job.of_model(model), bed, gpus=4, batch=64, pinned={}, network="packet")
    names = ["row_wise", "table_wise", "row_all_to_all"]
    request = ProjectRequest(
        job=problem.job,
        cluster=bed,
        strategies=names,
        gpus=[4],
        batch_per_worker=16,
        servers=None,
        network="packet",
        rough=True,
    )
    rows = [row for row in run_projection(request) if isinstance(row, Projection)]
    rough = [Candidate(row, plan_of(name, model)) for row, name in zip(rows, names, strict=True)]
    found = settled(problem, sorted(rough, key=order))
    assert [len(step_times(one.row.record)) for one in found] == [STEPS, STEPS, FEW_STEPS]
    assert found == sorted(found, key=order)
    assert sorted(one.row.strategy for one in found) == sorted(names)
