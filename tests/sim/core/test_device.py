"""Compute that is slowed by a concurrent collective, compared with closed forms."""

from __future__ import annotations

import dataclasses

import pytest
import simpy
from hypothesis import given
from hypothesis import strategies as st

from dessim.cluster import Cluster, load_cluster
from dessim.results.metrics import breakdown
from dessim.sim.core.device import Device
from dessim.sim.engine import simulate
from tests.sim.test_engine import RING, compute, job, reduce, ring

CLUSTER = load_cluster("one-switch_16")  # 50 GB/s per host; a message crosses two links of 1 us


def cluster_with_share(share: float) -> Cluster:
    """Communication occupies `share` of the SMs of each GPU."""
    return dataclasses.replace(CLUSTER, gpu=dataclasses.replace(CLUSTER.gpu, comm_sm_share=share))


def finish(seconds: float, intervals: list[tuple[float, float]], share: float) -> float:
    """When `seconds` of work from time 0 on finish, computed from one change of the rate to the next."""
    now = 0.0
    left = seconds
    for edge in sorted({t for interval in intervals for t in interval}):
        rate = 1 - share if any(a <= now < b for a, b in intervals) else 1.0
        if left <= (edge - now) * rate:
            return now + left / rate
        left -= (edge - now) * rate
        now = edge
    return now + left


def simulated(seconds: float, intervals: list[tuple[float, float]], share: float) -> float:
    env = simpy.Environment()
    device = Device(env, share)
    ended = []

    def communicate(begin: float, end: float):
        yield env.timeout(begin)
        device.begin_communication()
        yield env.timeout(end - begin)
        device.end_communication()

    def work():
        yield from device.compute(seconds)
        ended.append(env.now)

    for begin, end in intervals:
        env.process(communicate(begin, end))
    env.process(work())
    env.run()
    return ended[0]


def test_communication_during_compute_prolongs_it_by_its_share() -> None:
    # In c seconds of communication c * (1 - share) seconds of work are done; the rest follows afterwards.
    assert simulated(10.0, [(2.0, 6.0)], 0.25) == pytest.approx(10.0 + 4.0 * 0.25, rel=1e-15)


def test_communication_slows_only_the_compute_that_it_overlaps() -> None:
    assert simulated(10.0, [(6.0, 100.0)], 0.5) == pytest.approx(6.0 + 4.0 / 0.5, rel=1e-15)
    assert simulated(10.0, [(10.0, 20.0)], 0.5) == pytest.approx(10.0, rel=1e-15)
    assert simulated(10.0, [(0.0, 20.0)], 0.0) == 10.0


def test_concurrent_collectives_take_the_share_of_one() -> None:
    assert simulated(10.0, [(1.0, 5.0), (2.0, 3.0), (5.0, 6.0)], 0.2) == pytest.approx(10.0 + 5.0 * 0.2, rel=1e-15)


times = st.integers(min_value=0, max_value=40).map(lambda n: n / 4)


@given(
    st.integers(min_value=1, max_value=80).map(lambda n: n / 4),
    st.lists(st.tuples(times, times).map(lambda p: (min(p), max(p) + 0.25)), max_size=5),
    st.sampled_from([0.0, 0.125, 0.3, 0.75]),
)
def test_any_intervals_equal_the_calculation_by_changes(
    seconds: float, intervals: list[tuple[float, float]], share: float
) -> None:
    assert simulated(seconds, intervals, share) == pytest.approx(finish(seconds, intervals, share), rel=1e-12)


def test_a_job_is_prolonged_by_the_overlapped_part_of_its_compute() -> None:
    share, size = 16 / 132, 50e6
    tasks = [compute("before", 1e-3), reduce("all", size, 0), compute("beside", 4e-3, 0), compute("after", 1e-3, 1, 2)]
    record = simulate(cluster_with_share(share), job([(range(2), tasks)]), RING)
    prolonged = 4e-3 + share * ring(2, size)
    spans = {s.name: s.end - s.start for s in record.spans}
    assert spans["beside"] == pytest.approx(prolonged, rel=1e-12)
    assert spans["before"] == spans["after"] == pytest.approx(1e-3)  # no concurrent communication
    assert spans["all"] == pytest.approx(ring(2, size))  # compute does not slow the network
    assert breakdown(record).compute_s == pytest.approx(2e-3 + prolonged)


def test_a_collective_that_waits_for_a_late_rank_slows_no_compute() -> None:
    share, size = 0.25, 50e6
    early = [reduce("all", size), compute("beside", 20e-3)]
    late = [compute("work", 5e-3), reduce("all", size, 0)]
    record = simulate(cluster_with_share(share), job([((0,), early), ((1,), late)]), RING)
    spans = {(s.rank_class, s.name): s.end - s.start for s in record.spans}
    assert spans[0, "beside"] == pytest.approx(20e-3 + share * ring(2, size), rel=1e-12)
    assert spans[1, "work"] == pytest.approx(5e-3)


def test_collectives_of_other_ranks_slow_no_compute() -> None:
    groups = {"pair": (0, 1)}
    tasks = [reduce("x", 50e6, group="pair")]
    classes = [((0, 1), [*tasks, compute("beside", 5e-3)]), ((2,), [compute("alone", 5e-3)])]
    record = simulate(cluster_with_share(0.5), job(classes, **groups), RING)
    spans = {s.name: s.end - s.start for s in record.spans}
    assert spans["alone"] == pytest.approx(5e-3)
    assert spans["beside"] == pytest.approx(5e-3 + 0.5 * ring(2, 50e6), rel=1e-12)


def test_folding_and_rank_classes_change_no_result() -> None:
    tasks = [compute("a", 1e-3), reduce("x", 4e6, 0), compute("b", 2e-3, 0), reduce("y", 1e5, 2)]
    one_class = job([(range(8), tasks)])
    eight_classes = job([((r,), tasks) for r in range(8)])
    times = [
        simulate(cluster_with_share(0.2), w, folding=f).end for w in (one_class, eight_classes) for f in (True, False)
    ]
    assert times == pytest.approx([times[0]] * 4, rel=1e-9)
