"""The three-tier fabric: textbook sizes, routes, twins under split routing, and the narrowest tier."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dessim.cluster import Cluster, check, describe, load_cluster
from dessim.cluster.check import route_problems
from tests.cluster.small_clusters import build, clusters, hosts, link


def k_ary(k: int, routing: str = "split", **changes: Any) -> Cluster:
    """The fat tree of k-port switches: k**3 / 4 hosts."""
    half = k // 2
    table: dict[str, Any] = {
        "nodes_per_leaf": half,
        "leaves_per_pod": half,
        "spines_per_pod": half,
        "cores_per_spine": half,
        "uplink": link(),
        "switch": {"ports": k, "latency": "0 s", "source": "test"},
        "routing": routing,
    }
    data = hosts(kind="fat_tree", **{**table, **changes})
    data["node"]["count"] = k**3 // 4
    return build(data)


def kinds_on_route(cluster: Cluster, src: int, dst: int) -> list[str]:
    routes = cluster.routes([src], [dst])
    return [cluster.links.kinds[k] for k in cluster.links.kind[routes.link]]


@pytest.mark.parametrize("k", [2, 4, 6, 8])
def test_k_port_switches_make_the_textbook_tree(k: int) -> None:
    cluster = k_ary(k)
    facts = describe(cluster)
    assert facts["switches"] == {"leaf": k * k // 2, "spine": k * k // 2, "core": k * k // 4}
    assert facts["oversubscription"] == 1.0
    assert facts["bisection_GBps"] == k**3 // 4 // 2 * 50
    assert check(cluster) == []


def test_a_message_goes_up_to_the_lowest_switch_above_both_ends() -> None:
    cluster = k_ary(4)  # 2 hosts a leaf, 4 a pod
    assert kinds_on_route(cluster, 0, 1) == ["nic_up", "nic_down"]
    assert kinds_on_route(cluster, 0, 2) == ["nic_up", *["leaf_up", "leaf_down"] * 2, "nic_down"]
    up, down = ["leaf_up"] * 2, ["leaf_down"] * 2
    assert kinds_on_route(cluster, 0, 4) == ["nic_up", *up, *["spine_up", "spine_down"] * 4, *down, "nic_down"]
    routes = cluster.routes([0, 0, 0], [1, 2, 4])
    assert routes.latency == pytest.approx([2e-6, 4e-6, 6e-6])
    static = k_ary(4, "static")
    assert kinds_on_route(static, 0, 4) == ["nic_up", "leaf_up", "spine_up", "spine_down", "leaf_down", "nic_down"]


def test_a_message_stays_on_the_plane_it_went_up_on() -> None:
    cluster = k_ary(4, "static")
    names = [cluster.links.name(int(i)) for i in cluster.routes([0], [7]).link]
    # Host 7 is on port 1 of leaf 3, so spine 1 of its pod; the place of its leaf selects the core of plane 1.
    assert names == [
        "gpu0 -> leaf0",
        "leaf0 -> spine1",
        "spine1 -> core3",
        "core3 -> spine3",
        "spine3 -> leaf3",
        "leaf3 -> gpu7",
    ]


@pytest.mark.parametrize("k", [4, 6])
def test_static_routing_gives_a_shift_no_shared_link(k: int) -> None:
    """D-mod-k on a full-bisection tree routes any shift without contention (Zahavi 2010)."""
    cluster = k_ary(k, "static")
    gpus = np.arange(cluster.n_gpus)
    for shift in range(1, cluster.n_gpus):
        routes = cluster.routes(gpus, (gpus + shift) % cluster.n_gpus)
        assert np.bincount(routes.link).max() == 1


@settings(max_examples=100, deadline=None)
@given(clusters(), st.integers(0, 2**32 - 1))
def test_twins_always_carry_the_same_load(cluster: Cluster, seed: int) -> None:
    """`without_twins` leaves out only links with the same load as the one it keeps, and counts them in `copies`."""
    n = cluster.n_gpus
    if n < 2:
        return
    rng = np.random.default_rng(seed)
    src = rng.integers(n, size=12)
    dst = (src + rng.integers(1, n, size=12)) % n
    size = rng.random(12)
    full = cluster.routes(src, dst)
    kept = cluster.routes(src, dst, without_twins=True)
    load = np.bincount(full.link, full.weight * size[full.flow], minlength=len(cluster.links))
    kept_load = np.bincount(kept.link, kept.weight * size[kept.flow], minlength=len(cluster.links))
    assert kept_load[kept.link] == pytest.approx(load[kept.link], rel=1e-12)
    assert set(np.round(load[load > 0], 9)) == set(np.round(kept_load[kept_load > 0], 9))
    assert (kept.weight * kept.copies).sum() == pytest.approx(full.weight.sum(), rel=1e-12)
    assert kept.latency == pytest.approx(full.latency)


def test_the_slowest_of_unequal_twins_is_kept() -> None:
    cluster = k_ary(4)
    up = cluster.links.of_kind("spine_up")
    capacity = cluster.links.capacity.copy()
    capacity[up[2]] = 1e9
    links = replace(cluster.links, capacity=capacity)
    assert cluster.links.uniform_capacity and not links.uniform_capacity
    kept = replace(cluster, links=links).routes([0], [15], without_twins=True)
    assert up[2] in kept.link and np.isin(kept.link, up).sum() == 1


@pytest.mark.parametrize(
    ("changes", "ratio"),
    [
        ({}, 1),
        ({"spines_per_pod": 2}, 2),  # half the spines: half the uplinks of every leaf and of every pod
        ({"cores_per_spine": 1}, 4),
        ({"links_per_core": 2}, 1),  # more than the leaves can use
        ({"core_uplink": link("25 GB/s")}, 2),
        ({"uplink": link("100 GB/s"), "core_uplink": link()}, 1),
    ],
)
def test_oversubscription_is_that_of_the_narrowest_tier(changes: dict[str, Any], ratio: float) -> None:
    facts = describe(k_ary(8, **{"switch": None, **changes}))
    assert facts["oversubscription"] == ratio
    assert facts["bisection_GBps"] == 128 // 2 * 50 / ratio


def test_ports_are_counted_on_every_tier() -> None:
    cluster = k_ary(4, spines_per_pod=3, cores_per_spine=5, leaves_per_pod=1)
    assert check(cluster) == [
        "a leaf needs 5 ports, but inline has 4",
        "a spine needs 6 ports, but inline has 4",
        "a core needs 8 ports, but inline has 4",
    ]


def test_a_cluster_that_is_too_large_is_refused_before_anything_is_allocated(tmp_path: Any) -> None:
    text = (load_cluster("bench/three_tier_65536").path).read_text()
    path = tmp_path / "giant.toml"
    path.write_text(text.replace("cores_per_spine = 32", "cores_per_spine = 32_000"))
    with pytest.raises(Exception, match="links are more than the"):
        load_cluster(path)


def test_routing_a_ring_over_65536_hosts_is_fast() -> None:
    cluster = load_cluster("bench/three_tier_65536")
    gpus = np.arange(65_536)
    began = time.perf_counter()
    kept = cluster.routes(gpus, (gpus + 1) % 65_536, without_twins=True)
    assert time.perf_counter() - began < 1.0
    # 2,048 hosts leave their leaf; 64 of them leave their pod.
    assert len(kept.link) == 2 * 65_536 + 2 * 2048 + 2 * 64
    senders = np.array([0, 31, 1023, 65_535])
    full = cluster.routes(senders, (senders + 1) % 65_536)
    assert route_problems(cluster, senders, (senders + 1) % 65_536, full) == []
    assert np.bincount(full.flow, full.weight) == pytest.approx([2, 4, 6, 6])
