"""Each algorithm's simulated time equals its closed form to 1e-9, on a cluster for which the closed form holds."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import pytest

from dessim.cluster import Cluster
from dessim.collectives import ALGORITHMS, Options
from dessim.collectives import closed_forms as forms
from dessim.collectives.schedule import ArrivalTimes, Layout
from dessim.collectives.torus import factors
from dessim.commands.collective import run_collective
from dessim.sim.fluid.route_cache import RouteCache
from dessim.trace.schema import Collective
from tests.cluster.small_clusters import build, hosts, link

ALL_REDUCE, REDUCE_SCATTER, ALL_GATHER = Collective.ALL_REDUCE, Collective.REDUCE_SCATTER, Collective.ALL_GATHER
ALL_TO_ALL, BROADCAST, REDUCE = Collective.ALL_TO_ALL, Collective.BROADCAST, Collective.REDUCE
GATHER, SCATTER = Collective.GATHER, Collective.SCATTER

# (alpha, beta) through one switch: two links of 1 us, at 50 GB/s.
WIRE = (2e-6, 1 / 50e9)
# (alpha, beta) inside a node: two links of 0.3 us, at 450 GB/s.
NVLINK = (0.6e-6, 1 / 450e9)
SUMS: dict[str, Any] = {"ports": 64, "latency": "0 us", "source": "test", "reduces": True}
SIZES = (8.0, 3e6, 1e9)
COUNTS = (2, 3, 4, 5, 7, 8, 11, 16, 17, 32, 48, 64)
POWERS = (2, 4, 8, 16, 32, 64)


@pytest.fixture(scope="module")
def flat() -> Cluster:
    """64 hosts on one switch that sums."""
    data = hosts(kind="single_switch", switch=SUMS)
    data["node"]["count"] = 64
    return build(data)


@pytest.fixture(scope="module")
def nodes() -> Cluster:
    """8 nodes of 8 GPUs on an NVSwitch that sums, with one NIC per GPU, on one switch that sums."""
    data = hosts(kind="single_switch", switch=SUMS)
    data["node"].update(count=8, gpus=8, nics=8, nvlink=link("450 GB/s", "0.3 us"), nvswitch=SUMS)
    return build(data)


@cache
def routes_of(cluster: Cluster) -> RouteCache:
    """The routes of all collectives on `cluster`: those of one size serve for the others."""
    return RouteCache(cluster)


def time_of(cluster: Cluster, op: Collective, n: int, size: float, name: str, **options: Any) -> float:
    return run_collective(cluster, op, n, size, name, options=Options(**options), routed=routes_of(cluster)).time_s


def exactly(value: float) -> Any:
    return pytest.approx(value, rel=1e-9)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("n", COUNTS)
@pytest.mark.parametrize("op", [ALL_REDUCE, REDUCE_SCATTER, ALL_GATHER])
def test_ring_halving_doubling_and_torus_match_their_closed_forms(
    flat: Cluster, op: Collective, n: int, size: float
) -> None:
    assert time_of(flat, op, n, size, "ring") == exactly(forms.ring_time(op, n, size, *WIRE))
    assert time_of(flat, op, n, size, "halving_doubling") == exactly(forms.halving_doubling_time(op, n, size, *WIRE))
    for count in (2, 3):
        dims = factors(Layout(n), count)
        assert time_of(flat, op, n, size, f"torus_{count}d") == exactly(forms.torus_time(op, dims, size, *WIRE))
    wide = (n, 1)
    assert time_of(flat, op, n, size, "torus_2d", dims=wide) == exactly(forms.ring_time(op, n, size, *WIRE))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("n", COUNTS)
def test_recursive_doubling_bruck_pairwise_and_direct_match_their_closed_forms(
    flat: Cluster, n: int, size: float
) -> None:
    doubling = forms.recursive_doubling_time(n, size, *WIRE)
    assert time_of(flat, ALL_REDUCE, n, size, "recursive_doubling") == exactly(doubling)
    gather = forms.halving_doubling_time(ALL_GATHER, n, size, *WIRE)
    assert time_of(flat, ALL_GATHER, n, size, "recursive_doubling") == exactly(gather)
    for op in (ALL_GATHER, ALL_TO_ALL):
        assert time_of(flat, op, n, size, "bruck") == exactly(forms.bruck_time(op, n, size, *WIRE))
    assert time_of(flat, ALL_TO_ALL, n, size, "pairwise") == exactly(forms.pairwise_time(n, size, *WIRE))
    assert time_of(flat, ALL_TO_ALL, n, size, "direct") == exactly(forms.direct_time(n, size, *WIRE))
    shift = forms.send_recv_time(size, *WIRE)
    assert time_of(flat, Collective.SEND_RECV, n, size, "shift") == exactly(shift)
    assert time_of(flat, ALL_REDUCE, n, size, "sharp") == exactly(forms.sharp_time(size, *WIRE))


@pytest.mark.parametrize("root", [0, 1, -1])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("n", COUNTS)
def test_rooted_ops_match_their_closed_forms(flat: Cluster, n: int, size: float, root: int) -> None:
    root %= n
    for op in (BROADCAST, REDUCE):
        assert time_of(flat, op, n, size, "flat", root=root) == exactly(forms.flat_time(n, size, *WIRE))
        assert time_of(flat, op, n, size, "binomial", root=root) == exactly(forms.binomial_time(op, n, size, *WIRE))
        shares = "scatter_all_gather" if op is BROADCAST else "reduce_scatter_gather"
        assert time_of(flat, op, n, size, shares, root=root) == exactly(forms.composed_time(op, n, size, *WIRE))
        for chunks in (1, 2, 40):
            chain = forms.chain_time(n, size, chunks, *WIRE)
            assert time_of(flat, op, n, size, "chain", root=root, chunks=chunks) == exactly(chain)
    for op in (GATHER, SCATTER):
        assert time_of(flat, op, n, size, "flat", root=root) == exactly(forms.direct_time(n, size, *WIRE))
        assert time_of(flat, op, n, size, "binomial", root=root) == exactly(forms.binomial_time(op, n, size, *WIRE))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("n", COUNTS)
def test_gloo_matches_its_closed_forms(flat: Cluster, n: int, size: float) -> None:
    pairs = max(1, math.ceil(math.ceil(size / 2**20) / n / 2))
    ring = forms.gloo_ring_time(n, size, pairs, 2, *WIRE)
    assert time_of(flat, ALL_REDUCE, n, size, "gloo") == exactly(ring)
    assert time_of(flat, REDUCE_SCATTER, n, size, "gloo") == exactly(forms.direct_time(n, size, *WIRE))
    gather = forms.gloo_ring_time(n, size, 1, 1, *WIRE) if n > 2 else forms.direct_time(n, size, *WIRE)
    assert time_of(flat, ALL_GATHER, n, size, "gloo") == exactly(gather)
    for seed in (0, 1):
        exchange = forms.gloo_all_to_all_time(n, size, *WIRE)
        assert time_of(flat, ALL_TO_ALL, n, size, "gloo", arrivals=ArrivalTimes(seed)) == exactly(exchange)
    if n in POWERS:
        assert time_of(flat, BROADCAST, n, size, "gloo", root=n - 1) == exactly(
            forms.gloo_broadcast_time(n, size, *WIRE)
        )


@pytest.mark.parametrize("n", [2, 3, 8])
def test_a_receiver_adds_messages_one_after_the_other(n: int) -> None:
    transport = {"message_overhead": "0 s", "op_overhead": "0 s", "reduction_rate": "20 GB/s", "source": "test"}
    slow = build(hosts(kind="single_switch", switch=SUMS) | {"transport": transport})
    size, adds = 3e6, 3e6 / 20e9
    scattered = forms.direct_time(n, size, *WIRE) + (n - 1) / n * adds
    assert time_of(slow, REDUCE_SCATTER, n, size, "gloo") == exactly(scattered)
    rooted = WIRE[0] + (n - 1) * (size * WIRE[1] + adds)
    assert time_of(slow, REDUCE, n, size, "flat") == exactly(rooted)


@pytest.mark.parametrize("chunks", [1, 2, 5, 11, 64])
@pytest.mark.parametrize("n", POWERS)
def test_double_tree_matches_its_closed_form(flat: Cluster, n: int, chunks: int) -> None:
    for size in SIZES:
        for op in (BROADCAST, REDUCE):
            tree = forms.double_tree_time(op, n, size, chunks, *WIRE)
            assert time_of(flat, op, n, size, "double_tree", chunks=chunks) == exactly(tree)
        if n >= 4 and chunks >= 2 * (n.bit_length() - 1) - 1:
            tree = forms.double_tree_time(ALL_REDUCE, n, size, chunks, *WIRE)
            assert time_of(flat, ALL_REDUCE, n, size, "double_tree", chunks=chunks) == exactly(tree)
    with pytest.raises(ValueError, match="not a power of two"):
        forms.double_tree_time(BROADCAST, n + 3, 1.0, chunks, *WIRE)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("n", [2, 3, 5, 8])
def test_nvls_matches_its_closed_form(nodes: Cluster, n: int, size: float) -> None:
    for op in (REDUCE_SCATTER, ALL_GATHER):
        assert time_of(nodes, op, n, size, "nvls") == exactly(forms.nvls_time(op, n, size, 1, *NVLINK))
    for chunks in (1, 2, 7):
        nvls = forms.nvls_time(ALL_REDUCE, n, size, chunks, *NVLINK)
        assert time_of(nodes, ALL_REDUCE, n, size, "nvls", chunks=chunks) == exactly(nvls)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("n", [16, 24, 64])
def test_two_level_algorithms_match_their_closed_forms(nodes: Cluster, n: int, size: float) -> None:
    m = n // 8
    for op in (ALL_REDUCE, REDUCE_SCATTER, ALL_GATHER):
        channels = forms.channels_time(op, n, 8, size, NVLINK, WIRE)
        assert time_of(nodes, op, n, size, "ring_channels") == exactly(channels)
        levels = forms.ring_time(op, 8, size, *NVLINK) + forms.ring_time(op, m, size / 8, *WIRE)
        assert time_of(nodes, op, n, size, "hierarchical") == exactly(levels)
    exchange = forms.pairwise_time(8, size, *NVLINK) + forms.pairwise_time(m, size, *WIRE)
    assert time_of(nodes, ALL_TO_ALL, n, size, "hierarchical") == exactly(exchange)
    for chunks in (1, 2, 3, 20):
        both = forms.nvls_sharp_time(8, size, chunks, NVLINK, WIRE)
        assert time_of(nodes, ALL_REDUCE, n, size, "nvls_sharp", chunks=chunks) == exactly(both)


def test_each_algorithm_is_faster_where_its_paper_says_so(nodes: Cluster, flat: Cluster) -> None:
    big = 1e9
    small = 1e3
    # With channels all 8 NICs of a node work: nearly 8 times as fast as one ring.
    one_nic, all_nics = (time_of(nodes, ALL_REDUCE, 64, big, name) for name in ("ring", "ring_channels"))
    assert 4 < one_nic / all_nics < 8
    # A tree's latency is logarithmic, its bandwidth nearly a ring's.
    assert time_of(flat, ALL_REDUCE, 64, small, "double_tree") < time_of(flat, ALL_REDUCE, 64, small, "ring") / 5
    assert time_of(flat, ALL_REDUCE, 64, big, "double_tree") < time_of(flat, ALL_REDUCE, 64, big, "ring") * 1.1
    # With sums in the switch a port carries half the bytes of a ring.
    assert time_of(flat, ALL_REDUCE, 64, big, "sharp") == pytest.approx(big / 50e9, rel=1e-3)
    nvls, ring = time_of(nodes, ALL_REDUCE, 8, big, "nvls", chunks=64), time_of(nodes, ALL_REDUCE, 8, big, "ring")
    assert ring / nvls == pytest.approx(2 * 7 / 8 / (1 + 1 / 8), rel=0.05)
    names = {run_collective(nodes, ALL_REDUCE, 64, size).algorithm for size in (small, big)}
    assert names == {"sharp", "nvls_sharp"}


def test_every_algorithm_is_compared_with_a_closed_form() -> None:
    """This list changes when a new algorithm has been added to the tests above."""
    compared = {
        ALL_REDUCE: "ring ring_channels hierarchical double_tree halving_doubling recursive_doubling torus_2d torus_3d "
        "nvls sharp nvls_sharp gloo",
        REDUCE_SCATTER: "ring ring_channels hierarchical halving_doubling torus_2d torus_3d nvls gloo",
        ALL_GATHER: "ring ring_channels hierarchical halving_doubling recursive_doubling bruck torus_2d torus_3d nvls "
        "gloo",
        ALL_TO_ALL: "pairwise direct hierarchical bruck gloo",
        BROADCAST: "flat binomial chain double_tree scatter_all_gather gloo",
        REDUCE: "flat binomial chain double_tree reduce_scatter_gather",
        GATHER: "flat binomial",
        SCATTER: "flat binomial",
        Collective.SEND_RECV: "shift",
    }
    assert {op: " ".join(table) for op, table in ALGORITHMS.items()} == compared
