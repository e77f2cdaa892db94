"""Parameter servers, compared with closed forms of deterministic queues, and properties that hold for any traffic."""

from __future__ import annotations

import dataclasses
import heapq
import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dessim.cluster import Cluster, load_cluster
from dessim.sim.core.bounds import LATE, QUEUE, SERVICE
from dessim.sim.fluid.flows import route_flows
from dessim.sim.servers import parameter_server
from dessim.sim.servers.folded_routes import open_channels
from dessim.sim.servers.parameter_server import serve
from dessim.sim.servers.traffic import Consistency, ServersResult, StepTraffic
from dessim.trace.schema import Kind

WIRE = load_cluster("one-switch_16")  # one GPU per host, all hosts at one switch
RATE = float(WIRE.links.capacity[0])
RAILS = load_cluster("h100-8x_rail_128")
US = 1e-6


@pytest.fixture(autouse=True)
def few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Simulate eight steps per worker, which is enough for these tests."""
    monkeypatch.setattr(parameter_server, "MEASURED_IN_TOTAL", 1)


def hop(cluster: Cluster = WIRE) -> float:
    """Seconds of an empty message between two hosts."""
    return float(cluster.routes([0], [cluster.n_gpus - 1]).latency[0]) + cluster.transport.message_overhead


def run(
    n: int, s: int, traffic: StepTraffic, compute: tuple[float, float], consistency: Consistency, **more: object
) -> ServersResult:
    """Simulate `n` workers on the first hosts of the switch and `s` servers on the hosts after them."""
    return serve(
        WIRE, np.arange(n), np.arange(n, n + s), traffic=traffic, compute=compute, consistency=consistency, **more
    )  # type: ignore[arg-type]


def messages(request: float, reply: float, push: float, s: int = 1) -> float:
    """Seconds that the four messages of a worker's step take when it is alone; the last one is empty."""
    queueing = (s - 1) * WIRE.transport.message_overhead
    return (request + s * reply + push) / RATE + 4 * hop() + 2 * queueing


@pytest.mark.parametrize("sync", [True, False])
@pytest.mark.parametrize("s", [1, 4])
def test_a_step_of_a_lone_worker_is_the_sum_of_its_parts(sync: bool, s: int) -> None:
    traffic = StepTraffic(1e4, 3e5, 2e5, gather=20 * US, merge=30 * US, apply=40 * US if sync else 0.0)
    served = run(1, s, traffic, (50 * US, 500 * US), Consistency(sync))
    # The worker's NIC carries the messages to and from all servers.
    expected = (s * 1e4 + s * 3e5 + s * 2e5) / RATE + 4 * hop() + 2 * (s - 1) * WIRE.transport.message_overhead
    expected += (50 + 500 + 20 + 30 + (40 if sync else 0)) * US
    assert served.step_time == pytest.approx(expected, rel=1e-9)
    assert served.staleness.max() == 0 and served.lead == 0


def test_a_lone_worker_waits_for_the_busiest_server() -> None:
    """Three servers have nothing to do but one message each; the other one takes all the time."""
    light = StepTraffic(1.0, 1.0, 1.0, gather=1 * US, merge=1 * US, apply=1 * US)
    heavy = StepTraffic(1e4, 3e5, 2e5, gather=20 * US, merge=30 * US, apply=40 * US)
    served = run(1, 4, light, (50 * US, 500 * US), Consistency(), busiest=heavy)
    expected = (1e4 + 3e5 + 2e5) / RATE + 4 * hop() + 6 * WIRE.transport.message_overhead + 640 * US
    assert served.step_time == pytest.approx(expected, rel=1e-4)
    up, down = (served.bytes_by_link[kind] for kind in ("nic_up", "nic_down"))
    assert up == pytest.approx(1e4 + 3e5 + 2e5 + 3 * 3) and down == pytest.approx(up)


def test_a_busiest_server_like_all_others_changes_nothing() -> None:
    traffic = StepTraffic(1e4, 3e5, 2e5, gather=20 * US, merge=30 * US, apply=40 * US)
    even, stated = (run(6, 4, traffic, (50 * US, 500 * US), Consistency(), busiest=b) for b in (None, traffic))
    assert stated.step_time == pytest.approx(even.step_time, rel=1e-9)


@pytest.mark.parametrize("sync", [True, False])
def test_folding_keeps_the_busiest_server_apart(sync: bool) -> None:
    traffic = StepTraffic(1e4, 3e5, 2e5, gather=20 * US, merge=30 * US, apply=40 * US if sync else 0.0)
    busiest = dataclasses.replace(traffic, reply=9e5, gather=50 * US)
    folded, each = (
        serve(
            RAILS,
            np.arange(12),
            np.arange(16, 64, 8),
            traffic=traffic,
            compute=(0.0, 100 * US),
            consistency=Consistency(sync),
            busiest=busiest,
            folding=folding,
        )
        for folding in (True, False)
    )
    assert folded.step_time == pytest.approx(each.step_time, rel=1e-9)
    assert folded.bytes_by_link == pytest.approx(each.bytes_by_link, rel=1e-9)


@pytest.mark.parametrize("n", [2, 5, 12])
@pytest.mark.parametrize("compute", [0.0, 100 * US, 700 * US])
def test_asynchronous_workers_form_a_closed_deterministic_queue(n: int, compute: float) -> None:
    """N equal customers, one server: a round takes N services, or the time of a lone customer, whichever is longer."""
    traffic = StepTraffic(1.0, 1.0, 1.0, gather=60 * US, merge=40 * US)
    served = run(n, 1, traffic, (0.0, compute), Consistency(sync=False), measured=12)
    alone = compute + 100 * US + messages(1, 1, 1)
    assert served.step_time == pytest.approx(max(n * 100 * US, alone), rel=1e-6)
    assert served.busy == pytest.approx(min(1.0, n * 100 * US / alone), rel=1e-2)


def test_visits_that_cannot_be_packed_cost_more_than_either_bound() -> None:
    """Eight workers each pull and push at a fixed distance. No such schedule keeps the server 99 % busy."""
    served = run(8, 1, StepTraffic(1.0, 1.0, 1.0, 60 * US, 40 * US), (0.0, 700 * US), Consistency(sync=False))
    alone = 800 * US + messages(1, 1, 1)
    assert alone * 1.01 < served.step_time < alone * 1.1


@pytest.mark.parametrize("n", [2, 6, 12])
def test_equal_workers_are_stale_by_one_update_of_each_other_worker(n: int) -> None:
    served = run(n, 1, StepTraffic(1.0, 1.0, 1.0, 60 * US, 40 * US), (0.0, 500 * n * US), Consistency(sync=False))
    assert served.staleness[-3 * n :].tolist() == [n - 1] * 3 * n  # once the order of workers is periodic


def test_versions_are_those_of_consecutive_updates_and_give_the_staleness() -> None:
    n = 6
    jittered = Consistency(sync=False, jitter=0.4, seed=1)
    served = run(n, 1, StepTraffic(1.0, 1.0, 1.0, 60 * US, 40 * US), (0.0, 900 * US), jittered, measured=12)
    pulled, pushed = served.versions.T
    assert pushed.tolist() == list(range(len(pushed))) and len(pushed) >= n * (parameter_server.WARM_UP_STEPS + 12)
    first = parameter_server.WARM_UP_STEPS * n
    assert (pushed - pulled)[first : first + served.steps].tolist() == served.staleness.tolist()
    assert pulled.min() == 0 and len(set(served.staleness.tolist())) > 2


def test_pulls_that_queue_read_fresher_parameters() -> None:
    """Updates applied while a pull waits are included in its reply."""
    served = run(12, 1, StepTraffic(1.0, 1.0, 1.0, 60 * US, 40 * US), (0.0, 200 * US), Consistency(sync=False))
    assert served.busy == pytest.approx(1, rel=1e-6) and served.staleness.max() < 11


def test_threads_serve_in_parallel_until_the_nic_is_full() -> None:
    slow = StepTraffic(1.0, 1.0, 1.0, gather=300 * US, merge=300 * US)
    times = [run(12, 1, slow, (0.0, 0.0), Consistency(sync=False, threads=k)).step_time for k in (1, 2, 4)]
    assert [times[0] / t for t in times] == pytest.approx([1, 2, 4], rel=1e-6)
    large = StepTraffic(1.0, 5e6, 1.0, gather=1 * US, merge=1 * US)
    served = run(12, 1, large, (0.0, 0.0), Consistency(sync=False, threads=12))
    assert served.step_time >= 12 * 5e6 / RATE * (1 - 1e-9)  # all replies leave through the server's only NIC
    assert served.step_time == pytest.approx(12 * 5e6 / RATE, rel=0.02)
    twice = run(12, 2, dataclasses.replace(large, reply=2.5e6), (0.0, 0.0), Consistency(sync=False, threads=12))
    assert served.step_time / twice.step_time == pytest.approx(2, rel=0.03)


@pytest.mark.parametrize(("n", "s"), [(4, 1), (8, 2), (12, 4)])
def test_a_synchronous_step_is_two_queues_and_a_barrier(n: int, s: int) -> None:
    """Requests arrive together, and the last worker gets its reply after N services. It computes and pushes last. By
    then the server has merged all other pushes: they arrived one service apart, and a push takes no longer than a pull.
    """
    traffic = StepTraffic(100.0, 1.0, 1.0, gather=50 * US, merge=40 * US, apply=70 * US)
    served = run(n, s, traffic, (30 * US, 1500 * US), Consistency())
    overhead = (s - 1) * WIRE.transport.message_overhead
    requests = max(n, s) * 100 / RATE + hop() + overhead
    last_push = 30 * US + requests + n * 50 * US + s / RATE + hop() + 1500 * US + s / RATE + hop() + overhead + 40 * US
    assert served.step_time == pytest.approx(last_push + 70 * US + hop(), rel=1e-9)
    assert served.staleness.max() == 0


def test_a_barrier_waits_for_the_slowest_worker_and_prevents_staleness() -> None:
    traffic = StepTraffic(1e4, 1e5, 1e5, gather=5 * US, merge=5 * US, apply=5 * US)
    even = run(8, 2, traffic, (50 * US, 500 * US), Consistency())
    uneven = run(8, 2, traffic, (50 * US, 500 * US), Consistency(jitter=0.3, seed=1))
    asynchronous = run(8, 2, traffic, (50 * US, 500 * US), Consistency(sync=False, jitter=0.3, seed=1))
    assert uneven.step_time > 1.2 * even.step_time and asynchronous.step_time < 0.9 * uneven.step_time
    assert uneven.staleness.max() == 0 and asynchronous.staleness.max() > 7 > asynchronous.staleness.min()


@pytest.mark.parametrize("up", [-math.inf, math.inf])
def test_the_last_bits_of_its_inputs_do_not_matter(monkeypatch: pytest.MonkeyPatch, up: float) -> None:
    """Exponentials, and so numbers of distinct ids, end in other bits on other processors."""

    def outcome(change: Callable[[float], float]) -> list[float]:
        monkeypatch.setattr(parameter_server.math, "exp", lambda x: change(math.e**x))
        traffic = StepTraffic(*(change(x) for x in (40398.829043684, 486126.04687, 526524.87591, 14 * US, 16 * US)))
        compute = (change(120 * US / 7), change(590 * US / 7))
        served = run(8, 4, traffic, compute, Consistency(sync=False, staleness=4, jitter=0.2, seed=5))
        return [span.end for span in served.record.spans]

    assert outcome(lambda x: math.nextafter(x, up)) == outcome(float)


def by_hand(
    n: int, traffic: StepTraffic, compute: tuple[float, float], consistency: Consistency, steps: int
) -> list[float]:
    """When each push is applied by one server with one thread, computed from a heap of arrivals, without a network.

    Each message takes one hop; a worker has the same random draws as in the simulation.
    """
    seeds = np.random.SeedSequence(consistency.seed).spawn(n)
    rngs = [np.random.default_rng(seed) for seed in seeds]
    message_s = hop() + 1 / RATE
    arrivals: list[tuple[float, int, bool]] = []  # time, worker, whether it is a push
    factors = [1.0] * n

    def begin(w: int, now: float) -> None:
        factors[w] = round(math.exp(consistency.jitter * rngs[w].standard_normal()), 9)
        heapq.heappush(arrivals, (now + compute[0] * factors[w] + message_s, w, False))

    for w in range(n):
        begin(w, 0.0)
    free = 0.0  # when the server is free again
    applied: list[float] = []
    while len(applied) < steps:
        arrived, w, push = heapq.heappop(arrivals)
        free = max(free, arrived) + (traffic.merge if push else traffic.gather)
        if push:
            applied.append(free)
            begin(w, free + hop())
        else:
            heapq.heappush(arrivals, (free + message_s + compute[1] * factors[w] + message_s, w, True))
    return applied


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("n", [3, 12])
def test_pushes_are_applied_at_the_times_of_a_queue_without_a_network(n: int, seed: int) -> None:
    traffic, compute = StepTraffic(1.0, 1.0, 1.0, 40 * US, 60 * US), (50 * US, 600 * US)
    consistency = Consistency(sync=False, jitter=0.4, seed=seed)
    served = run(n, 1, traffic, compute, consistency, measured=6)
    pushes = sorted(s.end - hop() for s in served.record.spans if s.name == "push")
    expected = by_hand(n, traffic, compute, consistency, 8 * n)
    assert pushes[: 8 * n] == pytest.approx(expected, rel=1e-6)  # messages of one byte hardly contend for links


@settings(max_examples=15, deadline=None)
@given(
    n=st.integers(2, 6),
    bound=st.integers(0, 3),
    jitter=st.floats(0.1, 1.5),
    seed=st.integers(0, 2**32 - 1),
    threads=st.integers(1, 3),
)
def test_bounded_staleness_is_never_exceeded(n: int, bound: int, jitter: float, seed: int, threads: int) -> None:
    traffic = StepTraffic(1e3, 1e5, 1e5, gather=10 * US, merge=20 * US)
    served = run(n, 1, traffic, (20 * US, 300 * US), Consistency(False, bound, threads, jitter, seed), measured=5)
    assert served.lead <= bound
    # During one step of a worker, any other worker ends at most the steps that its lead and its lag allow.
    assert served.staleness.max() <= (n - 1) * (2 * bound + 1)


def test_a_tighter_bound_costs_time_and_lowers_staleness() -> None:
    traffic = StepTraffic(1e3, 1e5, 1e5, gather=5 * US, merge=5 * US)
    runs = [run(8, 1, traffic, (20 * US, 400 * US), Consistency(False, bound, 1, 0.8, 3)) for bound in (0, 1, 4, None)]
    assert runs[0].step_time > runs[1].step_time > runs[3].step_time * 0.999
    assert runs[0].lead == 0 and runs[3].lead > 1
    waits = [sum(s.parts.get(LATE, 0.0) for s in r.record.spans) for r in runs]
    assert waits[0] > waits[1] > waits[3] == 0


@settings(max_examples=8, deadline=None)
@given(
    sync=st.booleans(),
    jitter=st.sampled_from([0.0, 0.5]),
    seed=st.integers(0, 99),
    threads=st.integers(1, 3),
    limits=st.sampled_from([{}, {"fan_in": ((1.0, 1.0), (5.0, 0.6))}, {"flow_rate": 10e9}]),
)
def test_folded_servers_behave_like_single_servers(
    sync: bool, jitter: float, seed: int, threads: int, limits: dict[str, Any]
) -> None:
    """Servers on two rails of two pods, workers on several: some servers are identical, others are not."""
    rails = dataclasses.replace(RAILS, transport=dataclasses.replace(RAILS.transport, **limits))
    workers, servers = np.array([0, 1, 2, 9, 300]), np.array([32, 40, 56, 57, 304])
    traffic = StepTraffic(1e5, 2e6, 2e6, gather=20 * US, merge=25 * US, apply=10 * US if sync else 0.0)
    consistency = Consistency(sync, None, threads, jitter, seed)
    folded, whole = (
        serve(
            rails,
            workers,
            servers,
            traffic=traffic,
            compute=(10 * US, 100 * US),
            consistency=consistency,
            measured=2,
            folding=folding,
        )
        for folding in (True, False)
    )
    assert len(open_channels(RAILS, workers, servers).sizes) < len(servers)
    assert folded.step_time == pytest.approx(whole.step_time, rel=1e-9)
    assert sorted(folded.staleness.tolist()) == sorted(whole.staleness.tolist())
    assert folded.bytes_by_link == pytest.approx(dict(whole.bytes_by_link), rel=1e-9)
    for a, b in zip(folded.record.spans, whole.record.spans, strict=True):
        assert (a.rank_class, a.name) == (b.rank_class, b.name)
        assert (a.start, a.end) == pytest.approx((b.start, b.end), rel=1e-9)


def test_a_folded_message_takes_as_long_as_all_messages_it_stands_for() -> None:
    """A worker's message to 16 identical servers has the same time and bytes as 16 flows on the cluster."""
    workers, servers = np.arange(64), 8 * np.arange(32, 48)
    channels = open_channels(RAILS, workers, servers)
    assert channels.sizes == (16,)
    for w in (0, 5, 63):
        src = np.full(16, w)
        for flows, (a, b) in ((channels.up[w][0], (src, servers)), (channels.down[w][0], (servers, src))):
            plain = route_flows(RAILS, a, b, np.ones(16))
            assert flows.alone(1e6) == pytest.approx(plain.alone(1e6), rel=1e-9)
            assert flows.bytes_by_kind == pytest.approx(plain.bytes_by_kind, rel=1e-9)


def test_fan_in_slows_many_workers_at_a_servers_nic() -> None:
    transport = dataclasses.replace(WIRE.transport, fan_in=((1.0, 1.0), (8.0, 0.5)))
    traffic = StepTraffic(2e6, 1.0, 1.0, 0.1 * US, 0.1 * US)
    with_incast = dataclasses.replace(WIRE, transport=transport)
    plain, slow = (
        serve(
            cluster, np.arange(8), np.arange(8, 9), traffic=traffic, compute=(0.0, 0.0), consistency=Consistency()
        ).step_time
        for cluster in (WIRE, with_incast)
    )
    assert slow - plain == pytest.approx(8 * 2e6 / RATE, rel=1e-6)  # half the rate, twice the time


def test_spans_of_a_worker_leave_no_gap() -> None:
    """The spans of a worker follow each other without a gap, and their parts add up to their lengths."""
    traffic = StepTraffic(1e4, 1e6, 1e6, gather=40 * US, merge=60 * US)
    served = run(6, 2, traffic, (20 * US, 200 * US), Consistency(False, 1, 1, 0.5, 2))
    for worker in range(6):
        spans = sorted((s for s in served.record.spans if s.rank_class == worker), key=lambda s: (s.start, s.end))
        assert spans[0].start == 0 and spans[-1].end >= served.end
        assert all(a.end == b.start for a, b in pairwise(spans))
        for span in spans:
            assert sum(span.parts.values()) == pytest.approx(span.end - span.start, rel=1e-9)
    calls = [s for s in served.record.spans if s.kind is Kind.P2P and s.name in ("pull", "push")]
    assert all(s.parts[SERVICE] > 0 for s in calls) and any(s.parts.get(QUEUE, 0) > 0 for s in calls)


def test_runs_with_the_same_seed_are_identical() -> None:
    traffic = StepTraffic(1e4, 1e6, 1e6, 40 * US, 60 * US)
    a, b, other = (
        run(4, 2, traffic, (20 * US, 200 * US), Consistency(False, None, 1, 0.5, seed), measured=3)
        for seed in (7, 7, 8)
    )
    assert a.record.spans == b.record.spans and a.end == b.end != other.end
