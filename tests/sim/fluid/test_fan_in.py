"""Fan-in and flow caps, compared with closed forms, exact rational simulation, and unfolded networks."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction

import numpy as np
import pytest
import simpy
from hypothesis import given, settings
from hypothesis import strategies as st

from dessim.cluster import Cluster
from dessim.collectives import ALGORITHMS, algorithms_for, schedule
from dessim.collectives.choose import Floor
from dessim.commands.collective import run_collective
from dessim.sim.core.bounds import FLOW_CAP
from dessim.sim.fluid.drain import Fluid, drain, start_draining
from dessim.sim.fluid.fabric import FlowFabric
from dessim.sim.fluid.fan_in import FanIn
from dessim.sim.fluid.flows import route_flows
from dessim.sim.fluid.fold import fold
from dessim.sim.fluid.maxmin import Incidence, max_min_rates
from dessim.sim.fluid.model import layout_of
from dessim.sim.fluid.route_cache import RouteCache
from dessim.trace.schema import Collective
from tests.cluster.small_clusters import build, hosts, link
from tests.sim import naive
from tests.sim.fluid.test_maxmin import networks

CURVE = [(1, 1.0), (4, 0.8), (7, 0.62)]
EXACT = [(k, Fraction(share)) for k, share in CURVE]
RATE = 4e9


def bed(
    fan_in: list | None = None, flow_rate: str | None = None, routing: dict[str, object] | None = None, **node: object
) -> Cluster:
    """Sixteen hosts of 4 GB/s on two leaves, without latency."""
    data = hosts(kind="leaf_spine", nodes_per_leaf=8, spines=2, uplink=link("6 GB/s", "0 s"), **routing or {})
    data["node"] = {"count": 16, "gpus": 1, "nics": 1, "nic": link("4 GB/s", "0 s"), **node}
    data["transport"] = {"message_overhead": "0 s", "op_overhead": "0 s", "source": "test"}
    if fan_in:
        data["transport"]["fan_in"] = fan_in
    if flow_rate:
        data["transport"]["flow_rate"] = flow_rate
    return build(data)


def seconds(cluster: Cluster, src: list[int], dst: list[int], size: list[float], folding: bool = True) -> float:
    """How long messages take that start together on an idle network."""
    return route_flows(cluster, np.array(src), np.array(dst), np.array(size), folding=folding).alone(1.0)


# -- closed forms -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("k", "share"), [(1, 1.0), (2, 1 - 0.2 / 3), (4, 0.8), (5, 0.74), (7, 0.62)])
@pytest.mark.parametrize("folding", [True, False])
def test_equal_messages_to_one_receiver(k: int, share: float, folding: bool) -> None:
    size = 1e6
    took = seconds(bed(CURVE), list(range(1, k + 1)), [0] * k, [size] * k, folding)
    assert took == pytest.approx(k * size / (RATE * share), rel=1e-12)


def test_the_share_is_constant_beyond_the_last_point() -> None:
    cluster = build({**hosts(), "transport": {**_free(), "fan_in": [[1, 1.0], [3, 0.5]]}})
    flows = route_flows(cluster, np.arange(1, 8), np.zeros(7, dtype=int), np.full(7, 1e6))
    assert flows.finish.max() == pytest.approx(7e6 / (50e9 * 0.5), rel=1e-12)


def _free() -> dict[str, str]:
    return {"message_overhead": "0 s", "op_overhead": "0 s", "source": "test"}


def test_efficiency_recovers_as_flows_finish() -> None:
    # Four flows get C * 0.8 / 4 each until the small ones finish; then two get C * (1 - 0.2/3) / 2.
    small, large = 1e6, 3e6
    first = 4 * small / (RATE * 0.8)
    then = 2 * (large - small) / (RATE * (1 - 0.2 / 3))
    took = seconds(bed(CURVE), [1, 2, 3, 4], [0] * 4, [small, small, large, large])
    assert took == pytest.approx(first + then, rel=1e-12)


@pytest.mark.parametrize("routing", [{"routing": "split"}, {"routing": "ecmp", "flows_per_pair": 3}])
def test_a_message_split_over_spines_counts_once(routing: dict[str, object]) -> None:
    took = seconds(bed(CURVE, routing=routing), [8, 9, 10, 11], [0] * 4, [1e6] * 4)
    assert took == pytest.approx(4e6 / (RATE * 0.8), rel=1e-12)


def test_a_flow_that_another_link_bounds_counts_as_well() -> None:
    # Host 1 sends three flows, one of them to host 0, which also receives from host 2: k = 2.
    flows = route_flows(bed(CURVE), np.array([1, 1, 1, 2]), np.array([0, 3, 4, 0]), np.full(4, 1e6), folding=False)
    share = 1 - 0.2 / 3
    rest = RATE * share - RATE / 3
    assert flows.finish[3] == pytest.approx(1e6 / rest, rel=1e-12)


def test_fan_in_does_not_slow_senders() -> None:
    assert seconds(bed(CURVE), [0] * 7, list(range(1, 8)), [1e6] * 7) == pytest.approx(7e6 / RATE, rel=1e-12)


def test_fan_in_leaves_a_ring_unchanged_and_applies_to_receivers_only() -> None:
    ring = list(range(8)), [*range(1, 8), 0], [1e6] * 8
    assert seconds(bed(CURVE), *ring) == seconds(bed(), *ring)
    cluster = bed([[1, 0.5]])
    flows = route_flows(cluster, *map(np.array, ring))
    assert flows.alone(1.0) == pytest.approx(1e6 / (RATE * 0.5), rel=1e-12)
    assert set(flows.bound) == {"nic_down"}


def largest(parts: Mapping[str, float]) -> str:
    """The bound with the most time."""
    return max(parts, key=lambda bound: parts[bound])


def test_a_lone_flow_is_bound_by_its_cap() -> None:
    cluster = bed(flow_rate="1 GB/s")
    flows = route_flows(cluster, np.array([1]), np.array([0]), np.array([1e6]))
    assert flows.alone(1.0) == pytest.approx(1e-3, rel=1e-12)
    assert largest(flows.parts_alone(1.0)) == FLOW_CAP
    incast = route_flows(cluster, np.arange(1, 6), np.zeros(5, dtype=int), np.full(5, 1e6))
    assert incast.alone(1.0) == pytest.approx(5e6 / RATE, rel=1e-12)
    assert largest(incast.parts_alone(1.0)) == "nic_down"


def test_flows_inside_a_node_are_not_capped() -> None:
    cluster = bed(flow_rate="1 GB/s", gpus=2, nics=2, nvlink=link("4 GB/s", "0 s"))
    inside, across = (0, 1), (2, 4)
    flows = route_flows(cluster, *map(np.array, zip(inside, across, strict=True)), np.full(2, 1e6))
    assert flows.finish[flows.folded.colour] == pytest.approx([1e6 / 4e9, 1e6 / 1e9], rel=1e-12)
    assert flows.bound[int(flows.folded.colour[1])] == FLOW_CAP


@pytest.mark.parametrize("flow_rate", [None, "4 GB/s"])
def test_limits_that_never_bind_are_dropped(flow_rate: str | None) -> None:
    flows = route_flows(bed(flow_rate=flow_rate), np.array([1]), np.array([0]), np.array([1.0]))
    assert flows.folded.net.cap is None and flows.folded.net.fan_in is None
    assert flows.bound[0] != FLOW_CAP


def test_networks_with_a_curve_or_caps_are_not_pivoted() -> None:
    src, dst = np.divmod(np.arange(256), 16)
    src, dst = src[src != dst], dst[src != dst]
    for cluster in (bed(CURVE), bed(flow_rate="1 GB/s")):
        net = route_flows(cluster, src, dst, np.random.default_rng(3).uniform(1, 2, len(src))).folded.net
        assert net.n_flows > 200
        size = np.random.default_rng(5).uniform(0, 2e6, net.n_flows)
        assert isinstance(start_draining(net, size), Fluid)
        exact, near = drain(net, size).finish, drain(net, size, tolerance=1e-3)
        assert near.finish == pytest.approx(exact, rel=1e-12, abs=near.error * exact.max())


def test_the_bound_of_a_batch_that_shares_its_receiver() -> None:
    cluster = bed(CURVE, "1 GB/s")
    env = simpy.Environment()
    network = FlowFabric(env, cluster)
    one, four = (
        route_flows(cluster, np.array(src), np.zeros(len(src), dtype=int), np.full(len(src), 1e6))
        for src in ([1], [2, 3, 4, 5])
    )
    crowded = network.transfer(one)
    env.run(until=crowded & network.transfer(four))
    # Each of five flows gets less than its cap.
    assert env.now == pytest.approx(5e6 / (RATE * 0.74))
    assert largest(crowded.value) == "nic_down"
    capped = network.transfer(one, scale=2.0)
    began = env.now
    env.run(until=env.timeout(1.5e-3))
    network.transfer(one, scale=0.01)
    env.run(until=capped)
    assert env.now == pytest.approx(began + 2e-3)
    assert largest(capped.value) == FLOW_CAP


# -- collectives ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("op", list(ALGORITHMS))
def test_auto_is_the_fastest_algorithm_and_floors_are_lower_bounds(op: Collective) -> None:
    cluster = bed(CURVE, "3 GB/s", gpus=2, nics=1, nvlink=link("20 GB/s"), pcie=link("8 GB/s"), nic=link("4 GB/s"))
    gpus = np.arange(12)
    layout = layout_of(cluster, gpus)
    floor = Floor(cluster, gpus)
    route_cache = RouteCache(cluster)
    names = algorithms_for(op, layout)
    for size in (1e3, 1e7):
        auto = run_collective(cluster, op, len(gpus), size)
        seconds_of = {name: run_collective(cluster, op, len(gpus), size, name).time_s for name in names}
        assert auto.time_s == pytest.approx(min(seconds_of.values()), rel=1e-12)
        for name in names:
            for stage in schedule(op, name, layout, size):
                flows, scale = route_cache.stage(gpus, stage)
                assert floor(stage) <= flows.alone(scale) * (1 + 1e-9), (name, stage.pattern)


def test_incast_changes_the_chosen_all_to_all() -> None:
    """Sending to all peers at once saves latency; pairwise sending avoids incast. The curve decides which is faster."""
    node = {"nic": link("4 GB/s", "1 us")}
    plain = bed(**node)
    with_incast = bed(CURVE, **node)
    size = 64e6
    direct, pairwise = (
        run_collective(with_incast, Collective.ALL_TO_ALL, 8, size, name).time_s for name in ("direct", "pairwise")
    )
    assert direct == pytest.approx(size * 7 / 8 / (RATE * 0.62) + 2e-6, rel=1e-12)
    assert pairwise == pytest.approx(7 * (size / 8 / RATE + 2e-6), rel=1e-12)
    assert run_collective(plain, Collective.ALL_TO_ALL, 8, size).algorithm == "direct"
    assert run_collective(with_incast, Collective.ALL_TO_ALL, 8, size).algorithm == "pairwise"


# -- random networks --------------------------------------------------------------------------------------------------

LimitedNetwork = tuple[Incidence, np.ndarray, list[naive.Flow], list[Fraction], naive.Limits]


@st.composite
def limited(draw: st.DrawFn) -> LimitedNetwork:
    """Copies of a random network that share some links, with a receiver's link for most flows, and possibly a cap."""
    paths, capacity = draw(networks())
    copies = draw(st.integers(1, 4))
    shared = draw(st.integers(0, len(capacity)))
    receivers = draw(st.integers(1, 2))
    receiver_of = draw(st.lists(st.integers(-1, receivers - 1), min_size=len(paths), max_size=len(paths)))
    n = len(capacity)
    own_receivers = draw(st.booleans())  # whether every copy has its own receivers
    first = n * copies
    all_paths = []
    for c in range(copies):
        for path, receiver in zip(paths, receiver_of, strict=True):
            crossed = {(at if at < shared else at + c * n): weight for at, weight in path.items()}
            if receiver >= 0:
                crossed[first + receiver + (receivers * c if own_receivers else 0)] = Fraction(1)
            all_paths.append(crossed)
    room = capacity * copies + [Fraction(draw(st.integers(1, 12)))] * (receivers * copies)
    sizes = [Fraction(s) for s in draw(st.lists(st.integers(1, 3), min_size=len(paths), max_size=len(paths)))] * copies
    if draw(st.booleans()):
        sizes[draw(st.integers(0, len(sizes) - 1))] += 1  # one flow breaks the symmetry
    receives = frozenset(range(first, len(room)))
    cap = draw(st.sampled_from([None, Fraction(1, 2), Fraction(3)]))
    limits = naive.Limits(receives, EXACT if cap is None or draw(st.booleans()) else [], cap)
    net = naive.incidence(all_paths, room)
    caps = np.array([float(cap) if cap and receives & path.keys() else np.inf for path in all_paths])
    fan_in = FanIn.of(np.isin(np.arange(len(room)), sorted(receives)), CURVE) if limits.curve else None
    net = Incidence(net.n_flows, net.flow, net.link, net.weight, net.capacity, None if cap is None else caps, fan_in)
    flows = [naive.Flow(Fraction(0), size, path) for size, path in zip(sizes, all_paths, strict=True)]
    return net, np.array([float(size) for size in sizes]), flows, room, limits


@settings(max_examples=300, deadline=None)
@given(limited())
def test_folded_equals_unfolded(case: LimitedNetwork) -> None:
    net, size, *_ = case
    folded = fold(net, size.astype(np.int64))
    np.testing.assert_allclose(max_min_rates(folded.net)[0][folded.colour], max_min_rates(net)[0], rtol=1e-9, atol=0)
    finish = drain(folded.net, size[folded.flow_of]).finish
    np.testing.assert_allclose(finish[folded.colour], drain(net, size).finish, rtol=1e-9, atol=0)


@settings(max_examples=100, deadline=None)
@given(limited())
def test_drain_equals_exact_rational_simulation(case: LimitedNetwork) -> None:
    net, size, flows, room, limits = case
    expected = [float(t) for t in naive.finish_times(flows, room, limits)]
    np.testing.assert_allclose(drain(net, size).finish, expected, rtol=1e-9, atol=0)


MESSAGES = st.lists(
    st.tuples(st.integers(0, 15), st.integers(0, 2), st.integers(1, 60)).filter(lambda m: m[0] != m[1]),
    min_size=1,
    max_size=8,
)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 40), MESSAGES), min_size=1, max_size=4))
def test_staggered_starts_on_a_cluster(batches: list[tuple[int, list[tuple[int, int, int]]]]) -> None:
    """Batches to three receivers, at any time, arrive as in exact arithmetic."""
    cluster = LIMITED
    receives = frozenset(cluster.links.of_kind("nic_down").tolist())
    limits = naive.Limits(receives, EXACT, Fraction(3 * 10**9))
    capacity = [Fraction(c) for c in cluster.links.capacity.tolist()]
    flows = []
    batch_of = []
    for number, (start, messages) in enumerate(batches):
        for src, dst, size in messages:
            flows.append(naive.Flow(Fraction(start, 10**9), Fraction(size), LIMITED_PATHS[src, dst]))
            batch_of.append(number)
    expected = [0.0] * len(batches)
    for number, end in zip(batch_of, naive.finish_times(flows, capacity, limits), strict=True):
        expected[number] = max(expected[number], float(end))
    for folding in (True, False):
        assert _ends(cluster, batches, folding) == pytest.approx(expected, rel=1e-9)


LIMITED = bed(CURVE, "3 GB/s")
LIMITED_PATHS = {(src, dst): naive.path(LIMITED, src, dst) for src in range(16) for dst in range(3) if src != dst}


def _ends(cluster: Cluster, batches: list, folding: bool) -> list[float]:
    env = simpy.Environment()
    network = FlowFabric(env, cluster, folding)
    ends = [0.0] * len(batches)

    def send(number: int, start: int, messages: list):  # type: ignore[no-untyped-def]
        yield env.timeout(start * 1e-9)
        src, dst, size = (np.array(column) for column in zip(*messages, strict=True))
        yield network.transfer(route_flows(cluster, src, dst, size.astype(float), folding=folding))
        ends[number] = env.now

    env.run(until=simpy.AllOf(env, [env.process(send(i, *batch)) for i, batch in enumerate(batches)]))
    return ends
