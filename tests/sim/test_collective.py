"""The route cache: a stage that is requested again equals the stage that was routed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from dessim.cluster import load_cluster
from dessim.collectives import Stage, schedule
from dessim.sim.engine import simulate
from dessim.sim.fluid.model import layout_of
from dessim.sim.fluid.route_cache import RouteCache
from dessim.trace.schema import Collective
from dessim.workload.dag import Loads, RankClass
from dessim.workload.one_collective import one_collective


@pytest.mark.parametrize(
    ("op", "algorithm"),
    [
        (Collective.ALL_TO_ALL, "hierarchical"),
        (Collective.ALL_REDUCE, "double_tree"),
        (Collective.ALL_REDUCE, "nvls_sharp"),
    ],
)
def test_a_stage_requested_again_equals_the_one_that_was_routed(op: Collective, algorithm: str) -> None:
    cluster = load_cluster("h100-8x_rail_128")
    gpus = np.arange(32)
    layout = layout_of(cluster, gpus)
    route_cache = RouteCache(cluster)
    stages = list(schedule(op, algorithm, layout, 1e8))
    first = [route_cache.stage(gpus, stage) for stage in stages]
    for stage, (flows, scale) in zip(stages, first, strict=True):
        again, scale_again = route_cache.stage(gpus, stage)
        assert scale_again == scale
        for name in ("src", "dst", "size"):
            assert getattr(again.messages, name).tolist() == getattr(flows.messages, name).tolist(), name
        for name in ("links", "bytes_by_kind", "finish"):
            assert getattr(again, name).tolist() == getattr(flows, name).tolist(), name
        assert again.folded.colour.tolist() == flows.folded.colour.tolist()
        assert again.alone(scale) == flows.alone(scale) and again.parts_alone(scale) == flows.parts_alone(scale)
        assert (again.messages.trees is None) == (flows.messages.trees is None)


def test_empty_messages_are_dropped_and_groups_have_their_own_routes() -> None:
    cluster = load_cluster("one-switch_16")
    route_cache = RouteCache(cluster)
    stage = Stage(("some",), np.array([0, 1, 2]), np.array([1, 2, 0]), np.array([4.0, 0.0, 2.0]))
    for _ in range(2):
        low, _ = route_cache.stage(np.arange(3), stage)
        high, _ = route_cache.stage(np.arange(3) + 8, stage)
        assert (low.messages.src.tolist(), low.messages.dst.tolist()) == ([0, 2], [1, 0])
        assert low.messages.size.tolist() == [1.0, 0.5]
        assert (high.messages.src.tolist(), high.messages.dst.tolist()) == ([8, 10], [9, 8])
        assert not set(low.links.tolist()) & set(high.links.tolist())


LEAST, MOST = 1e8, 7e8


@pytest.mark.parametrize("received", [False, True])
@pytest.mark.parametrize("totals", [[LEAST] * 7 + [MOST], [0.0, MOST] + [0.0] * 6, [LEAST, MOST, LEAST, 3e8] * 2])
def test_an_all_to_all_of_unequal_totals_takes_as_long_as_its_busiest_port(totals: list[float], received: bool) -> None:
    cluster = load_cluster("one-switch_16")
    loads = Loads(tuple(totals), received)
    even = one_collective(Collective.ALL_TO_ALL, 8, 0.0)
    ((ranks, (task,)),) = [(c.ranks, c.tasks) for c in even.classes]
    took = simulate(cluster, replace(even, classes=(RankClass(ranks, (replace(task, loads=loads),)),))).end
    rows = [loads.sent_by(rank) for rank in range(8)]
    matrix = one_collective(Collective.ALL_TO_ALL, 8, 0.0, splits=rows)
    exact = simulate(cluster, matrix, {Collective.ALL_TO_ALL: "direct"}).end
    wire = max(totals) * 7 / 8 / cluster.node.nic.capacity
    assert wire <= exact <= wire * 1.001
    assert wire <= took <= wire * 1.001
