"""Joint folds that are kept give the same instants as joint folds that are made anew."""

from __future__ import annotations

import numpy as np
import pytest
import simpy

from dessim.cluster import load_cluster
from dessim.collectives import Layout, schedule
from dessim.sim.fluid import groups
from dessim.sim.fluid.fabric import FlowFabric
from dessim.sim.fluid.joint import is_large
from dessim.sim.fluid.route_cache import RouteCache
from dessim.trace.schema import Collective

RANKS = 136  # 18,360 pairs
CLUSTER = load_cluster("bench/two_level_1024_4to1")
GPUS = np.arange(RANKS)


def ends(routed: RouteCache, late: float) -> list[float]:
    """When an all_to_all ends, and a ring that begins `late` seconds after it and shares its links; and the bytes."""
    layout = Layout(RANKS)
    (pairs,) = schedule(Collective.ALL_TO_ALL, "direct", layout, 1e8)
    ring = next(schedule(Collective.ALL_GATHER, "ring", layout, 3e7))
    env = simpy.Environment()
    fabric = FlowFabric(env, CLUSTER)
    end_of = [0.0, 0.0]

    def run(number: int, stage: object, wait: float, repeat: int) -> object:
        yield env.timeout(wait)
        flows, scale = routed.stage(GPUS, stage)  # type: ignore[arg-type]
        yield fabric.transfer(flows, scale, repeat)
        end_of[number] = env.now

    env.process(run(0, pairs, 0.0, 1))  # type: ignore[arg-type]
    env.process(run(1, ring, late, 3))  # type: ignore[arg-type]
    env.run(until=1.0)
    return end_of


def test_kept_joint_folds_change_no_instant(monkeypatch: pytest.MonkeyPatch) -> None:
    assert is_large(RANKS * (RANKS - 1))
    routed = RouteCache(CLUSTER)
    kept = [ends(routed, late) for late in (1e-4, 2e-4, 1e-4)]  # the last two find what the first has kept
    monkeypatch.setattr(groups, "is_large", lambda messages: False)
    first, second = (ends(RouteCache(CLUSTER), late) for late in (1e-4, 2e-4))
    assert kept == [pytest.approx(pair, rel=1e-12) for pair in (first, second, first)]
    assert kept[0] == kept[2] != kept[1]


def test_a_joint_fold_is_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    join = groups.join

    def counted(*arguments: object) -> object:
        made.append(1)
        return join(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(groups, "join", counted)
    routed = RouteCache(CLUSTER)
    ends(routed, 1e-4)
    first = len(made)
    assert first > 0
    ends(routed, 1e-4)
    assert len(made) == first
