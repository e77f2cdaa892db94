"""Bursts, acknowledgements, a shared host and several parts in flight, compared with results computed by hand."""

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

RATE = 50e9  # bytes/s of a NIC
ALPHA = 2e-6  # seconds of latency over one switch


@pytest.fixture(scope="module")
def bed() -> Cluster:
    data = hosts(kind="single_switch")
    data["node"]["count"] = 8
    return build(data)


def with_transport(bed: Cluster, **transport: float) -> Cluster:
    return replace(bed, transport=replace(bed.transport, **transport))


def run(bed: Cluster, op: Collective, n: int, size: float, name: str = "gloo") -> Measurement:
    return run_collective(bed, op, n, size, name, options=Options())


def test_a_link_that_is_never_idle_passes_one_burst(bed: Cluster) -> None:
    size, burst = 8e6, 1e4
    plain, shaped = (run(with_transport(bed, burst=b), Collective.ALL_GATHER, 8, size).time_s for b in (0.0, burst))
    assert plain - shaped == pytest.approx(burst / RATE, rel=1e-9)


def test_each_sender_of_a_broadcast_has_its_own_burst(bed: Cluster) -> None:
    """With four ranks, the root sends two messages at once. The rank that forwards one of them starts earlier by the
    burst of that message, and its own link has been idle until then, so it passes a burst as well."""
    size, burst = 8e6, 1e4
    plain, shaped = (run(with_transport(bed, burst=b), Collective.BROADCAST, 4, size).time_s for b in (0.0, burst))
    assert plain - shaped == pytest.approx((2 + 1) * burst / RATE, rel=1e-9)


def test_a_burst_changes_no_bytes_and_no_message_beats_its_latency(bed: Cluster) -> None:
    for burst in (0.0, 1e4, 1e9):
        measured = run(with_transport(bed, burst=burst), Collective.ALL_REDUCE, 8, 8e6)
        load = measured.load
        carried = sum(float(rate @ np.diff(load.time)) for rate in load.rate.values())
        assert carried == pytest.approx(2 * 8 * 14 / 8 * 8e6, rel=1e-9)
        assert measured.time_s > 2 * ALPHA


def test_acknowledgements_load_the_reverse_route(bed: Cluster) -> None:
    share = 0.02
    src, dst = np.array([0, 1]), np.array([1, 0])
    both_directions = route_flows(with_transport(bed, ack_share=share), src, dst, np.full(2, 1e9))
    one_direction = route_flows(with_transport(bed, ack_share=share), src[:1], dst[:1], np.array([1e9]))
    assert both_directions.finish.max() == pytest.approx(1e9 / RATE * (1 + share), rel=1e-9)
    assert one_direction.finish.max() == pytest.approx(1e9 / RATE, rel=1e-9)


def test_a_shared_host_wakes_one_rank_after_the_other(bed: Cluster) -> None:
    """All ranks of a ring finish together, a broadcast at one rank, gloo's all_to_all at four of eight."""
    wake = 1e-9  # short enough for earlier stages to hide it
    for op, name, ranks in (
        (Collective.ALL_GATHER, "gloo", 8),
        (Collective.BROADCAST, "gloo", 1),
        (Collective.BROADCAST, "flat", 1),
        (Collective.ALL_TO_ALL, "gloo", 4),
        (Collective.ALL_TO_ALL, "direct", 8),
    ):
        plain, shared = (run(with_transport(bed, host_overhead=x), op, 8, 8e6, name).time_s for x in (0.0, wake))
        assert shared - plain == pytest.approx(ranks * wake, rel=1e-4), (op, name)


def test_each_stage_of_a_plain_ring_waits_for_the_average_rank(bed: Cluster) -> None:
    plain, shared = (
        run(with_transport(bed, host_overhead=x), Collective.ALL_GATHER, 8, 8e6, "ring").time_s for x in (0.0, 1e-3)
    )
    assert shared - plain == pytest.approx((6 * (8 + 1) / 2 + 8) * 1e-3, rel=1e-9)


@pytest.mark.parametrize("size", [8.0, 2e5, 8e8])
def test_two_parts_in_flight_hide_each_others_latency(bed: Cluster, size: float) -> None:
    chunk = size / 8 / RATE
    expected = 6 * max(chunk, chunk / 2 + ALPHA) + chunk + ALPHA
    assert run(bed, Collective.ALL_GATHER, 8, size).time_s == pytest.approx(expected, rel=1e-9)


def test_a_flow_waits_for_another_to_finish() -> None:
    """Two flows share a link of 1 byte/s; a third, on another link, waits for the shorter one."""
    net = Incidence(3, np.arange(3), np.array([0, 0, 1]), np.ones(3), np.ones(2))
    size, delay = np.array([1.0, 2.0, 5.0]), np.array([0.5, 0.25, 0.0])
    finish = drain(net, size, chain=Chain(np.array([-1, -1, 0]), delay)).finish
    assert finish.tolist() == pytest.approx([2.0, 3.0, 7.5])
    late = drain(net, size, chain=Chain(np.array([1, 2, -1]), delay)).finish
    assert late.tolist() == pytest.approx([8.25, 7.0, 5.0])


def test_two_concurrent_exchanges_of_gloo_take_as_long_as_one_of_twice_the_size(bed: Cluster) -> None:
    """Messages that wait for others keep waiting when other traffic regroups their batch."""
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
