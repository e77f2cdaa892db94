"""Clusters with several kinds of servers: numbering, routes, bounds, times."""

from __future__ import annotations

from typing import Any

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from dessim.cluster import Cluster, check, describe
from dessim.cluster.check import sample_pairs
from dessim.cluster.drawing.draw import draw
from dessim.cluster.faults import find_links
from dessim.cluster.spec.topology_file import problems
from dessim.collectives.choose import Floor
from dessim.collectives.schedule import Stage
from dessim.commands.collective import run_collective
from dessim.commands.support.projection import Projection
from dessim.errors import ClusterError, UsageError
from dessim.sim.fluid.flows import route_flows
from dessim.trace.schema import Collective
from dessim.workload.model import load_model
from dessim.workload.scale import Job
from tests.cluster.routing.test_routes import assert_route_is_a_path
from tests.cluster.small_clusters import build, hosts, link, mixed_clusters
from tests.cluster.test_bisection import maximum_flow
from tests.projecting import project

BIG = {"count": 2, "gpus": 4, "nics": 4, "nic": link("40 GB/s"), "nvlink": link("300 GB/s", "0.3 us")}
SMALL = {"count": 3, "gpus": 4, "nics": 2, "nic": link("10 GB/s"), "pcie": link("20 GB/s"), "gpu": "a100-sxm-40gb"}
RAILS: dict[str, Any] = {"kind": "rail_optimised", "nodes_per_pod": 3, "spines": 2, "uplink": link("40 GB/s")}


def room(*nodes: dict[str, Any], **fabric: Any) -> Cluster:
    data = hosts(**(fabric or RAILS))
    return build({**data, "node": list(nodes or (BIG, SMALL))})


def test_gpus_and_nics_are_numbered_server_after_server() -> None:
    cluster = room()
    assert (cluster.n_nodes, cluster.n_gpus) == (5, 20)
    assert cluster.node_of([0, 7, 8, 12, 19]).tolist() == [0, 1, 2, 3, 4]
    assert cluster.wiring.nic_of(np.array([3, 7, 8, 9, 10, 19])).tolist() == [3, 7, 8, 8, 9, 13]
    assert cluster.wiring.first_nic().tolist() == [0, 4, 8, 10, 12]
    names = [cluster.links.vertex_name(v) for v in range(sum(layer.count for layer in cluster.links.layers))]
    assert len(set(names)) == len(names) and {"gpu19", "node4/nic1", "node1/nvswitch"} <= set(names)
    assert cluster.links.name(int(find_links(cluster.links, "gpu19 -> node4/nic1", cluster.path)[0]))
    with pytest.raises(ClusterError, match="nothing is called 'node0/nic0'"):
        find_links(cluster.links, "node0/nic0", cluster.path)
    assert [gpu.name for gpu, _ in cluster.devices(range(20))] == ["h100-sxm", "a100-sxm-40gb"]
    assert [ranks.tolist() for _, ranks in cluster.devices([9, 0, 8, 1])] == [[1, 3], [0, 2]]


def test_a_list_of_one_kind_is_the_table() -> None:
    listed = room(BIG)
    single = build({**hosts(**RAILS), "node": BIG})
    for column in ("capacity", "latency", "kind", "src", "dst"):
        assert np.array_equal(getattr(listed.links, column), getattr(single.links, column))


def test_rails_of_servers_with_fewer_nics() -> None:
    cluster = room()

    def route(src: int, dst: int) -> list[str]:
        return [cluster.links.name(int(i)) for i in cluster.routes([src], [dst]).link]

    # GPU 2 is on rail 2; GPU 11 is on rail 1 of a server with two rails. The flow first moves to rail 1 over NVLink.
    into = ["leaf1 -> node2/nic1", "node2/nic1 -> gpu11"]
    assert route(2, 11) == ["gpu2 -> node0/nvswitch", "node0/nvswitch -> gpu1", "gpu1 -> leaf1", *into]
    # In the opposite direction the server has no rail 2 and no NVLink, so the flow crosses a spine.
    out = ["gpu11 -> node2/nic1", "node2/nic1 -> leaf1"]
    assert route(11, 2) == [
        *out,
        *(hop for s in (0, 1) for hop in (f"leaf1 -> spine{s}", f"spine{s} -> leaf2")),
        "leaf2 -> gpu2",
    ]
    # The second pod has only servers with two NICs, hence two leaves.
    layer = cluster.links.layer("leaf")
    assert layer is not None and layer.count == 4 + 2


def over_own_nics(cluster: Cluster, graph: nx.DiGraph, gpus: list[int]) -> nx.DiGraph:
    """The graph without NVLink and without NICs of other GPUs; a PCIe switch may connect those, too."""
    nodes, nics = cluster.node_of(gpus), cluster.wiring.nic_of(np.array(gpus))
    numbers = nics - cluster.wiring.first_nic()[nodes]
    own = {f"node{node}/nic{number}" for node, number in zip(nodes.tolist(), numbers.tolist(), strict=True)}
    return graph.subgraph(v for v in graph if "nvswitch" not in v and ("/nic" not in v or v in own))


@settings(max_examples=100, deadline=None)
@given(mixed_clusters(), st.data())
def test_routes_are_real_and_shortest_paths(cluster: Cluster, data: st.DataObject) -> None:
    assert [p for p in check(cluster) if "ports" not in p] == []
    graph, (srcs, dsts) = cluster.graph(), sample_pairs(cluster)
    for number in data.draw(st.sets(st.integers(0, len(srcs) - 1), max_size=4)) if len(srcs) else ():
        src, dst = int(srcs[number]), int(dsts[number])
        assert_route_is_a_path(cluster, graph, src, dst)
        same_node = len(set(cluster.node_of([src, dst]).tolist())) == 1
        if same_node or not cluster.fabric.rail_aware:  # changing rail over NVLink is a detour
            walked = graph if same_node else over_own_nics(cluster, graph, [src, dst])
            routes = cluster.routes([src], [dst])
            levels = cluster.links.src[routes.link]
            hops = len(nx.shortest_path(walked, f"gpu{src}", f"gpu{dst}")) - 1
            assert len(set(levels.tolist())) >= hops
            assert routes.weight.sum() == pytest.approx(hops)


@settings(max_examples=60, deadline=None)
@given(mixed_clusters())
def test_bisection_is_the_maximum_flow(cluster: Cluster) -> None:
    bisection = describe(cluster)["bisection_GBps"]
    assert bisection == pytest.approx(maximum_flow(cluster) / 1e9, rel=1e-8, abs=1e-12)
    assert describe(cluster)["oversubscription"] >= 0
    draw(cluster)


@settings(max_examples=20, deadline=None)
@given(mixed_clusters(), st.integers(0, 2**32 - 1))
def test_folded_is_unfolded_and_no_faster_than_the_floor(cluster: Cluster, seed: int) -> None:
    n, rng = cluster.n_gpus, np.random.default_rng(seed)
    if n < 2:
        return
    src = rng.integers(n, size=2 * n)
    dst = (src + rng.integers(1, n, size=2 * n)) % n
    size = rng.integers(1, 4, size=2 * n) * 1e6
    if cluster.kind == "rail_only" and not all(node.nvlink for node in cluster.nodes):
        return
    folded, full = (route_flows(cluster, src, dst, size, folding=on) for on in (True, False))
    assert folded.arrivals(1.0)[folded.folded.colour] == pytest.approx(full.arrivals(1.0)[full.folded.colour], rel=1e-9)
    assert Floor(cluster, np.arange(n))(Stage((), src, dst, size)) <= folded.alone(1.0) * (1 + 1e-9)


def test_the_slowest_nic_bounds_a_ring_and_folding_changes_no_result() -> None:
    cluster = room(kind="single_switch")
    folded, full = (run_collective(cluster, Collective.ALL_REDUCE, 20, 1e9, "ring", folding=on) for on in (True, False))
    assert folded.time_s == pytest.approx(full.time_s, rel=1e-9)
    # Each of 38 steps moves a twentieth. Only one of two GPUs that share a NIC of 10 GB/s sends to another server.
    assert folded.time_s == pytest.approx(38 * (1e9 / 20 / 10e9), rel=2e-2)


def test_a_step_waits_for_the_slow_kind() -> None:
    job = Job.of_model(load_model("deepfm"))
    fabric = {"kind": "single_switch"}
    fast = {**BIG, "gpu": "h100-sxm"}
    alone, mixed, slow = (
        project(job, room(*nodes, **fabric), ["table_wise"], [8])[0]
        for nodes in (
            (fast,),
            ({**fast, "count": 1}, {**fast, "count": 1, "gpu": "v100-sxm2-32gb"}),
            ({**fast, "gpu": "v100-sxm2-32gb"},),
        )
    )
    assert isinstance(alone, Projection) and isinstance(mixed, Projection) and isinstance(slow, Projection)
    steps = [row.breakdown.step_time_s for row in (alone, mixed, slow)]
    assert steps[0] < steps[1] <= steps[2] * (1 + 1e-9)
    # 39 tables on 8 ranks: the last rank owns one table less.
    assert [list(ranks) for ranks in mixed.record.classes] == [[0, 1, 2, 3], [4, 5, 6], [7]]
    late = {span.rank_class for span in mixed.record.spans if span.bound_by == "late rank"}
    assert 0 in late and 1 not in late  # the fast ranks wait for the slow ones with most tables
    assert "h100-sxm" in mixed.provenance["compute"] and "v100-sxm2-32gb" in mixed.provenance["compute"]


def test_switches_sum_only_if_those_of_every_kind_do() -> None:
    from dessim.cluster.tree_routes import sums_in_node

    sums = {**BIG, "nvswitch": {"ports": 64, "latency": "0.1 us", "source": "test", "reduces": True}}
    assert sums_in_node(room(sums, sums)) and not sums_in_node(room(sums, BIG))
    fabric = {"kind": "single_switch", "switch": {"ports": 64, "latency": "0.1 us", "source": "test", "reduces": True}}
    half = {**sums, "nics": 2, "pcie": link("20 GB/s")}
    folded, full = (
        run_collective(room(sums, half, **fabric), Collective.ALL_REDUCE, 16, 1e8, "nvls_sharp", folding=on).time_s
        for on in (True, False)
    )
    assert folded == pytest.approx(full, rel=1e-9)


def test_an_override_may_span_several_kinds() -> None:
    data = {**hosts(**RAILS), "node": [BIG, SMALL]}
    links = build({**data, "override": [{"nodes": [1, 2], "nic": link("5 GB/s")}]}).links
    assert (links.capacity[links.of_kind("nic_up")] / 1e9).tolist() == [40] * 4 + [5] * 6 + [10] * 4
    with pytest.raises(ClusterError, match=r"these nodes have no node\.nvlink"):
        build({**data, "override": [{"nodes": [1, 2], "nvlink": link("5 GB/s")}]})


def test_features_for_one_kind_of_gpu_refuse_several() -> None:
    with pytest.raises(UsageError, match=r"--spill takes GPUs of one kind, .* has h100-sxm, a100-sxm-40gb"):
        project(Job.of_model(load_model("deepfm")), room(), ["table_wise"], [20], spill=True)


@pytest.mark.parametrize(
    ("node", "words"),
    [
        ([], "node: "),
        ([BIG, {**SMALL, "nics": 3}], "node.1: nics = 3 must divide gpus = 4"),
        ({**SMALL, "nics": 3}, "node: nics = 3 must divide gpus = 4"),
        ([BIG, {**SMALL, "gpus": "4"}], "node.1.gpus: "),
    ],
)
def test_mistakes_are_reported_with_their_key(node: object, words: str) -> None:
    with pytest.raises(ValidationError) as caught:
        build({**hosts(**RAILS), "node": node})
    assert words in problems(caught.value)


def test_rail_only_needs_servers_with_the_same_number_of_nics() -> None:
    small = {**SMALL, "nvlink": link()}
    with pytest.raises(ClusterError, match="every kind of node needs the same number of nics"):
        room(BIG, small, kind="rail_only")


def test_the_description_lists_the_kinds() -> None:
    facts = describe(room())
    assert facts["gpus"] == 20 and facts["gpu"] is None and facts["gpus_per_node"] == 4
    assert [(kind["nodes"], kind["gpu"], kind["nics_per_node"]) for kind in facts["node_kinds"]] == [
        (2, "h100-sxm", 4),
        (3, "a100-sxm-40gb", 2),
    ]
    assert "2 nodes × 4 h100-sxm + 3 nodes × 4 a100-sxm-40gb" in draw(room())
