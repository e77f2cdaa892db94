"""Bursts, acknowledgements, a shared host and parts in flight: each against what one can work out by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from dessim.cluster import Cluster
from dessim.collectives import Options
from dessim.commands.collective import Measurement, run_collective
from dessim.sim.fluid.drain import Chain, drain
from dessim.sim.fluid.flows import route_flows
from dessim.sim.fluid.maxmin import Incidence
from dessim.trace.schema import Collective
from tests.cluster.small_clusters import build, hosts

RATE, ALPHA = 50e9, 2e-6  # of a NIC; of a path over one switch


@pytest.fixture(scope="module")
def bed() -> Cluster:
    data = hosts(kind="single_switch")
    data["node"]["count"] = 8
    return build(data)


def on(bed: Cluster, **transport: float) -> Cluster:
    return replace(bed, transport=replace(bed.transport, **transport))


def run(bed: Cluster, op: Collective, n: int, size: float, name: str = "gloo") -> Measurement:
    return run_collective(bed, op, n, size, name, options=Options())


def test_a_burst_goes_ahead_once_where_links_stay_busy(bed: Cluster) -> None:
    size, burst = 8e6, 1e4
    plain, shaped = (run(on(bed, burst=b), Collective.ALL_GATHER, 8, size).time_s for b in (0.0, burst))
    assert plain - shaped == pytest.approx(burst / RATE, rel=1e-9)


def test_each_sender_of_a_broadcast_has_a_burst_of_its_own(bed: Cluster) -> None:
    """Four ranks: the root sends to two at once, the first of which goes on earlier by the whole burst of its message;
    its own link has been idle until then too."""
    size, burst = 8e6, 1e4
    plain, shaped = (run(on(bed, burst=b), Collective.BROADCAST, 4, size).time_s for b in (0.0, burst))
    assert plain - shaped == pytest.approx((2 + 1) * burst / RATE, rel=1e-9)


def test_a_burst_carries_no_more_bytes_and_no_message_faster_than_its_latency(bed: Cluster) -> None:
    for burst in (0.0, 1e4, 1e9):
        measured = run(on(bed, burst=burst), Collective.ALL_REDUCE, 8, 8e6)
        load = measured.load
        carried = sum(float(rate @ np.diff(load.time)) for rate in load.rate.values())
        assert carried == pytest.approx(2 * 8 * 14 / 8 * 8e6, rel=1e-9)
        assert measured.time_s > 2 * ALPHA


def test_acknowledgements_take_of_the_way_back(bed: Cluster) -> None:
    share = 0.02
    src, dst = np.array([0, 1]), np.array([1, 0])
    both = route_flows(on(bed, ack_share=share), src, dst, np.full(2, 1e9))
    one = route_flows(on(bed, ack_share=share), src[:1], dst[:1], np.array([1e9]))
    assert both.finish.max() == pytest.approx(1e9 / RATE * (1 + share), rel=1e-9)
    assert one.finish.max() == pytest.approx(1e9 / RATE, rel=1e-9)


def test_a_shared_host_wakes_one_rank_after_the_other(bed: Cluster) -> None:
    """A ring ends everywhere at once, a broadcast at its last rank, an exchange of gloo where most had to wait."""
    wake = 1e-9  # so short that stages in between hide it
    for op, name, together in (
        (Collective.ALL_GATHER, "gloo", 8),
        (Collective.BROADCAST, "gloo", 1),
        (Collective.BROADCAST, "flat", 1),
        (Collective.ALL_TO_ALL, "gloo", 4),
        (Collective.ALL_TO_ALL, "direct", 8),
    ):
        plain, shared = (run(on(bed, host_overhead=x), op, 8, 8e6, name).time_s for x in (0.0, wake))
        assert shared - plain == pytest.approx(together * wake, rel=1e-4), (op, name)


def test_a_stage_that_hides_nothing_waits_for_a_rank_on_average(bed: Cluster) -> None:
    plain, shared = (run(on(bed, host_overhead=x), Collective.ALL_GATHER, 8, 8e6, "ring").time_s for x in (0.0, 1e-3))
    assert shared - plain == pytest.approx((6 * (8 + 1) / 2 + 8) * 1e-3, rel=1e-9)


@pytest.mark.parametrize("size", [8.0, 2e5, 8e8])
def test_two_parts_in_flight_hide_latency_behind_each_other(bed: Cluster, size: float) -> None:
    chunk = size / 8 / RATE
    expected = 6 * max(chunk, chunk / 2 + ALPHA) + chunk + ALPHA
    assert run(bed, Collective.ALL_GATHER, 8, size).time_s == pytest.approx(expected, rel=1e-9)


def test_a_flow_waits_for_another_to_finish() -> None:
    """Two flows over a link of 1 byte/s; a third, of its own, waits for the shorter."""
    net = Incidence(3, np.arange(3), np.array([0, 0, 1]), np.ones(3), np.ones(2))
    size, delay = np.array([1.0, 2.0, 5.0]), np.array([0.5, 0.25, 0.0])
    finish = drain(net, size, chain=Chain(np.array([-1, -1, 0]), delay)).finish
    assert finish.tolist() == pytest.approx([2.0, 3.0, 7.5])
    late = drain(net, size, chain=Chain(np.array([1, 2, -1]), delay)).finish
    assert late.tolist() == pytest.approx([8.25, 7.0, 5.0])


def test_two_exchanges_of_gloo_share_a_link_as_one_would(bed: Cluster) -> None:
    """Messages that wait for each other keep waiting when other traffic makes the network anew."""
    from dessim.sim.engine import simulate
    from dessim.sim.fluid.route_cache import RouteCache
    from dessim.trace.schema import Kind, Phase
    from dessim.workload.dag import RankClass, Task, Workload

    def task(name: str, size: float) -> Task:
        op = Collective.ALL_TO_ALL
        return Task(name, 0, Phase.FORWARD, Kind.COLLECTIVE, name, collective=op, group="all", size=size)

    def seconds(*tasks: Task) -> float:
        workload = Workload("two", 8, (RankClass(range(8), tasks),), {"all": range(8)}, (0,))
        routed = RouteCache(bed)
        return max(span.end for span in simulate(bed, workload, {Collective.ALL_TO_ALL: "gloo"}, routed=routed).spans)

    both = seconds(task("a", 4e8), task("b", 4e8))
    assert both == pytest.approx(seconds(task("a", 8e8)), rel=1e-5)
