"""Faults during a run: exact times, every byte conserved over the remaining routes, with and without folding."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import simpy
from hypothesis import given, settings
from hypothesis import strategies as st

from dessim.cluster import Cluster
from dessim.errors import ClusterError, SimulationError
from dessim.sim.core.recorder import Record
from dessim.sim.engine import simulate
from dessim.sim.faults.faults import Fault, Faults
from dessim.sim.fluid.fabric import RETRY_TIMEOUT_S, FlowFabric
from dessim.sim.fluid.flows import route_flows, route_messages
from dessim.sim.fluid.model import FluidNetwork
from dessim.sim.fluid.route_cache import RouteCache
from dessim.sim.progress import Progress
from dessim.trace.schema import Collective
from dessim.workload.dag import Workload
from dessim.workload.one_collective import one_collective
from tests.cluster.small_clusters import build, hosts, link
from tests.sim import naive

ALL_TO_ALL = {Collective.ALL_TO_ALL: "direct"}


def leaves_of(count: int, spines: int, latency: str = "0 s", **fabric: object) -> Cluster:
    """One host per leaf switch, whose NIC just fills its uplinks: full bisection bandwidth."""
    uplink = link(f"{16 / spines!r} GB/s", latency)
    data = hosts(**{"kind": "leaf_spine", "nodes_per_leaf": 1, "spines": spines, "uplink": uplink, **fabric})
    data["node"].update(count=count, nic=link("16 GB/s", latency))
    return build(data)


def exchange(n: int, size: float = 1e9) -> Workload:
    return one_collective(Collective.ALL_TO_ALL, n, size, name="exchange")


def exchanged(cluster: Cluster, *faults: Fault, n: int = 0, **rest: object) -> Record:
    return simulate(cluster, exchange(n or cluster.n_gpus), ALL_TO_ALL, faults=Faults(faults), **rest)  # type: ignore


# -- how long it takes ------------------------------------------------------------------------------------------------


def test_one_spine_of_16_down_slows_a_full_exchange_by_16_15() -> None:
    cluster = leaves_of(64, 16)
    whole = exchanged(cluster).end
    assert whole == pytest.approx(63 / 64 * 1e9 / 16e9, rel=1e-12)
    assert exchanged(cluster, Fault("spine11", 0.0)).end / whole == pytest.approx(16 / 15, rel=1e-6)
    # Down half-way: the second half takes 16/15 of its time.
    half = whole / 2
    assert exchanged(cluster, Fault("spine11", half)).end / whole == pytest.approx((1 + 16 / 15) / 2, rel=1e-9)
    # Up again after a quarter: that quarter carried 15/16 of its bytes.
    back = exchanged(cluster, Fault("spine11", half, half + whole / 4)).end
    assert back / whole == pytest.approx(1 + 1 / 4 / 16, rel=1e-9)
    # At half its rate: messages are split evenly, so all of them wait for the slow share.
    slow = exchanged(cluster, Fault("spine11", half, share=0.5)).end
    assert slow / whole == pytest.approx(1 / 2 + 2 / 2, rel=1e-9)


def test_a_ring_slows_down_from_the_stage_of_the_fault() -> None:
    """The fault ends the multiplication of stages; each stage pays latency once."""
    n, size, latency = 4, 4e9, 1e-3
    cluster = leaves_of(n, 1, "1 ms")
    job = one_collective(Collective.ALL_REDUCE, n, size, name="ring")
    stage = size / n / 16e9 + 4 * latency
    at = stage + 1 / 2 * size / n / 16e9  # when the second stage has sent half of its bytes
    record = simulate(
        cluster, job, {Collective.ALL_REDUCE: "ring"}, faults=Faults((Fault("leaf0 -> spine0", at, share=0.5),))
    )
    slow = 2 * size / n / 16e9 + 4 * latency
    assert record.end == pytest.approx(stage + (stage + slow) / 2 + 4 * slow, rel=1e-12)


def test_a_fault_after_the_last_byte_has_left_changes_nothing() -> None:
    cluster = leaves_of(8, 2, "1 ms")
    whole = exchanged(cluster).end
    late = exchanged(cluster, Fault("spine0", whole - 2e-3), Fault("gpu0", whole - 1e-3)).end
    assert late == pytest.approx(whole, rel=1e-12)


# -- no route ---------------------------------------------------------------------------------------------------------


def test_flows_without_a_route_wait_while_others_continue() -> None:
    cluster = leaves_of(2, 1)
    send = np.array([0]), np.array([1]), np.array([16e9])
    ends = run(cluster, [(0.0, *send)], [Fault("leaf0 -> spine0", 0.25, 3.0)], True)
    assert ends == pytest.approx([0.25 + 2.75 + 0.75], rel=1e-12)
    # Two senders, one receiver: each has half the rate for 0.5 s; then one has the full rate, until 1.25 s, while the
    # NIC of the other is down.
    cluster, other = leaves_of(3, 1), (np.array([2]), *send[1:])
    ends = run(cluster, [(0.0, *send), (0.0, *other)], [Fault("gpu0", 0.5, 1.5)], True)
    assert ends == pytest.approx([1.5 + 0.75, 0.5 + 0.75], rel=1e-12)


def test_a_stage_that_begins_while_a_nic_is_down_waits_for_it() -> None:
    cluster = leaves_of(4, 2)
    whole = exchanged(cluster).end
    assert exchanged(cluster, Fault("gpu1", 0.0, 0.5)).end == pytest.approx(0.5 + whole, rel=1e-12)


def test_a_link_that_stays_down_is_named_after_the_timeout() -> None:
    cluster = leaves_of(4, 1)
    message = r"gpu0 could not reach gpu1 for 34\.36 s, starting at 10 ms: leaf0 -> spine0 is down and no other route"
    with pytest.raises(SimulationError, match=message):
        exchanged(cluster, Fault("leaf0 -> spine0", 0.01))
    with pytest.raises(
        SimulationError, match=r"for 34\.36 s, starting at 0 s"
    ):  # down before it began, without a fault
        simulate(cluster.with_links([("leaf0 -> spine0", 0.0)]), exchange(4), ALL_TO_ALL)
    # Two short outages do not add up.
    half = 0.6 * RETRY_TIMEOUT_S
    twice = [Fault("leaf0 -> spine0", 0.01, half), Fault("leaf0 -> spine0", half + 1e-3, 2 * half)]
    assert exchanged(cluster, *twice).end > 2 * half
    # Other faults do not restart the timeout.
    faults = Faults((Fault("leaf0 -> spine0", 0.01, 0.51), Fault("leaf2 -> spine0", 0.3, 0.35, 0.5)), timeout=0.4)
    with pytest.raises(SimulationError, match=r"for 400 ms, starting at 10 ms"):
        simulate(cluster, exchange(4), ALL_TO_ALL, faults=faults)


# -- states -----------------------------------------------------------------------------------------------------------


def test_equal_states_are_one_cluster_and_the_worst_of_several_faults_counts() -> None:
    cluster = leaves_of(4, 2)
    faults = Faults(
        (
            Fault("spine0", 1.0, 2.0),
            Fault("spine0", 3.0, 4.0),
            Fault("leaf0 -> spine0", 0.5, 3.5, share=0.25),
            Fault("leaf1 -> spine1", 9.0, 9.5, share=1.0),
        )
    )
    times, states = zip(*faults.states(cluster), strict=True)
    assert times == (0.5, 1.0, 2.0, 3.0, 3.5, 4.0, 9.0, 9.5)
    assert states[0] is states[2] and states[5] is states[7] is cluster
    number = [cluster.links.name(i) for i in range(len(cluster.links))].index("leaf0 -> spine0")
    shares = [float(state.links.capacity[number] / cluster.links.capacity[number]) for state in states]
    assert shares == [0.25, 0, 0.25, 0, 0, 1, 1, 1]
    with pytest.raises(ClusterError, match=r"^faults:spin0: nothing is called 'spin0'; did you mean 'spine0'"):
        Faults((Fault("spin0", 0.0),)).check_names(cluster)


def test_a_fault_that_repeats_50_000_times_has_two_states() -> None:
    cluster = leaves_of(4, 2)
    faults = Faults(tuple(Fault("spine0", float(time), time + 0.5) for time in range(50_000)))
    times, states = zip(*faults.states(cluster), strict=True)
    assert times[:4] == (0.0, 0.5, 1.0, 1.5) and len(times) == 100_000
    assert states[1] is cluster and len({id(state) for state in states}) == 2


def test_routed_stages_are_kept_for_each_state_of_the_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = leaves_of(4, 2)
    routed = RouteCache(cluster)
    down = cluster.with_links([("spine0", 0.0)])
    assert routed.on(down) is routed.on(cluster.with_links([("spine0", 0.0)])) is not routed
    assert routed.on(cluster) is routed
    env = simpy.Environment()
    fabric = FlowFabric(env, cluster)
    job = FluidNetwork(fabric, routed, {"w": range(4)})
    routed_on = []
    monkeypatch.setattr(
        "dessim.sim.fluid.route_cache.route_messages",
        lambda c, *a, **k: routed_on.append(c) or route_messages(c, *a, **k),
    )

    def run_in_each_state():  # type: ignore[no-untyped-def]
        for state in (cluster, down, cluster, down):
            job.reroute(state)
            fabric.change(state)
            yield from job.run(Collective.ALL_GATHER, "w", 4e9, splits=None, progress=Progress())

    env.run(until=env.process(run_in_each_state()))
    as_built = [c for c in routed_on if c is cluster]
    assert len([c for c in routed_on if c is down]) == 1  # the algorithm is chosen on the cluster as built
    assert len(routed_on) == len(as_built) + 1


# -- properties -------------------------------------------------------------------------------------------------------

HOSTS = 6
MESSAGES = st.lists(
    st.tuples(
        st.integers(0, 40),
        st.lists(
            st.tuples(st.integers(0, HOSTS - 1), st.integers(1, HOSTS - 1), st.integers(1, 60)), min_size=1, max_size=5
        ),
    ),
    min_size=1,
    max_size=4,
)
FAULTS = st.lists(
    st.builds(
        lambda which, start, length, share: Fault(which, start * 1e-9, (start + length) * 1e-9, share),
        st.sampled_from(["spine0", "spine1", "leaf0 -> spine2", "leaf1 <-> spine0", "gpu2"]),
        st.integers(0, 60),
        st.integers(1, 40),
        st.sampled_from([0.0, 0.25, 0.5]),
    ),
    max_size=4,
)


def bed(routing: str) -> Cluster:
    data = hosts(kind="leaf_spine", nodes_per_leaf=2, spines=3, uplink=link("1 GB/s", "0 s"), routing=routing)
    data["node"].update(count=HOSTS, nic=link("4 GB/s", "0 s"))
    return build(data)


BEDS = {routing: bed(routing) for routing in ("split", "static", "ecmp")}


def run(cluster: Cluster, sends: list, faults: list[Fault], folding: bool) -> list[float]:
    """When each batch (start, src, dst, size) has arrived."""
    return run_network(cluster, sends, faults, folding)[0]


def run_network(cluster: Cluster, sends: list, faults: list[Fault], folding: bool) -> tuple[list[float], FlowFabric]:
    env = simpy.Environment()
    network = FlowFabric(env, cluster, folding)
    ends = [0.0] * len(sends)

    def transfer(number: int, start: float, src: np.ndarray, dst: np.ndarray, size: np.ndarray):  # type: ignore[no-untyped-def]
        yield env.timeout(start)
        yield network.transfer(route_flows(network.cluster, src, dst, size, folding=folding))
        ends[number] = env.now

    env.process(Faults(tuple(faults)).apply(env, network, []))
    env.run(until=simpy.AllOf(env, [env.process(transfer(i, *send)) for i, send in enumerate(sends)]))
    return ends, network


def as_sends(batches: list) -> list:
    sends = []
    for start, messages in batches:
        src, shift, size = (np.array(column) for column in zip(*messages, strict=True))
        sends.append((start * 1e-9, src, (src + shift) % HOSTS, size.astype(float)))
    return sends


def exact(cluster: Cluster, batches: list, faults: list[Fault]) -> tuple[list[float], list[float]]:
    """The same in rational arithmetic, with rates from scratch at every start, finish and change of state.

    Also returns the bytes that each link carried, as the integral of the rates of its flows.
    """
    nano = Fraction(1, 10**9)
    states = [(Fraction(0), cluster)] + [
        (round(time * 1e9) * nano, state) for time, state in Faults(tuple(faults)).states(cluster)
    ]
    sends = [
        (start * nano, src, (src + shift) % HOSTS, number)
        for number, (start, messages) in enumerate(batches)
        for src, shift, _ in messages
    ]
    left = [Fraction(size) for _, messages in batches for _, _, size in messages]
    ends = [Fraction(0)] * len(batches)
    carried = [Fraction(0)] * len(cluster.links)
    now = Fraction(0)
    while any(left):
        state = [state for time, state in states if time <= now][-1]
        capacity = [Fraction(c) for c in state.links.capacity.tolist()]
        paths = {}
        for i, (start, src, dst, _) in enumerate(sends):
            if left[i] and start <= now:
                routes = state.routes([src], [dst], refuse=False)
                path = zip(routes.link.tolist(), routes.weight.tolist(), strict=True)
                paths[i] = {at: Fraction(weight).limit_denominator(100) for at, weight in path}
        open_flows = [i for i in paths if all(capacity[at] for at in paths[i])]
        rates = dict(zip(open_flows, naive.rates([paths[i] for i in open_flows], capacity), strict=True))
        instants = [now + left[i] / rates[i] for i in open_flows]
        instants += [send[0] for i, send in enumerate(sends) if left[i] and send[0] > now]
        instants += [time for time, _ in states if time > now]
        following = min(instants)
        for i in open_flows:
            left[i] -= rates[i] * (following - now)
            for at, weight in paths[i].items():
                carried[at] += weight * rates[i] * (following - now)
            if not left[i]:
                ends[sends[i][3]] = following
        now = following
    return [float(end) for end in ends], [float(size) for size in carried]


@settings(max_examples=100, deadline=None)
@given(routing=st.sampled_from(sorted(BEDS)), batches=MESSAGES, faults=FAULTS)
def test_arrivals_equal_exact_arithmetic_folded_or_not(routing: str, batches: list, faults: list[Fault]) -> None:
    cluster = BEDS[routing]
    expected, _ = exact(cluster, batches, faults)
    assert run(cluster, as_sends(batches), faults, folding=True) == pytest.approx(expected, rel=1e-9)
    assert run(cluster, as_sends(batches), faults, folding=False) == pytest.approx(expected, rel=1e-9)


def each_link_its_own_class(cluster: Cluster) -> Cluster:
    """A cluster whose counters by link class are counters by link."""
    links = cluster.links
    kinds = tuple(links.name(i) for i in range(len(links)))
    return replace(cluster, links=replace(links, kind=np.arange(len(links), dtype=np.int8), kinds=kinds))


@settings(max_examples=60, deadline=None)
@given(routing=st.sampled_from(["static", "ecmp"]), batches=MESSAGES, faults=FAULTS, folding=st.booleans())
def test_every_link_carries_the_bytes_of_exact_arithmetic(
    routing: str, batches: list, faults: list[Fault], folding: bool
) -> None:
    cluster = each_link_its_own_class(BEDS[routing])
    _, expected = exact(cluster, batches, faults)
    sends = as_sends(batches)
    ends, network = run_network(cluster, sends, faults, folding)
    counted = network.counters.bytes_by_kind
    assert counted == pytest.approx(expected, rel=1e-9, abs=1e-6)
    load = network.counters.load(max(ends))  # per link, bytes are the integral of its rate
    integral = [float(load.rate[k] @ np.diff(load.time)) if k in load.rate else 0.0 for k in cluster.links.kinds]
    assert integral == pytest.approx(expected, rel=1e-9, abs=1e-6)
    # Hosts send the bytes of their messages, and receivers receive them.
    for kind, end in ((cluster.links.src, 1), (cluster.links.dst, 2)):
        sent = [sum(float(send[3][send[end] == host].sum()) for send in sends) for host in range(HOSTS)]
        assert [counted[kind == host].sum() for host in range(HOSTS)] == pytest.approx(sent, rel=1e-9)
