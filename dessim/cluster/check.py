"""Facts about a cluster, and whether it holds together.

`describe` derives the numbers a buyer asks for; `check` tests the invariants that every route and every link must keep,
on a fixed sample of GPU pairs where all pairs would be too many.
"""

from __future__ import annotations

from typing import Any

import networkx as nx
import numpy as np

from dessim.cluster.fabrics import direct
from dessim.cluster.graph import Cluster
from dessim.cluster.links import IntArray
from dessim.cluster.node import NodeLinks
from dessim.cluster.routing.routes import Routes

SAMPLED_PAIRS = 512


def describe(cluster: Cluster) -> dict[str, Any]:
    """Counts, rates and derived bandwidths; units in the key names, ready for JSON.

    What differs between kinds of servers is None, and stands in `node_kinds`.
    """
    links, kinds = cluster.links, [_kind(cluster, kind) for kind in cluster.wiring.kinds]
    bisection, oversubscription = _bisection(cluster), _oversubscription(cluster)
    by_kind = {}
    for kind in links.kinds:
        members = links.of_kind(kind)
        slowest, fastest = float(links.capacity[members].min()), float(links.capacity[members].max())
        by_kind[kind] = {
            "count": len(members),
            "capacity_GBps": _round(slowest / 1e9),
            "latency_us": _round(links.latency[members].max() * 1e6),
        }
        if fastest > slowest:
            by_kind[kind]["fastest_GBps"] = _round(fastest / 1e9)
    return {
        "name": cluster.name,
        "description": cluster.description,
        "file": str(cluster.path),
        "kind": cluster.kind,
        "routing": cluster.routing.policy,
        "gpus": cluster.n_gpus,
        "nodes": cluster.n_nodes,
        **{key: value if all(kind[key] == value for kind in kinds) else None for key, value in kinds[0].items()},
        "node_kinds": [{"nodes": k.run.count, **of} for k, of in zip(cluster.wiring.kinds, kinds, strict=True)],
        "transport": cluster.transport.name,
        "switches": {x.kind: x.count for x in links.layers if x.kind in ("switch", "router", "leaf", "spine", "core")},
        "links": by_kind,
        "oversubscription": _round(oversubscription),
        "bisection_GBps": None if bisection is None else _round(bisection / 1e9),
        "bisection_per_gpu_GBps": None if bisection is None else _round(bisection / 1e9 / max(1, cluster.n_gpus // 2)),
    }


def _kind(cluster: Cluster, kind: NodeLinks) -> dict[str, Any]:
    """What is in a server of a kind."""
    node, gpu = kind.node, kind.node.gpu or cluster.gpu
    return {
        "gpus_per_node": node.gpus,
        "nics_per_node": node.nics,
        "gpu": gpu.name,
        "gpu_memory_GiB": _round(gpu.memory / 2**30),
        "nic": node.nic.name,
    }


def check(cluster: Cluster) -> list[str]:
    """What is wrong with the cluster, one sentence each; an empty list when all is well."""
    links, problems = cluster.links, []
    for link in np.flatnonzero(~(links.capacity > 0) | ~np.isfinite(links.capacity))[:3]:
        problems.append(f"link {links.name(int(link))} has capacity {links.capacity[link]} bytes/s")
    for link in np.flatnonzero(~(links.latency >= 0) | ~np.isfinite(links.latency))[:3]:
        problems.append(f"link {links.name(int(link))} has latency {links.latency[link]} s")
    graph = cluster.graph()
    if graph.number_of_edges() != len(links):
        problems.append(f"{len(links) - graph.number_of_edges()} links join vertices that another link already joins")
    if not nx.is_strongly_connected(graph):
        problems.append("some GPUs cannot reach each other")
    problems += cluster.fabric.port_problems()
    src, dst = sample_pairs(cluster)
    if len(src):
        problems += route_problems(cluster, src, dst, cluster.routes(src, dst))
    return problems


def sample_pairs(cluster: Cluster) -> tuple[IntArray, IntArray]:
    """Pairs of different GPUs: all of them in a small cluster, else a fixed random sample and each GPU 0 meets."""
    n = cluster.n_gpus
    if n * (n - 1) <= SAMPLED_PAIRS:
        src, dst = np.divmod(np.arange(n * n), n)
    else:
        rng = np.random.default_rng(0)
        edge = np.array([1, cluster.node.gpus, n // 2, n - 1]) % n
        src = np.concatenate([np.zeros_like(edge), edge, rng.integers(n, size=SAMPLED_PAIRS)])
        dst = np.concatenate([edge, np.zeros_like(edge), rng.integers(n, size=SAMPLED_PAIRS)])
    return src[src != dst], dst[src != dst]


def route_problems(cluster: Cluster, src: IntArray, dst: IntArray, routes: Routes) -> list[str]:
    """Flows whose shares do not add up: at each vertex what comes in goes out, but 1 at the source and the target."""
    links, n = cluster.links, len(src)
    if len(routes.link) and not (routes.link.min() >= 0 and routes.link.max() < len(links)):
        return ["a route uses a link that is not there"]
    width = sum(layer.count for layer in links.layers)
    # (flow, vertex) pairs as one number, so that a sample over a large cluster needs no dense matrix
    keys = np.concatenate([routes.flow * width + links.src[routes.link], routes.flow * width + links.dst[routes.link]])
    ends = np.concatenate([np.arange(n) * width + src, np.arange(n) * width + dst])
    cells, where = np.unique(np.concatenate([keys, ends]), return_inverse=True)
    sign = np.concatenate([routes.weight, -routes.weight, -np.ones(n), np.ones(n)])
    surplus = np.zeros(len(cells))
    np.add.at(surplus, where, sign)
    problems = []
    for cell in np.flatnonzero(np.abs(surplus) > 1e-9)[:3]:
        flow, vertex = divmod(int(cells[cell]), width)
        pair = f"gpu{src[flow]} to gpu{dst[flow]}"
        problems.append(f"the route from {pair} gains {surplus[cell]:g} of its flow at {links.vertex_name(vertex)}")
    return problems


def _bisection(cluster: Cluster) -> float | None:
    """Bytes/s from the first half of the nodes to the others, payload, one direction; 0 for a single node.

    With overrides it is the maximum flow, and None where that would take minutes.
    """
    built = cluster.built
    if built is not None and len(built) > direct.EXACT_CABLES:
        return None
    if built is not None:
        gpu = np.arange(cluster.n_gpus)
        first_half = (cluster.node_of(gpu) < cluster.n_nodes // 2).astype(np.int64)
        unlimited = np.full(len(gpu), built.capacity.sum())
        return direct.between_halves(gpu, first_half, unlimited, direct.Cables(built.src, built.dst, built.capacity))
    first_half = (cluster.wiring.node_of_nic() < cluster.n_nodes // 2).astype(np.int64)
    return cluster.fabric.bisection(cluster.wiring.nic_capacity(), first_half)


def _oversubscription(cluster: Cluster) -> float:
    """What the fabric says, or with overrides what the worst switch has: from its NICs over to other switches."""
    built, ratio = cluster.built, cluster.fabric.oversubscription(cluster.wiring.nic_capacity())
    if built is None:
        return ratio
    nics, width = built.of_kind("nic_up"), sum(layer.count for layer in built.layers)
    enters = np.bincount(built.dst[nics], built.capacity[nics], minlength=width)
    between = slice(0, cluster.wiring.first)
    leaves = np.bincount(built.src[between], built.capacity[between], minlength=width)
    both = (enters > 0) & (leaves > 0)
    return max(ratio, float((enters[both] / leaves[both]).max(initial=0.0)))


def _round(value: float) -> float:
    """Nine significant digits: enough for any rate, short enough to read."""
    return float(f"{value:.9g}")
