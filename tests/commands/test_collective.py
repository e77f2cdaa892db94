"""Simulated collectives against closed forms, on clusters where these are known."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import dessim
from dessim.cli.app import app
from dessim.cluster import Cluster, load_cluster
from dessim.collectives import ALGORITHMS, Options, algorithms_for, schedule
from dessim.collectives.alltoall import uneven_sizes
from dessim.collectives.choose import Floor
from dessim.collectives.closed_forms import bus_bandwidth, pairwise_time, ring_time
from dessim.commands.collective import CollectiveRequest, run_collective, time_collective
from dessim.errors import CapacityError, SimulationError, UsageError
from dessim.results.labels import bound_label
from dessim.sim.fluid.model import layout_of
from dessim.sim.fluid.route_cache import RouteCache
from dessim.trace.schema import Collective

LINK = 50e9
GB = 1e9


@pytest.fixture(scope="module")
def switch(tmp_path_factory: pytest.TempPathFactory) -> Cluster:
    """64 hosts at 50 GB/s on one switch; each of the two links of a route takes 1 us."""
    path: Path = tmp_path_factory.mktemp("bed") / "switch.toml"
    text = load_cluster("one-switch_16").path.read_text().replace("count = 16", "count = 64")
    path.write_text(text)
    return load_cluster(path)


@pytest.mark.parametrize("n", [*range(2, 18), 24, 32, 33, 48, 63, 64])
@pytest.mark.parametrize("op", [Collective.ALL_REDUCE, Collective.REDUCE_SCATTER, Collective.ALL_GATHER])
@pytest.mark.parametrize("size", [8.0, 1e6, GB])
def test_ring_on_one_switch_is_the_closed_form(switch: Cluster, op: Collective, n: int, size: float) -> None:
    measured = run_collective(switch, op, n, size, "ring")
    expected = ring_time(op, n, size, alpha=2e-6, beta=1 / LINK)
    assert measured.time_s == pytest.approx(expected, rel=1e-9)
    if op is Collective.ALL_REDUCE:
        # The same formula in its usual form.
        assert measured.time_s == pytest.approx(2 * (n - 1) / n * size / LINK + 2 * (n - 1) * 2e-6, rel=1e-9)


@pytest.mark.parametrize("n", [2, 3, 5, 8, 16, 31, 64])
def test_all_to_all_on_one_switch_is_the_closed_form(switch: Cluster, n: int) -> None:
    pairwise = run_collective(switch, Collective.ALL_TO_ALL, n, GB, "pairwise").time_s
    assert pairwise == pytest.approx(pairwise_time(n, GB, 2e-6, 1 / LINK), rel=1e-9)
    direct = run_collective(switch, Collective.ALL_TO_ALL, n, GB, "direct").time_s
    assert direct == pytest.approx((n - 1) / n * GB / LINK + 2e-6, rel=1e-9)


@pytest.mark.parametrize("fold", [True, False])
def test_known_times_on_the_two_level_cluster(fold: bool) -> None:
    full = load_cluster("bench/two_level_1024")
    quarter = load_cluster("bench/two_level_1024_4to1")
    ring16 = run_collective(full, Collective.ALL_REDUCE, 16, GB, "ring", fold)
    assert ring16.time_s == pytest.approx(37.56e-3, rel=1e-9)
    ring1024 = run_collective(full, Collective.ALL_REDUCE, 1024, GB, "ring", fold)
    assert ring1024.time_s == pytest.approx(2046 * (GB / 1024 / LINK + 4e-6), rel=1e-9)
    direct = run_collective(full, Collective.ALL_TO_ALL, 64, GB, "direct", fold)
    assert direct.time_s == pytest.approx(63 / 64 * GB / LINK + 4e-6, rel=1e-9)
    # 4:1: a leaf's 16 hosts send 48/64 of their bytes up through 4 uplinks.
    squeezed = run_collective(quarter, Collective.ALL_TO_ALL, 64, GB, "direct", fold)
    assert squeezed.time_s == pytest.approx(60.004e-3, rel=1e-9)
    assert squeezed.bound_by == "leaf_up"


def test_hierarchical_all_reduce_is_the_sum_of_its_levels() -> None:
    cluster = load_cluster("h100-8x_rail_128")
    n, g = 64, 8
    m = n // g
    measured = run_collective(cluster, Collective.ALL_REDUCE, n, GB, "hierarchical")
    latency = cluster.routes([0, 0], [1, 8]).latency
    links = cluster.links
    nvlink, nic = (float(links.capacity[links.of_kind(kind)[0]]) for kind in ("nvlink_up", "nic_up"))
    overhead = cluster.transport.message_overhead
    expected = (
        2 * (g - 1) * (GB / g / nvlink + latency[0] + overhead)
        + 2 * (m - 1) * (GB / n / nic + latency[1] + overhead)
        + cluster.transport.op_overhead
    )
    assert measured.time_s == pytest.approx(expected, rel=1e-9)


EVERY_OP = tuple(ALGORITHMS)


@pytest.mark.parametrize("gpus", [8, 32])
@pytest.mark.parametrize("op", EVERY_OP)
def test_auto_is_the_fastest_algorithm(op: Collective, gpus: int) -> None:
    """`auto` is the fastest of the textbook algorithms, on a transport without those of NCCL."""
    h100 = load_cluster("h100-8x_rail_128")
    cluster = replace(h100, transport=replace(h100.transport, nccl=None))
    names = algorithms_for(op, layout_of(cluster, np.arange(gpus)), offered=cluster.transport.algorithms.get(op, ()))
    for size in (1e3, 1e6, GB):
        auto = run_collective(cluster, op, gpus, size)
        each = {name: run_collective(cluster, op, gpus, size, name).time_s for name in names}
        assert auto.time_s == pytest.approx(min(each.values()), rel=1e-12)
        assert each[auto.algorithm] == pytest.approx(auto.time_s, rel=1e-12)


@pytest.mark.parametrize("op", EVERY_OP)
def test_the_bound_that_auto_prunes_by_is_a_lower_bound(op: Collective) -> None:
    for name, cluster in (("rail", load_cluster("h100-8x_rail_128")), ("leaf", load_cluster("a100-8x_leafspine_16"))):
        gpus = np.arange(24) * (2 if name == "leaf" else 1)
        floor = Floor(cluster, gpus)
        routed = RouteCache(cluster)
        layout = layout_of(cluster, gpus)
        for algorithm in algorithms_for(op, layout):
            for stage in schedule(op, algorithm, layout, 1e7):
                flows, scale = routed.stage(gpus, stage)
                assert floor(stage) <= flows.alone(scale) * (1 + 1e-9), (algorithm, stage.pattern)


def test_busbw_never_exceeds_the_slowest_link(switch: Cluster) -> None:
    for n in (2, 7, 64):
        for op in (Collective.ALL_REDUCE, Collective.ALL_TO_ALL, Collective.ALL_GATHER):
            measured = run_collective(switch, op, n, GB)
            assert measured.busbw <= LINK * (1 + 1e-9)
            assert measured.busbw == pytest.approx(bus_bandwidth(op, n, GB, measured.time_s))


def test_an_uneven_all_to_all_draws_a_size_for_each_pair(switch: Cluster) -> None:
    n, size = 8, 8e6
    sizes = uneven_sizes(n, size, np.random.default_rng(5))
    off = sizes[~np.eye(n, dtype=bool)]
    assert sizes.diagonal().tolist() == [0.0] * n and off.min() > 0 and off.max() < 2 * size / n
    assert off.mean() == pytest.approx(size / n, rel=0.2)
    direct, pairwise = (
        run_collective(switch, Collective.ALL_TO_ALL, n, size, name, uneven=5) for name in ("direct", "pairwise")
    )
    busiest = max(sizes.sum(axis=0).max(), sizes.sum(axis=1).max()) / LINK
    assert direct.time_s >= busiest + 2e-6
    assert direct.time_s == run_collective(switch, Collective.ALL_TO_ALL, n, size, "direct", uneven=5).time_s
    assert direct.time_s != run_collective(switch, Collective.ALL_TO_ALL, n, size, "direct", uneven=6).time_s
    ranks = np.arange(n)
    longest = sum(sizes[ranks, (ranks + hop) % n].max() for hop in range(1, n))
    assert pairwise.time_s == pytest.approx(longest / LINK + (n - 1) * 2e-6, rel=1e-9)
    whole = run_collective(switch, Collective.ALL_TO_ALL, n, size, "direct", folding=False, uneven=5)
    assert whole.time_s == pytest.approx(direct.time_s, rel=1e-9)
    assert direct.flow_colours == n * (n - 1) and direct.events > n


def test_the_cost_of_the_simulation_is_reported(switch: Cluster) -> None:
    ring = run_collective(switch, Collective.ALL_REDUCE, 64, GB, "ring").to_json()
    assert (ring["flow_colours"], ring["link_colours"]) == (1, 1)
    assert ring["events"] >= 1 and ring["wall_s"] > 0 and ring["peak_rss_MiB"] > 1


@pytest.mark.parametrize(
    "arguments",
    [
        ("all_reduce", "--algorithm", "double_tree", "--chunks", "8"),
        ("all_reduce", "--algorithm", "torus_3d", "--dims", "8x2x1"),
        ("all_to_all", "--algorithm", "direct", "--uneven", "7"),
        ("broadcast", "--root", "3"),
        ("reduce", "--algorithm", "chain"),
        ("gather",),
        ("scatter", "--root", "15"),
        ("send_recv",),
    ],
)
def test_the_command_runs_every_op_and_reports_the_cost(arguments: tuple[str, ...]) -> None:
    where = ("--cluster", "one-switch_16", "--gpus", "16", "--size", "64MiB")
    result = CliRunner().invoke(app, ["collective", *arguments, *where, "--json"])
    assert result.exit_code == 0, result.stderr
    row = json.loads(result.stdout)
    keys = [
        "time_s",
        "algbw_GBps",
        "busbw_GBps",
        "bound_by",
        "events",
        "flow_colours",
        "link_colours",
        "wall_s",
        "peak_rss_MiB",
    ]
    assert set(keys) <= set(row) and row["op"] == arguments[0] and row["time_s"] > 0
    text = CliRunner().invoke(app, ["collective", *arguments, *where]).stdout
    assert text.splitlines()[-1] == f"{row['algorithm']}, bound by {bound_label(row['bound_by'])}"


def test_each_of_several_sizes_has_its_algorithm() -> None:
    where = ("--cluster", "lab/switch_8", "--gpus", "8", "--size", "64KiB,1MiB")
    lines = CliRunner().invoke(app, ["collective", "all_reduce", *where]).stdout.splitlines()
    assert lines[-2:] == ["65536 B: gloo, bound by NIC, sending", "1048576 B: gloo, bound by NIC, sending"]


def test_the_command_refuses_dims_that_do_not_fit() -> None:
    where = ("--cluster", "one-switch_16", "--gpus", "16", "--size", "1MiB")
    for dims, text in (("4by4", "--dims '4by4'"), ("4x5", "dims 4x5 are not 2 factors of 16")):
        result = CliRunner().invoke(
            app, ["collective", "all_reduce", "--algorithm", "torus_2d", "--dims", dims, *where]
        )
        assert result.exit_code == 2 and text in result.stderr


def test_impossible_collectives_are_refused(switch: Cluster) -> None:
    with pytest.raises(UsageError, match="--uneven has no effect"):
        run_collective(switch, Collective.ALL_REDUCE, 4, GB, uneven=1)
    with pytest.raises(UsageError, match="--chunks 0"):
        run_collective(switch, Collective.ALL_REDUCE, 4, GB, options=Options(chunks=0))
    with pytest.raises(UsageError, match="needs switches that reduce"):
        run_collective(switch, Collective.ALL_REDUCE, 4, GB, "sharp")
    with pytest.raises(CapacityError, match="has 64 GPUs"):
        run_collective(switch, Collective.ALL_REDUCE, 65, GB)
    with pytest.raises(UsageError, match="at least 2"):
        run_collective(switch, Collective.ALL_REDUCE, 1, GB)
    with pytest.raises(UsageError, match="more than 0"):
        run_collective(switch, Collective.ALL_REDUCE, 2, 0)


@pytest.mark.parametrize("op", ["all_reduce", "all_gather", "reduce_scatter", "broadcast"])
def test_on_the_packet_network_a_collective_takes_until_its_last_rank_has_ended(op: str) -> None:
    request = CollectiveRequest(cluster=load_cluster("lab/switch_4"), op=Collective(op), gpus=4, size=2.0**20)
    fluid, packet = (time_collective(replace(request, network=network)) for network in ("fluid", "packet"))
    assert packet.time_s == pytest.approx(fluid.time_s, rel=0.05)


def test_the_packet_network_is_chosen_by_name_and_refuses_other_transports() -> None:
    bed = load_cluster("lab/switch_4")
    request = CollectiveRequest(cluster=bed, op=Collective.ALL_REDUCE, gpus=4, size=2.0**20)
    fluid, packet = (time_collective(replace(request, network=network)) for network in ("fluid", "packet"))
    assert packet.algorithm == "gloo" and packet.time_s == pytest.approx(fluid.time_s, rel=0.03)
    assert packet.bound_by in ("nic_up", "nic_down")
    assert dessim.collective(bed, "all_reduce", 4, 2.0**20, network="packet").time_s == packet.time_s
    with pytest.raises(SimulationError, match="leave out algorithms"):
        time_collective(replace(request, network="packet", algorithm="ring"))
    with pytest.raises(SimulationError, match="transport ideal has others"):
        time_collective(replace(request, cluster=load_cluster("one-switch_16"), network="packet"))
