"""NCCL's collectives on the links of a cluster: bytes, idle and crowded times."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from dessim.cluster import Cluster, load_cluster
from dessim.cluster.curves import Curve
from dessim.cluster.scaled import scaled
from dessim.collectives import Layout, Options, schedule
from dessim.collectives.nccl.flows import Servers, along_rails, collective_edges
from dessim.collectives.nccl.model import Override
from dessim.collectives.nccl.on_cluster import curve_on, setup_of, values_on
from dessim.collectives.nccl.steady import SteadyRuns
from dessim.collectives.timing import Timing
from dessim.commands.collective import CollectiveRequest, time_collective
from dessim.errors import UsageError
from dessim.sim.fluid.route_cache import RouteCache
from dessim.trace.schema import Collective

OPS = [op for op in Collective if op is not Collective.BARRIER]


@pytest.fixture(scope="module")
def h100() -> Cluster:
    return load_cluster("h100-8x_rail_128")


def seconds(cluster: Cluster, op: Collective, gpus: int, size: float, options: Options | None = None) -> float:
    request = CollectiveRequest(cluster=cluster, op=op, gpus=gpus, size=size, options=options or Options())
    return time_collective(request).time_s


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("gpus", [8, 16, 64])
@pytest.mark.parametrize("size", [8.0, 1 << 20, 1 << 30])
def test_on_an_idle_network_the_model_is_the_time(h100: Cluster, op: Collective, gpus: int, size: float) -> None:
    setup = setup_of(h100, np.arange(gpus))
    expected = SteadyRuns(op, setup, values_on(h100, setup), override=Override()).run(size).microseconds * 1e-6
    assert seconds(h100, op, gpus, size) == pytest.approx(expected, rel=0.1)


@pytest.mark.parametrize("algorithm", ["ring", "tree", "nvls_tree"])
def test_every_gpu_sends_the_bytes_of_its_algorithm(h100: Cluster, algorithm: str) -> None:
    gpus = np.arange(32)
    setup = setup_of(h100, gpus)
    servers = Servers.of(h100.node_of(gpus))
    edges = collective_edges(Collective.ALL_REDUCE, algorithm, 1e6, wire=1.0, setup=setup, servers=servers, nic=48e9)
    stage = edges.stage
    across = h100.node_of(stage.src) != h100.node_of(stage.dst)
    from_server = np.bincount(h100.node_of(stage.src[across]), stage.size[across])
    into_server = np.bincount(h100.node_of(stage.dst[across]), stage.size[across])
    passes = 2 * 31 / 32 if algorithm == "ring" else 2 * 3 / 4
    assert from_server.mean() == pytest.approx(passes * 1e6)
    assert into_server.sum() == pytest.approx(from_server.sum())


def test_traffic_stays_on_its_rail(h100: Cluster) -> None:
    gpus = np.arange(24)
    edges = collective_edges(
        Collective.ALL_REDUCE,
        "ring",
        1e6,
        wire=1.0,
        setup=setup_of(h100, gpus),
        servers=Servers.of(h100.node_of(gpus)),
        nic=48e9,
    )
    stage = edges.stage
    across = h100.node_of(stage.src) != h100.node_of(stage.dst)
    assert (stage.src[across] % 8 == stage.dst[across] % 8).all()


@pytest.mark.parametrize("op", [Collective.ALL_REDUCE, Collective.ALL_TO_ALL])
def test_a_crowded_fabric_takes_longer(op: Collective) -> None:
    wide = load_cluster("a100-8x_leafspine_16")
    thin = scaled(wide, "uplink_rate", 0.02)
    assert seconds(thin, op, 128, 1 << 30) > 2 * seconds(wide, op, 128, 1 << 30)
    assert seconds(thin, op, 128, 8) == pytest.approx(seconds(wide, op, 128, 8), rel=0.01)


def with_curve(cluster: Cluster, curve: Curve) -> Cluster:
    nccl = cluster.transport.nccl
    assert nccl is not None
    return replace(cluster, transport=replace(cluster.transport, nccl=replace(nccl, curves=(curve,))))


def test_what_a_calibration_measured_acts_on_its_op_and_shape(h100: Cluster) -> None:
    measured = with_curve(h100, Curve("all_reduce", 16, 2, ((8.0, 1.2), (2.0**30, 1.2))))

    def ratio(op: Collective, gpus: int, options: Options | None = None) -> float:
        return seconds(measured, op, gpus, 1 << 20, options) / seconds(h100, op, gpus, 1 << 20, options)

    assert ratio(Collective.ALL_REDUCE, 16) == pytest.approx(1.2, rel=0.01)
    assert ratio(Collective.ALL_REDUCE, 16, Options(protocol="ll128")) == 1
    assert ratio(Collective.ALL_REDUCE, 8) == ratio(Collective.ALL_REDUCE, 32) == ratio(Collective.ALL_GATHER, 16) == 1
    uneven = setup_of(h100, np.array([0, 1, 2, 3, 4, 5, 6, 8]))
    other = with_curve(h100, Curve("all_reduce", 8, 2, ((8.0, 1.2),)))
    assert curve_on(other, Collective.ALL_REDUCE, uneven) is None
    with pytest.raises(UsageError, match="a curve of 'allreduce'; known: all_reduce"):
        seconds(with_curve(h100, Curve("allreduce", 16, 2, ((8.0, 1.2),))), Collective.ALL_REDUCE, 16, 8)


def test_a_crowded_fabric_slows_a_measured_collective_too() -> None:
    wide = load_cluster("a100-8x_leafspine_16")
    measured = with_curve(wide, Curve("all_reduce", 128, 16, ((2.0**30, 1.2),)))
    calm, crowded = (
        [
            seconds(scaled(cluster, "uplink_rate", rate), Collective.ALL_REDUCE, 128, 1 << 30)
            for cluster in (wide, measured)
        ]
        for rate in (1.0, 0.02)
    )
    assert calm[1] == pytest.approx(1.2 * calm[0], rel=0.01)
    # The fabric needs as many seconds more as without the curve.
    assert crowded[1] - calm[1] == pytest.approx(crowded[0] - calm[0], rel=0.02)


def test_an_uneven_last_server_keeps_the_channels_that_both_carry(h100: Cluster) -> None:
    setup = setup_of(h100, np.arange(12))
    assert (setup.nodes, setup.per_node, setup.nics) == (2, 8, 4)
    assert seconds(h100, Collective.ALL_REDUCE, 12, 1 << 28) > seconds(h100, Collective.ALL_REDUCE, 16, 1 << 28)


def test_overheads_scale_with_the_what_if_of_overhead(h100: Cluster) -> None:
    free = scaled(h100, "overhead", 0.0)
    assert seconds(free, Collective.ALL_REDUCE, 8, 8) < 0.1 * seconds(h100, Collective.ALL_REDUCE, 8, 8)


def test_repeated_calls_of_one_process_have_its_floor(h100: Cluster) -> None:
    many = Options(timing=Timing.REPEATED, gpus_per_process=8)
    assert seconds(h100, Collective.ALL_REDUCE, 8, 8, many) > 30e-6


def test_another_transport_is_unchanged() -> None:
    """gloo and textbook algorithms do not use NCCL's model."""
    cluster = load_cluster("h100-8x_rail_128")
    ideal = replace(cluster, transport=replace(cluster.transport, nccl=None))
    assert time_collective(CollectiveRequest(cluster=ideal, op=Collective.ALL_REDUCE, gpus=8, size=8.0)).algorithm in (
        "ring",
        "double_tree",
        "nvls",
    )


@pytest.mark.parametrize(("name", "gpus"), [("h100-8x_rail_128", 320), ("h100-8x_railonly_64", 64)])
def test_all_to_all_along_rails_loads_every_link_as_its_messages_do(name: str, gpus: int) -> None:
    cluster, members = load_cluster(name), np.arange(gpus)
    along = along_rails(1e8, Servers.of(cluster.node_of(members)))
    (each,) = schedule(Collective.ALL_TO_ALL, "direct", Layout(gpus, 8), 1e8)
    assert along is not None and len(along.size) < len(each.size) / 4
    routed = RouteCache(cluster)
    (fewer, scale), (direct, of_each) = (routed.stage(members, stage) for stage in (along, each))
    assert fewer.without_latency().alone(scale) == pytest.approx(direct.without_latency().alone(of_each), rel=1e-9)
    assert fewer.bytes_by_kind * scale == pytest.approx(direct.bytes_by_kind * of_each, rel=1e-9)


def test_only_equal_servers_of_several_gpus_send_along_rails() -> None:
    assert along_rails(1.0, Servers.of(np.zeros(8, dtype=np.int64))) is None
    assert along_rails(1.0, Servers.of(np.arange(8))) is None
    assert along_rails(1.0, Servers.of(np.array([0, 0, 1, 1, 1]))) is None
    assert along_rails(1.0, Servers.of(np.repeat(np.arange(512), 8))) is None  # 2 million messages
