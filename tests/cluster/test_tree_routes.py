"""Messages through summing switches: the links they load, and their latency."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

from dessim.cluster import Cluster
from dessim.cluster.routing.trees import Trees
from dessim.cluster.tree_routes import sums_in_fabric, sums_in_node, tree_routes
from tests.cluster.small_clusters import build, hosts, link

SUMS = {"ports": 64, "latency": "0 us", "source": "test", "reduces": True}


def bed(node: dict[str, Any] | None = None, **fabric: Any) -> Cluster:
    data = hosts(**{"kind": "single_switch", "switch": SUMS, **fabric})
    data["node"].update(node or {})
    return build(data)


NVLINK = {"count": 2, "gpus": 4, "nics": 4, "nvlink": link("450 GB/s", "0.3 us"), "nvswitch": SUMS}
TWO_LEVELS: dict[str, Any] = {"kind": "leaf_spine", "nodes_per_leaf": 2, "spines": 3, "uplink": link()}


def loads(cluster: Cluster, up: list[int], down: list[int]) -> dict[str, float]:
    """Sum of the shares of the message on the links of each kind."""
    routes = tree_routes(cluster, Trees.of(np.array([up]), np.array([down])))
    total: Counter[str] = Counter()
    for index, weight in zip(routes.link.tolist(), routes.weight.tolist(), strict=True):
        total[cluster.links.kinds[cluster.links.kind[index]]] += weight
    return dict(total)


def test_inside_a_node_each_nvlink_carries_it_once() -> None:
    cluster = bed(NVLINK)
    assert loads(cluster, [0, 1, 2, 3], [2]) == {"nvlink_up": 4, "nvlink_down": 1}
    assert loads(cluster, [5], [4, 5, 6, 7]) == {"nvlink_up": 1, "nvlink_down": 4}
    routes = tree_routes(cluster, Trees.of(np.array([[0, 1]]), np.array([[1]])))
    assert routes.latency == pytest.approx([0.6e-6])


def test_across_nodes_every_gpu_uses_its_own_nic() -> None:
    everyone = list(range(8))
    assert loads(bed(NVLINK), everyone, everyone) == {"nic_up": 8, "nic_down": 8}


@pytest.mark.parametrize("routing", ["split", "static"])
def test_between_switches_a_leaf_sends_and_receives_it_once(routing: str) -> None:
    cluster = bed({"count": 8}, **TWO_LEVELS, routing=routing)
    shares = loads(cluster, list(range(8)), list(range(8)))
    assert shares == pytest.approx({"nic_up": 8, "nic_down": 8, "leaf_up": 4, "leaf_down": 4})
    routes = tree_routes(cluster, Trees.of(np.arange(8)[None, :], np.arange(8)[None, :]))
    assert routes.weight.max() == 1.0
    assert routes.latency == pytest.approx([4e-6])
    assert loads(cluster, [0, 1], [0, 1]) == {"nic_up": 2, "nic_down": 2}


def test_each_pod_sends_one_sum_to_the_cores() -> None:
    fabric = dict(kind="fat_tree", nodes_per_leaf=1, leaves_per_pod=2, spines_per_pod=2, cores_per_spine=2)
    cluster = bed({"count": 4}, **fabric, uplink=link())
    shares = loads(cluster, [0, 1, 2, 3], [0, 1, 2, 3])
    # The spines of the other pod send up one sum, however many leaves they have, and one result comes down.
    assert shares["nic_up"] == shares["nic_down"] == 4
    assert shares["spine_up"] == shares["spine_down"] == pytest.approx(2)
    assert shares["leaf_up"] == shares["leaf_down"] == pytest.approx(4)


def test_gpus_that_share_a_nic_each_send_a_message_through_it() -> None:
    cluster = bed({"count": 2, "gpus": 2, "nics": 1, "pcie": link()})
    assert loads(cluster, [0, 1, 2, 3], [0]) == {"pcie_up": 4, "nic_up": 4, "nic_down": 1, "pcie_down": 1}


def test_join_and_take_keep_members() -> None:
    a = Trees.of(np.array([[0, 1, 2]]), np.array([[3]]))
    b = Trees.of(np.array([[4], [5]]), np.array([[6, 7], [8, 9]]))
    both = Trees.join(a, b)
    assert len(both) == 3
    assert [both.members(i) for i in range(3)] == [([0, 1, 2], [3]), ([4], [6, 7]), ([5], [8, 9])]
    taken = both.take(np.array([2, 0])).on(np.arange(10) * 10)
    assert [taken.members(i) for i in range(2)] == [([50], [80, 90]), ([0, 10, 20], [30])]


def test_switches_that_do_not_sum_are_refused() -> None:
    plain = build(hosts())
    assert not sums_in_node(plain) and not sums_in_fabric(plain)
    with pytest.raises(ValueError, match="do not sum"):
        tree_routes(plain, Trees.of(np.array([[0, 1]]), np.array([[0, 1]])))
    with pytest.raises(ValueError, match="no switch that sums"):
        tree_routes(bed(), Trees.of(np.array([[0]]), np.array([[0]])))
