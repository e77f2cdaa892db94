"""Error bars: propagated by sensitivities, they agree with the quantiles of simulations with drawn factors."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from dessim.cluster import load_cluster
from dessim.cluster.spread import BANDS, Spread, band
from dessim.commands.collective import run_collective
from dessim.commands.support.projection import Projection
from dessim.commands.support.spreads import spreads_on
from dessim.commands.support.step import step_of
from dessim.results.error_bar import Z80, ErrorBar, describe_intervals, error_bar, is_tie
from dessim.results.metrics import breakdown, step_windows
from dessim.sim.engine import simulate
from dessim.sim.fluid.nccl_calls import Call, NcclCalls
from dessim.sim.fluid.route_cache import RouteCache
from dessim.trace.schema import Collective
from dessim.workload.model import load_model
from dessim.workload.owners import owners_of
from dessim.workload.scale import Job
from dessim.workload.strategies import plan as plan_of
from tests.projecting import project

GPUS = 16
SPREAD = Spread(
    inside={"other": (0.2, 0.1, 0.05)},
    between={"all_to_all": (0.3, 0.25, 0.2), "all_reduce": (0.25, 0.2, 0.1), "other": (0.2, 0.15, 0.1)},
)
COMPUTE = 0.15


def known(cluster_name="h100-8x_rail_128", spread=SPREAD, compute=COMPUTE):
    """A shipped cluster whose transport and GPUs state these spreads."""
    cluster = load_cluster(cluster_name)
    return replace(
        cluster,
        gpu=replace(cluster.gpu, spread=compute),
        transport=replace(cluster.transport, spread=spread),
    )


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["table_wise", "des_all_reduce"])
def test_intervals_agree_with_those_of_200_drawn_simulations(strategy, monkeypatch):
    """Each kind of op takes longer by its own factor; 10 % of the steps are beyond either end of the interval."""
    cluster, model = known(), load_model("deepfm")
    job, plan = Job.of_model(model), plan_of(strategy, model).pipelined()
    symbols = plan.symbols(job.symbols(GPUS, 1024))
    workload, _ = step_of(job, cluster, plan, symbols, owners_of(plan, model, symbols))
    routed = RouteCache(cluster, folding=True)
    record = simulate(cluster, workload, routed=routed)
    bar = error_bar(breakdown(record).critical_path, spreads_on(cluster, workload.groups))
    ((begin, end),) = step_windows(record).values()
    low, high = bar.interval(end - begin)
    rng = np.random.default_rng(0)
    unscaled = NcclCalls.call
    factors: dict[str, float] = {}

    def scaled(self, op, algorithm, group, size, sizes=None):
        call = unscaled(self, op, algorithm, group, size, sizes)
        factor = factors[f"{op}", band(size)]
        return Call(call.name, call.seconds * factor, call.busy, call.stage)

    monkeypatch.setattr(NcclCalls, "call", scaled)
    steps = []
    for _ in range(200):
        for op in Collective:
            for number, size in enumerate((1, BANDS[0] + 1, BANDS[1] + 1)):
                _, sigma = SPREAD.of(str(op), size, across=True)
                factors[f"{op}", number] = math.exp(sigma * rng.standard_normal())
        computing = math.exp(COMPUTE * rng.standard_normal())
        classes = tuple(
            replace(c, tasks=tuple(replace(t, duration=t.duration * computing) for t in c.tasks))
            for c in workload.classes
        )
        drawn = simulate(cluster, replace(workload, classes=classes), routed=routed)
        ((begin, end),) = step_windows(drawn).values()
        steps.append(end - begin)
    assert np.quantile(steps, 0.1) == pytest.approx(low, rel=0.04)
    assert np.quantile(steps, 0.9) == pytest.approx(high, rel=0.06)
    assert 0.72 <= np.mean([low <= step <= high for step in steps]) <= 0.88


def test_errors_of_a_kind_add_up_and_kinds_are_independent():
    bar = ErrorBar({"compute": 0.03, "all_reduce": 0.04})
    assert bar.sigma == pytest.approx(0.05) and bar.mostly == "all_reduce"
    low, high = bar.interval(2.0)
    assert low * high == pytest.approx(4.0) and high / 2 == pytest.approx(math.exp(0.05 * Z80))
    assert bar.relative == pytest.approx(high / 2 - 1)
    assert ErrorBar({}).interval(1.0) == (1.0, 1.0)


def row(samples_per_s, causes):
    interval = None if causes is None else ErrorBar(causes).to_json(1.0)
    return {"samples_per_s": samples_per_s, "interval": interval}


def test_a_lead_within_the_interval_of_the_ratio_is_a_tie():
    assert is_tie(row(110, {"a": 0.1}), row(100, {"b": 0.1}))
    assert not is_tie(row(110, {"a": 0.1}), row(100, {"a": 0.1}))  # the same cause moves both
    assert not is_tie(row(150, {"a": 0.1}), row(100, {"b": 0.1}))
    assert not is_tie(row(101, None), row(100, {"b": 0.5}))


def test_what_widens_intervals_most_is_named():
    rows = [row(1, {"compute": 0.2}), row(1, {"all_to_all": 0.3, "compute": 0.1}), row(1, {"all_to_all": 0.3})]
    assert describe_intervals(rows) == "error bar: an 80 % interval; mostly: all_to_all, compute"
    assert describe_intervals([row(1, None)]) == ""


def test_a_collective_has_the_interval_of_its_transport():
    found = run_collective(known(), Collective.ALL_REDUCE, 16, 1 << 20).to_json()
    ratio = found["interval"]["high_s"] / found["time_s"]
    assert ratio == pytest.approx(math.exp(0.2 * Z80))
    assert found["interval"]["mostly"] == "all_reduce to 8 MiB between servers"
    inside = run_collective(known(), Collective.ALL_REDUCE, 8, 1 << 20).to_json()
    assert inside["interval"]["mostly"] == "all_reduce to 8 MiB inside a server"
    assert run_collective(known(spread=None), Collective.ALL_REDUCE, 16, 1 << 20).to_json()["interval"] is None


def test_an_unknown_spread_gives_no_interval():
    job = Job.of_model(load_model("fm"))
    for spread, compute in ((None, COMPUTE), (SPREAD, None)):
        (found,) = project(job, known("one-switch_16", spread, compute), ["des_all_reduce"], [4])
        assert isinstance(found, Projection) and found.bar is None and found.to_json()["interval"] is None
    (found,) = project(job, known("one-switch_16"), ["des_all_reduce"], [4])
    assert found.to_json()["error_bar"] == pytest.approx(found.bar.relative)
