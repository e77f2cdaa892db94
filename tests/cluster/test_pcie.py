"""PCIe switches and sockets inside a server: routes through them, and which flows share a link."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from dessim.cluster import Cluster, check
from dessim.cluster.routing.trees import Trees
from dessim.cluster.spec.topology_file import problems
from dessim.cluster.tree_routes import tree_routes
from dessim.sim.fluid.flows import route_flows
from tests.cluster.small_clusters import build, hosts, link


def server(**node: Any) -> Cluster:
    """Two servers of 8 GPUs and 4 NICs under 4 PCIe switches on 2 sockets, without NVLink."""
    data = hosts()
    tree = {"pcie": link("20 GB/s", "0 s"), "pcie_switches": 4, "sockets": 2, "socket_link": link("30 GB/s", "0 s")}
    data["node"].update({"count": 2, "gpus": 8, "nics": 4, "nic": link("100 GB/s", "0 s"), **tree, **node})
    return build({**data, "fabric": {"kind": "single_switch"}})


def route(cluster: Cluster, src: int, dst: int) -> list[str]:
    return [cluster.links.name(int(i)) for i in cluster.routes([src], [dst]).link]


def seconds(cluster: Cluster, pairs: list[tuple[int, int]]) -> list[float]:
    """Time to transfer 1 GB between each pair, all at once."""
    src, dst = np.array(pairs).T
    flows = route_flows(cluster, src, dst, np.full(len(src), 1e9))
    return [float(t) for t in flows.finish[flows.folded.colour]]


def test_routes_inside_a_server() -> None:
    cluster = server()
    assert check(cluster) == []
    assert route(cluster, 0, 1) == ["gpu0 -> node0/pcieswitch0", "node0/pcieswitch0 -> gpu1"]
    to_cpu = ["gpu0 -> node0/pcieswitch0", "node0/pcieswitch0 -> node0/cpu0"]
    assert route(cluster, 0, 2) == [*to_cpu, "node0/cpu0 -> node0/pcieswitch1", "node0/pcieswitch1 -> gpu2"]
    last = ["node0/cpu1 -> node0/pcieswitch3", "node0/pcieswitch3 -> gpu7"]
    assert route(cluster, 0, 7) == [*to_cpu, "node0/cpu0 -> node0/cpu1", *last]


def test_traffic_leaves_through_the_nic_on_the_same_pcie_switch() -> None:
    assert route(server(), 3, 8 + 6) == [
        "gpu3 -> node0/pcieswitch1",
        "node0/pcieswitch1 -> node0/nic1",
        "node0/nic1 -> switch0",
        "switch0 -> node1/nic3",
        "node1/nic3 -> node1/pcieswitch3",
        "node1/pcieswitch3 -> gpu14",
    ]


def test_nvlink_is_used_if_there_is_any() -> None:
    assert route(server(nvlink=link()), 0, 7) == ["gpu0 -> node0/nvswitch", "node0/nvswitch -> gpu7"]


def test_gpus_of_a_switch_share_its_uplink_and_its_nic() -> None:
    cluster = server()
    assert seconds(cluster, [(0, 2)]) == pytest.approx([1 / 20])
    assert seconds(cluster, [(0, 2), (1, 3)]) == pytest.approx([2 / 20] * 2)
    assert seconds(cluster, [(0, 1), (2, 3)]) == pytest.approx(
        [1 / 20] * 2
    )  # below different switches: no link is shared
    assert seconds(cluster, [(0, 8), (1, 9)]) == pytest.approx([2 / 20] * 2)  # one x16 to the NIC they share
    assert seconds(server(pcie_uplink=link("5 GB/s", "0 s")), [(0, 2)]) == pytest.approx([1 / 5])


def test_sockets_share_the_link_between_them() -> None:
    cluster = server(pcie_uplink=link("100 GB/s", "0 s"))
    assert seconds(cluster, [(0, 4), (2, 6)]) == pytest.approx([2 / 30] * 2)  # 15 GB/s each, less than 20
    assert seconds(cluster, [(0, 4), (6, 2)]) == pytest.approx([1 / 20] * 2)  # two directions


def test_trees_cross_the_pcie_switch_to_the_nic() -> None:
    sums = {"ports": 64, "latency": "0 us", "source": "test", "reduces": True}
    data = hosts(kind="single_switch", switch=sums)
    data["node"].update({"count": 2, "gpus": 2, "nics": 1, "pcie": link(), "pcie_switches": 1})
    cluster = build(data)
    routes = tree_routes(cluster, Trees.of(np.array([[0, 1, 2, 3]]), np.array([[0]])))
    load = {
        kind: routes.weight[np.isin(routes.link, cluster.links.of_kind(kind))].sum() for kind in cluster.links.kinds
    }
    assert load["pcie_up"] == load["pcie_nic_up"] == load["nic_up"] == 4
    assert load["nic_down"] == load["pcie_nic_down"] == load["pcie_down"] == 1


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"pcie_switches": 3}, "pcie_switches = 3 must divide nics = 4"),
        ({"sockets": 3}, "sockets = 3 must divide pcie_switches"),
        ({"sockets": 1}, "[node.socket_link] is required with two or more sockets, and only then"),
        ({"socket_link": None}, "[node.socket_link] is required with two or more sockets"),
        ({"pcie_switches": None}, "pcie_uplink, sockets and socket_link need pcie_switches"),
        ({"gpus": 4, "pcie": None}, "pcie_switches without pcie"),
    ],
)
def test_impossible_servers_are_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError) as caught:
        server(**changes)
    assert words in problems(caught.value)
