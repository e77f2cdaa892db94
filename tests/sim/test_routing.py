"""Folding is exact under every routing policy, also with links that are slower or down."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import simpy
from hypothesis import given, settings
from hypothesis import strategies as st

from dessim.cluster import Cluster
from dessim.cluster.routing.policy import Routing
from dessim.commands.collective import run_collective
from dessim.errors import SimulationError
from dessim.sim.fluid.fabric import FlowFabric
from dessim.sim.fluid.flows import Flows, route_flows
from dessim.trace.schema import Collective
from tests.cluster.small_clusters import build, clusters, hosts, link

ROUTINGS = st.builds(Routing, st.sampled_from(["split", "static", "ecmp", "adaptive"]), st.integers(0, 9)) | st.builds(
    Routing, st.sampled_from(["ecmp", "adaptive"]), st.integers(0, 9), st.integers(2, 4)
)


@st.composite
def degraded_clusters(draw: st.DrawFn) -> Cluster:
    """Any fabric and any policy, with up to two links slower and up to two down."""
    cluster = replace(draw(clusters().filter(lambda c: c.n_gpus > 1)), routing=draw(ROUTINGS))
    built = cluster.wiring.first_server_link
    ids = st.lists(st.integers(0, built - 1), max_size=2) if built else st.just([])
    return cluster.with_links([(draw(ids), 0.5), (draw(ids), 0.0)])


def arrivals(cluster: Cluster, batches: list[tuple[np.ndarray, ...]], folding: bool) -> list[float]:
    """When each batch has arrived, if each starts a little after the one before."""
    env = simpy.Environment()
    network = FlowFabric(env, cluster, folding)
    ends = [0.0] * len(batches)

    def send(number: int, flows: Flows):  # type: ignore[no-untyped-def]
        yield env.timeout(number * 0.3)
        yield network.transfer(flows)
        ends[number] = env.now

    routed = [route_flows(cluster, *batch, folding=folding) for batch in batches]
    env.run(until=simpy.AllOf(env, [env.process(send(i, flows)) for i, flows in enumerate(routed)]))
    return ends


@settings(max_examples=120, deadline=None)
@given(degraded_clusters(), st.integers(0, 2**32 - 1), st.booleans())
def test_folded_equals_unfolded(cluster: Cluster, seed: int, equal_sizes: bool) -> None:
    n = cluster.n_gpus
    rng = np.random.default_rng(seed)
    gpus = np.arange(n)
    first = gpus, (gpus + 1) % n, np.full(n, 1e9) if equal_sizes else rng.integers(1, 4, size=n) * 1e9
    src = rng.integers(n, size=10)
    second = src, (src + rng.integers(1, n, size=10)) % n, np.full(10, 1e9)
    folded, whole = (route_flows(cluster, *first, folding=folding) for folding in (True, False))
    expected = whole.arrivals(1.0)[whole.folded.colour]
    assert folded.arrivals(1.0)[folded.folded.colour] == pytest.approx(expected, rel=1e-9)
    assert folded.bytes_by_kind == pytest.approx(whole.bytes_by_kind, rel=1e-12)
    if np.isinf([route_flows(cluster, *batch).alone(1.0) for batch in (first, second)]).any():
        assert cluster.links.any_down
        for folding in (True, False):
            with pytest.raises(SimulationError, match="is down and no other route exists"):
                arrivals(cluster, [first, second], folding)
        return
    ends = [arrivals(cluster, [first, second], folding) for folding in (True, False)]
    assert ends[0] == pytest.approx(ends[1], rel=1e-9)


@pytest.mark.parametrize("routing", ["split", "static", "ecmp", "adaptive"])
@pytest.mark.parametrize("algorithm", ["direct", "pairwise"])
def test_folding_changes_no_collective_if_a_spine_is_down(routing: str, algorithm: str) -> None:
    data = hosts(kind="leaf_spine", nodes_per_leaf=4, spines=4, uplink=link(), routing=routing)
    data["node"]["count"] = 16
    cluster = build(data).with_links([("spine1", 0.0), ("leaf0 -> spine2", 0.5)])
    op, size = Collective.ALL_TO_ALL, 1e9
    folded, whole = (run_collective(cluster, op, 16, size, algorithm, folding) for folding in (True, False))
    assert folded.time_s == pytest.approx(whole.time_s, rel=1e-9)
    uneven = [run_collective(cluster, op, 16, size, algorithm, folding, uneven=4).time_s for folding in (True, False)]
    assert uneven[0] == pytest.approx(uneven[1], rel=1e-9)


def test_adaptive_routing_balances_bytes_at_any_scale() -> None:
    """Among three flows from one leaf over two spines, the large one gets a spine to itself."""
    data = hosts(kind="leaf_spine", nodes_per_leaf=4, spines=2, uplink=link(), routing="adaptive")
    cluster = build(data)
    src, dst = np.array([0, 1, 2]), np.array([4, 5, 6])
    for scale in (1.0, 1e9):
        flows = route_flows(cluster, src, dst, np.array([3.0, 1.0, 1.0]) * scale)
        assert flows.finish.max() == pytest.approx(3 * scale / 50e9, rel=1e-12)


def test_an_all_to_all_slows_by_16_15_if_one_of_16_spines_is_down() -> None:
    """A whole collective over 64 hosts, one per leaf switch, with all messages over 16 spines."""
    uplink = link("1 GB/s", "0 s")
    data = hosts(kind="leaf_spine", nodes_per_leaf=1, spines=16, uplink=uplink)
    data["node"].update(count=64, nic=link("16 GB/s", "0 s"))
    cluster = build(data)
    whole, degraded = (
        run_collective(machine, Collective.ALL_TO_ALL, 64, 1e9, "direct").time_s
        for machine in (cluster, cluster.with_links([("spine11", 0.0)]))
    )
    assert degraded / whole == pytest.approx(16 / 15, rel=1e-9)
