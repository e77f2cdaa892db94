"""The choice of `auto` is the fastest of all candidates on every shipped fabric; more bytes never take less time."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from dessim.cluster import Cluster, load_cluster
from dessim.collectives import ALGORITHMS, Layout, schedule
from dessim.collectives.choose import Floor
from dessim.commands.collective import run_collective
from dessim.sim.fluid.model import layout_of
from dessim.sim.fluid.route_cache import RouteCache
from dessim.trace.schema import Collective

SIZES = (2.0**16, 2.0**20, 2.0**24, 2.0**26, 2.0**30)
# Each shipped fabric, from 8 to 1,024 ranks.
FABRICS = (
    ("one-switch_16", 8),
    ("a100-8x_leafspine_16", 16),
    ("a100-8x_tworooms_12", 48),
    ("h100-8x_railonly_64", 64),
    ("gb200-nvl72_8", 144),
    ("a100-4x_dragonflyplus_3456", 192),
    ("tpu-v4_torus_512", 256),
    ("mi250x-8x_dragonfly_2048", 256),
    ("h100-8x_hyperx_128", 512),
    ("h100-8x_rail_128", 1024),
)


def textbook(name: str) -> Cluster:
    """A shipped cluster whose transport has neither NCCL's algorithms nor its own list."""
    cluster = load_cluster(name)
    return replace(cluster, transport=replace(cluster.transport, nccl=None, algorithms={}))


@pytest.mark.parametrize(("name", "ranks"), FABRICS)
def test_auto_is_the_fastest_all_to_all_of_all_on_every_fabric(name: str, ranks: int) -> None:
    cluster = textbook(name)
    gpus = np.arange(ranks)
    layout, floor, routed = layout_of(cluster, gpus), Floor(cluster, gpus), RouteCache(cluster)
    fitting = [a for a, entry in ALGORITHMS[Collective.ALL_TO_ALL].items() if not entry.unfit(layout) and a != "gloo"]
    assert {"direct", "pairwise", "bruck"} <= set(fitting)
    for size in SIZES if ranks < 512 else SIZES[1::3]:
        auto = run_collective(cluster, Collective.ALL_TO_ALL, ranks, size, routed=routed)
        # A candidate whose bound is above cannot be faster.
        possible = [a for a in fitting if a == auto.algorithm or bound(a, layout, size, floor) < auto.time_s]
        by_name = [
            run_collective(cluster, Collective.ALL_TO_ALL, ranks, size, a, routed=routed).time_s for a in possible
        ]
        assert auto.time_s == pytest.approx(min(by_name), rel=1e-9), (size, possible)


def bound(algorithm: str, layout: Layout, size: float, floor: Floor) -> float:
    return sum(stage.repeat * floor(stage) for stage in schedule(Collective.ALL_TO_ALL, algorithm, layout, size))


@pytest.mark.parametrize(("name", "ranks"), [("h100-8x_rail_128", 64), ("h100-8x_hyperx_128", 256)])
def test_the_messages_of_nccl_leave_as_is_fastest(name: str, ranks: int) -> None:
    """NCCL's model has its own latency, so the bytes alone decide how the fabric carries them."""
    cluster = load_cluster(name)
    assert cluster.transport.nccl is not None
    for size in SIZES[1::2]:
        auto = run_collective(cluster, Collective.ALL_TO_ALL, ranks, size).time_s
        for algorithm in ("direct", "hierarchical", "bruck"):
            transport = replace(cluster.transport, algorithms={Collective.ALL_TO_ALL: (algorithm,)})
            only = replace(cluster, transport=transport)
            assert auto <= run_collective(only, Collective.ALL_TO_ALL, ranks, size).time_s * (1 + 1e-9)


@pytest.mark.parametrize(
    ("name", "ranks", "op", "algorithm"),
    [
        ("gb200-nvl72_8", 72, Collective.ALL_REDUCE, "nvls"),
        ("h100-8x_rail_128", 16, Collective.ALL_REDUCE, "double_tree"),
        ("a100-8x_leafspine_16", 16, Collective.ALL_REDUCE, "auto"),
        ("tpu-v4_torus_512", 16, Collective.BROADCAST, "chain"),
        ("one-switch_16", 16, Collective.REDUCE, "double_tree"),
        ("one-switch_16", 16, Collective.BROADCAST, "auto"),
    ],
)
def test_more_bytes_never_take_less_time(name: str, ranks: int, op: Collective, algorithm: str) -> None:
    cluster = textbook(name)
    routed = RouteCache(cluster)
    sizes = sorted([*np.geomspace(2.0**16, 2.0**28, 25), 36.0 * 2**20, 36.2 * 2**20])
    times = [run_collective(cluster, op, ranks, float(size), algorithm, routed=routed).time_s for size in sizes]
    longest = 0.0
    for size, time in zip(sizes, times, strict=True):
        assert time >= 0.98 * longest, (size, time, longest)
        longest = max(longest, time)
