"""The fluid fabric: flows that start and finish at any time, compared with exact rational simulation."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import simpy
from hypothesis import given, settings
from hypothesis import strategies as st

from dessim.cluster import Cluster, load_cluster
from dessim.sim.fluid.fabric import FlowFabric
from dessim.sim.fluid.flows import route_flows
from tests.sim import naive

SHARED = """
gpu = "h100-sxm"
transport = "ideal"
[node]
count = 8
gpus = 1
nics = 1
[node.nic]
rate = "4 GB/s"
efficiency = 1.0
latency = "0 s"
source = "test"
[fabric]
kind = "leaf_spine"
nodes_per_leaf = 4
spines = 2
[fabric.uplink]
rate = "3 GB/s"
efficiency = 1.0
latency = "0 s"
source = "test"
"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Cluster:
    path: Path = tmp_path_factory.mktemp("bed") / "shared.toml"
    path.write_text(SHARED)
    return load_cluster(path)


Paths = dict[tuple[int, int], dict[int, Fraction]]

# (start in ns, messages of (src, shift, bytes), repetitions)
BATCHES = st.lists(
    st.tuples(
        st.integers(0, 40),
        st.lists(st.tuples(st.integers(0, 7), st.integers(1, 7), st.integers(1, 60)), min_size=1, max_size=6),
        st.just(1),
    ),
    min_size=1,
    max_size=5,
)


def run(cluster: Cluster, batches: list, folding: bool) -> list[float]:
    """When each batch has arrived, in seconds."""
    env = simpy.Environment()
    network = FlowFabric(env, cluster, folding)
    ends = [0.0] * len(batches)

    def send(number: int, start: int, messages: list, repeat: int):  # type: ignore[no-untyped-def]
        yield env.timeout(start * 1e-9)
        src = np.array([m[0] for m in messages])
        dst = (src + np.array([m[1] for m in messages])) % 8
        flows = route_flows(cluster, src, dst, np.array([m[2] for m in messages], dtype=float), folding=folding)
        yield network.transfer(flows, repeat=repeat)
        ends[number] = env.now

    sent = [env.process(send(i, *batch)) for i, batch in enumerate(batches)]
    env.run(until=simpy.AllOf(env, sent))
    return ends


@pytest.fixture(scope="module")
def paths(cluster: Cluster) -> Paths:
    """The path from each host to each other."""
    return {(src, dst): naive.path(cluster, src, dst) for src in range(8) for dst in range(8) if src != dst}


def exact(cluster: Cluster, paths: Paths, batches: list) -> list[float]:
    """The same in exact rational arithmetic."""
    capacity = [Fraction(c) for c in cluster.links.capacity.tolist()]
    flows = []
    batch_of = []
    for number, (start, messages, _) in enumerate(batches):
        for src, shift, size in messages:
            flows.append(naive.Flow(Fraction(start, 10**9), Fraction(size), paths[src, (src + shift) % 8]))
            batch_of.append(number)
    ends = [0.0] * len(batches)
    for number, end in zip(batch_of, naive.finish_times(flows, capacity), strict=True):
        ends[number] = max(ends[number], float(end))
    return ends


@settings(max_examples=200, deadline=None)
@given(batches=BATCHES)
def test_staggered_batches_arrive_as_in_exact_arithmetic(cluster: Cluster, paths: Paths, batches: list) -> None:
    expected = exact(cluster, paths, batches)
    assert run(cluster, batches, folding=True) == pytest.approx(expected, rel=1e-9)
    assert run(cluster, batches, folding=False) == pytest.approx(expected, rel=1e-9)


@settings(max_examples=100, deadline=None)
@given(batches=BATCHES, repeat=st.integers(2, 9))
def test_a_repeated_batch_equals_batches_sent_one_by_one(cluster: Cluster, batches: list, repeat: int) -> None:
    """Other batches may start at any moment during the stages."""
    env = simpy.Environment()
    network = FlowFabric(env, cluster)
    first, *others = batches
    end: dict[str, float] = {}

    def stages():  # type: ignore[no-untyped-def]
        src = np.array([m[0] for m in first[1]])
        dst = (src + np.array([m[1] for m in first[1]])) % 8
        flows = route_flows(cluster, src, dst, np.array([m[2] for m in first[1]], dtype=float))
        yield env.timeout(first[0] * 1e-9)
        for _ in range(repeat):
            yield network.transfer(flows)
        end["first"] = env.now

    def other(start: int, messages: list):  # type: ignore[no-untyped-def]
        src = np.array([m[0] for m in messages])
        dst = (src + np.array([m[1] for m in messages])) % 8
        yield env.timeout(start * 1e-9)
        yield network.transfer(route_flows(cluster, src, dst, np.array([m[2] for m in messages], dtype=float)))

    env.run(until=simpy.AllOf(env, [env.process(stages()), *(env.process(other(b[0], b[1])) for b in others)]))
    repeated = run(cluster, [(first[0], first[1], repeat), *others], folding=True)
    assert repeated[0] == pytest.approx(end["first"], rel=1e-9)


def test_latency_and_overhead_add_to_the_fluid_time(tmp_path: Path) -> None:
    text = SHARED.replace('latency = "0 s"', 'latency = "2 us"').replace(
        'transport = "ideal"', '[transport]\nmessage_overhead = "5 us"\nop_overhead = "0 s"\nsource = "test"'
    )
    # Tables must follow the plain keys in TOML.
    head, rest = text.split("[transport]")
    path = tmp_path / "slow.toml"
    path.write_text(head + "[transport]" + rest)
    cluster = load_cluster(path)
    flows = route_flows(cluster, np.array([0]), np.array([1]), np.array([4e9]))
    assert flows.alone(1.0) == pytest.approx(1.0 + 2 * 2e-6 + 5e-6, rel=1e-12)
    # A sender hands its two messages over one after the other.
    flows = route_flows(cluster, np.array([0, 0]), np.array([1, 2]), np.array([2e9, 2e9]))
    assert flows.alone(1.0) == pytest.approx(1.0 + 2 * 2e-6 + 2 * 5e-6, rel=1e-12)


def test_a_transfer_of_no_bytes_finishes_immediately(cluster: Cluster) -> None:
    env = simpy.Environment()
    network = FlowFabric(env, cluster)
    flows = route_flows(cluster, np.array([0]), np.array([1]), np.array([0.0]))
    env.run(until=network.transfer(flows))
    assert env.now == 0


def test_each_link_class_carries_the_bytes_sent_over_it(cluster: Cluster) -> None:
    env = simpy.Environment()
    network = FlowFabric(env, cluster)
    # One message stays under its leaf, one crosses both spines.
    flows = route_flows(cluster, np.array([0, 0]), np.array([1, 4]), np.array([10.0, 20.0]))
    env.run(until=network.transfer(flows, scale=2.0, repeat=3))
    carried = dict(zip(cluster.links.kinds, network.counters.bytes_by_kind.tolist(), strict=True))
    assert carried == pytest.approx({"nic_up": 180.0, "nic_down": 180.0, "leaf_up": 120.0, "leaf_down": 120.0})
