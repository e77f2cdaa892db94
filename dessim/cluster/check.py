"""Facts about a cluster, and checks of its consistency.

`describe` derives the numbers a buyer asks for. `check` tests invariants that every route and every link must satisfy;
in a large cluster it tests the routes of a fixed sample of GPU pairs.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from dessim.arrays import significant
from dessim.cluster.fabrics import direct
from dessim.cluster.graph import Cluster
from dessim.cluster.links import IntArray
from dessim.cluster.node import NodeLinks
from dessim.cluster.routing.routes import Routes

SAMPLED_PAIRS = 512
"""Pairs of GPUs whose routes are checked, where there are more."""
_MAX_EXAMPLES = 3
"""Problems of one kind that are reported."""
_SHARE_TOLERANCE = 1e-9
"""Error that rounding may leave in the sum of a flow's shares."""
_SWITCH_LAYERS = ("switch", "router", "leaf", "spine", "core")


def describe(cluster: Cluster) -> dict[str, Any]:
    """Return counts, rates and derived bandwidths, ready for JSON; the key names contain the units.

    A value that differs between kinds of servers is None; `node_kinds` holds those of each kind.
    """
    links = cluster.links
    kinds = [_describe_kind(cluster, kind) for kind in cluster.wiring.kinds]
    bisection = _bisection(cluster)
    gpus_in_half = max(1, cluster.n_gpus // 2)
    common = {key: value if all(kind[key] == value for kind in kinds) else None for key, value in kinds[0].items()}
    return {
        "name": cluster.name,
        "description": cluster.description,
        "file": str(cluster.path),
        "kind": cluster.kind,
        "routing": cluster.routing.policy,
        "gpus": cluster.n_gpus,
        "nodes": cluster.n_nodes,
        **common,
        "node_kinds": [{"nodes": k.block.count, **facts} for k, facts in zip(cluster.wiring.kinds, kinds, strict=True)],
        "transport": cluster.transport.name,
        "switches": {layer.kind: layer.count for layer in links.layers if layer.kind in _SWITCH_LAYERS},
        "links": {kind: _describe_links(cluster, kind) for kind in links.kinds},
        "oversubscription": significant(_oversubscription(cluster)),
        "bisection_GBps": None if bisection is None else significant(bisection / 1e9),
        "bisection_per_gpu_GBps": None if bisection is None else significant(bisection / 1e9 / gpus_in_half),
    }


def _describe_kind(cluster: Cluster, kind: NodeLinks) -> dict[str, Any]:
    """The contents of each server of a kind."""
    node = kind.node
    gpu = node.gpu or cluster.gpu
    return {
        "gpus_per_node": node.gpus,
        "nics_per_node": node.nics,
        "gpu": gpu.name,
        "gpu_memory_GiB": significant(gpu.memory / 2**30),
        "nic": node.nic.name,
    }


def _describe_links(cluster: Cluster, kind: str) -> dict[str, Any]:
    """Number, slowest and fastest rate, and largest latency of the links of a kind."""
    links = cluster.links
    members = links.of_kind(kind)
    slowest = float(links.capacity[members].min())
    fastest = float(links.capacity[members].max())
    facts: dict[str, Any] = {
        "count": len(members),
        "capacity_GBps": significant(slowest / 1e9),
        "latency_us": significant(links.latency[members].max() * 1e6),
    }
    if fastest > slowest:
        facts["fastest_GBps"] = significant(fastest / 1e9)
    return facts


def check(cluster: Cluster) -> list[str]:
    """Return the problems of a cluster, one sentence each; an empty list if there are none."""
    # Imported here because that takes a quarter of a second, and every command imports this file.
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import connected_components

    links = cluster.links
    problems = []
    for link in np.flatnonzero(~(links.capacity > 0) | ~np.isfinite(links.capacity))[:_MAX_EXAMPLES]:
        problems.append(f"link {links.name(int(link))} has capacity {links.capacity[link]} bytes/s")
    for link in np.flatnonzero(~(links.latency >= 0) | ~np.isfinite(links.latency))[:_MAX_EXAMPLES]:
        problems.append(f"link {links.name(int(link))} has latency {links.latency[link]} s")
    # Arrays, because the graph of a cluster of 65,536 GPUs takes seconds to build.
    joined = csr_array((np.ones(len(links)), (links.src, links.dst)), shape=(links.n_vertices, links.n_vertices))
    if joined.nnz != len(links):
        problems.append(f"{len(links) - joined.nnz} links join vertices that another link already joins")
    if connected_components(joined, directed=True, connection="strong", return_labels=False) > 1:
        problems.append("some GPUs cannot reach each other")
    problems += cluster.fabric.port_problems()
    src, dst = sample_pairs(cluster)
    if len(src):
        problems += route_problems(cluster, src, dst, cluster.routes(src, dst))
    return problems


def sample_pairs(cluster: Cluster) -> tuple[IntArray, IntArray]:
    """Return pairs of different GPUs: all pairs of a small cluster, otherwise a fixed random sample.

    The sample also contains pairs of GPU 0 with its neighbour, the next node, the middle and the last GPU.
    """
    n = cluster.n_gpus
    if n * (n - 1) <= SAMPLED_PAIRS:
        src, dst = np.divmod(np.arange(n * n), n)
    else:
        rng = np.random.default_rng(0)
        landmarks = np.array([1, cluster.node.gpus, n // 2, n - 1]) % n
        zeros = np.zeros_like(landmarks)
        src = np.concatenate([zeros, landmarks, rng.integers(n, size=SAMPLED_PAIRS)])
        dst = np.concatenate([landmarks, zeros, rng.integers(n, size=SAMPLED_PAIRS)])
    return src[src != dst], dst[src != dst]


def route_problems(cluster: Cluster, src: IntArray, dst: IntArray, routes: Routes) -> list[str]:
    """Return the flows from GPU `src` to GPU `dst` [n] that are not conserved, one sentence each.

    At each vertex the shares of a flow that enter must equal those that leave, except for 1 at either end.
    """
    links = cluster.links
    n = len(src)
    if len(routes.link) and not (routes.link.min() >= 0 and routes.link.max() < len(links)):
        return ["a route uses a link that does not exist"]
    n_vertices = links.n_vertices
    # A (flow, vertex) pair is one number, so that a sample over a large cluster needs no dense matrix.
    leaves = routes.flow * n_vertices + links.src[routes.link]
    enters = routes.flow * n_vertices + links.dst[routes.link]
    starts = np.arange(n) * n_vertices + src
    ends = np.arange(n) * n_vertices + dst
    cells, cell_of = np.unique(np.concatenate([leaves, enters, starts, ends]), return_inverse=True)
    sign = np.concatenate([routes.weight, -routes.weight, -np.ones(n), np.ones(n)])
    surplus = np.zeros(len(cells))
    np.add.at(surplus, cell_of, sign)
    problems = []
    for cell in np.flatnonzero(np.abs(surplus) > _SHARE_TOLERANCE)[:_MAX_EXAMPLES]:
        flow, vertex = divmod(int(cells[cell]), n_vertices)
        pair = f"gpu{src[flow]} to gpu{dst[flow]}"
        problems.append(f"the route from {pair} gains {surplus[cell]:g} of its flow at {links.vertex_name(vertex)}")
    return problems


def _bisection(cluster: Cluster) -> float | None:
    """Payload bytes/s from the first half of the nodes to the others, in one direction; 0 for a single node.

    With overrides it is the maximum flow, or None where computing it would take minutes.
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
    """The figure of the fabric; with overrides that of the worst switch, rate of its NICs over rate of its uplinks."""
    built = cluster.built
    ratio = cluster.fabric.oversubscription(cluster.wiring.nic_capacity())
    if built is None:
        return ratio
    nic_links = built.of_kind("nic_up")
    fabric_links = slice(0, cluster.wiring.first_server_link)
    enters = np.bincount(built.dst[nic_links], built.capacity[nic_links], minlength=built.n_vertices)
    leaves = np.bincount(built.src[fabric_links], built.capacity[fabric_links], minlength=built.n_vertices)
    both = (enters > 0) & (leaves > 0)
    return max(ratio, float((enters[both] / leaves[both]).max(initial=0.0)))
