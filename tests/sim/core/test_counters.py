"""Bytes carried per link class over time: no byte is lost, and no class exceeds its capacity."""

from __future__ import annotations

import numpy as np
import pytest
import simpy
from hypothesis import given, settings
from hypothesis import strategies as st

from dessim.cluster import Cluster, load_cluster
from dessim.errors import PhysicsError
from dessim.sim.core.counters import Counters
from dessim.sim.fluid.fabric import FlowFabric
from dessim.sim.fluid.flows import route_flows

CLUSTER = load_cluster("a100-8x_leafspine_16")
KINDS = CLUSTER.links.kinds
Parts = dict[str, float]
Batches = list[tuple[float, float, int, list[tuple[int, int]]]]

pairs = st.tuples(st.integers(0, 63), st.integers(0, 63)).filter(lambda p: p[0] != p[1])
batches = st.lists(
    st.tuples(st.floats(0, 1e-3), st.floats(1e3, 1e8), st.integers(1, 5), st.lists(pairs, min_size=1, max_size=6)),
    min_size=1,
    max_size=5,
)


def transferred(cluster: Cluster, jobs: Batches, folding: bool) -> tuple[FlowFabric, float, list[tuple[float, Parts]]]:
    """Run batches (start, size, repeat, messages). Returns the fabric, the end, and each batch's seconds and parts."""
    env = simpy.Environment()
    network = FlowFabric(env, cluster, folding)
    took = []

    def send(start: float, size: float, repeat: int, messages: list[tuple[int, int]]):
        yield env.timeout(start)
        src, dst = np.array(messages).T
        sizes = size * (1.0 + np.arange(len(messages)))
        parts = yield network.transfer(route_flows(cluster, src, dst, sizes), repeat=repeat)
        took.append((env.now - start, parts))

    env.run(until=simpy.AllOf(env, [env.process(send(*job)) for job in jobs]))
    return network, env.now, took


@given(batches, st.booleans())
@settings(max_examples=40, deadline=None)
def test_rates_integrate_to_the_bytes_carried_and_parts_add_up_to_the_time(jobs: Batches, folding: bool) -> None:
    network, end, took = transferred(CLUSTER, jobs, folding)
    load = network.counters.load(end)
    carried = dict(zip(KINDS, network.counters.bytes_by_kind, strict=True))
    assert set(load.rate) == {kind for kind, size in carried.items() if size > 0}
    for kind, rate in load.rate.items():
        assert rate @ np.diff(load.time) == pytest.approx(carried[kind], rel=1e-9)
        assert (load.share(kind) <= 1 + 1e-9).all() and load.mean(kind) <= 1 + 1e-9
    assert (load.time[0], load.time[-1]) == (0.0, pytest.approx(end, rel=1e-12))
    coarse = load.within(3)
    assert len(coarse.time) <= 4
    for kind, rate in coarse.rate.items():
        assert rate @ np.diff(coarse.time) == pytest.approx(carried[kind], rel=1e-9)
    for seconds, parts in took:
        assert sum(parts.values()) == pytest.approx(seconds, rel=1e-9)


def test_the_load_shows_two_flows_sharing_a_link() -> None:
    # Nodes 0 and 1 send to one NIC of the last node; the second starts after a millisecond.
    rate = CLUSTER.node.nic.capacity
    size = rate * 4e-3
    network, end, _ = transferred(CLUSTER, [(0.0, size, 1, [(0, 120)]), (1e-3, size, 1, [(8, 120)])], True)
    load = network.counters.load(end)
    up, down = load.rate["nic_up"], load.rate["nic_down"]
    assert (load.time[0], load.time[-1]) == pytest.approx((0.0, 8e-3), rel=1e-3)  # plus some latency
    assert {round(at, 6) for at in load.time} >= {0.001, 0.007, 0.008}
    full = np.diff(load.time) > 1e-4
    assert up[full] == pytest.approx(np.full(full.sum(), rate), rel=1e-2)
    assert down == pytest.approx(up)
    assert load.capacity["nic_up"] == pytest.approx(3 * 8 * rate)  # three nodes took part
    assert load.mean("nic_up") == pytest.approx(1 / 24, rel=1e-2)
    fabric = [kind for kind in load.rate if kind not in ("nic_up", "nic_down") and not kind.startswith("pcie")]
    assert fabric
    for kind in fabric:
        assert load.capacity[kind] == pytest.approx(CLUSTER.links.capacity[CLUSTER.links.of_kind(kind)].sum())


def test_the_load_of_a_long_run_is_short_and_loses_no_bytes() -> None:
    counters = Counters(CLUSTER.links)
    size = np.zeros(len(KINDS))
    size[KINDS.index("nic_up")] = 3.0
    counters.begin(np.array([CLUSTER.wiring.nic_up]), size * 30_000)
    for i in range(30_000):
        counters.carried(float(i), i + 0.5, size)
    load = counters.load(30_000.0)
    assert len(load.time) <= 2_001
    assert load.rate["nic_up"] @ np.diff(load.time) == pytest.approx(90_000.0, rel=1e-9)
    assert Counters(CLUSTER.links).load(1.0).rate == {}


@pytest.mark.parametrize("folding", [True, False])
def test_counters_lose_no_byte_when_a_spine_fails(folding: bool) -> None:
    env = simpy.Environment()
    network = FlowFabric(env, CLUSTER, folding)
    src = np.arange(0, 64)
    flows = route_flows(CLUSTER, src, src + 64, np.full(64, 5e7))
    done = network.transfer(flows, repeat=3)
    env.run(until=env.timeout(flows.alone(1.0) * 1.3))
    network.change(CLUSTER.with_links([("spine0", 0.0)]))
    env.run(until=done)
    load = network.counters.load(env.now)
    for kind, carried in zip(KINDS, network.counters.bytes_by_kind, strict=True):
        if carried:
            assert load.rate[kind] @ np.diff(load.time) == pytest.approx(carried, rel=1e-9)
            assert (load.share(kind) <= 1 + 1e-9).all()
    assert load.rate["leaf_up"][0] > 0
    assert sum(done.value.values()) == pytest.approx(env.now, rel=1e-9)


def test_bytes_that_no_link_carried_raise_an_error() -> None:
    network, end, _ = transferred(CLUSTER, [(0.0, 1e9, 1, [(0, 120)])], True)
    network.counters.bytes_by_kind *= 1.001
    with pytest.raises(PhysicsError, match="links carried other bytes than messages sent"):
        network.counters.load(end)
