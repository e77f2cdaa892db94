"""Mixed link rates: which links change, and how the description, routes and times follow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from dessim.cluster import Cluster, check, describe
from dessim.cluster.drawing.draw import draw
from dessim.cluster.fabrics import direct
from dessim.cluster.load import topology_root
from dessim.cluster.spec.topology_file import problems
from dessim.collectives.choose import Floor
from dessim.collectives.schedule import Stage
from dessim.errors import ClusterError
from dessim.sim.fluid.flows import route_flows
from tests.cluster.small_clusters import build, hosts, link
from tests.cluster.test_bisection import maximum_flow


def bed(*override: dict[str, Any], **node: Any) -> Cluster:
    """8 hosts of 10 GB/s on 4 leaves under 2 spines, with 2 cables of 5 GB/s from each leaf to each spine."""
    fabric = {"nodes_per_leaf": 2, "spines": 2, "links_per_spine": 2, "uplink": link("5 GB/s", "1 us")}
    data = hosts(kind="leaf_spine", switch={"ports": 64, "latency": "0.5 us", "source": "test"}, **fabric)
    data["node"].update({"nic": link("10 GB/s", "1 us"), **node})
    return build({**data, "override": list(override)})


def test_named_cables_change_one_by_one_with_their_switch() -> None:
    cluster = bed({"links": ["leaf0 <-> spine0", "leaf1 -> spine1"], "cable": link("2 GB/s", "3 us")})
    usual, links = bed().links, cluster.links
    changed = np.flatnonzero(links.capacity != usual.capacity)
    assert [links.name(int(i)) for i in changed] == ["leaf0 -> spine0", "leaf1 -> spine1", "spine0 -> leaf0"]
    assert links.capacity[changed] == pytest.approx([4e9] * 3)  # 2 cables
    assert links.latency[changed] == pytest.approx([3.5e-6] * 3)
    assert check(cluster) == []
    assert describe(cluster)["links"]["leaf_up"]["fastest_GBps"] == 10
    assert "payload 4–10 GB/s" in draw(cluster)


def test_the_last_override_of_a_link_counts() -> None:
    both = [{"links": ["spine0"], "cable": link("1 GB/s")}, {"links": ["leaf2 <-> spine0"], "cable": link("3 GB/s")}]
    links = bed(*both).links
    rates = {links.name(i): links.capacity[i] / 2e9 for i in links.of_kind("leaf_up").tolist()}
    assert [rates[f"leaf{i} -> spine0"] for i in range(4)] == [1, 1, 3, 1]


def test_a_range_of_nodes_can_have_slower_links() -> None:
    cluster = bed({"nodes": [4, 7], "nic": link("5 GB/s", "2 us")})
    up = cluster.links.of_kind("nic_up")
    assert (cluster.links.capacity[up] / 1e9).tolist() == [10] * 4 + [5] * 4
    pcie = {"gpus": 2, "nics": 1, "pcie": link("20 GB/s"), "pcie_switches": 1}
    slots = bed({"nodes": [1, 1], "pcie": link("8 GB/s")}, **pcie).links
    for kind, each in (("pcie_down", 2), ("pcie_nic_up", 1)):
        rates = slots.capacity[slots.of_kind(kind)] / 1e9
        assert rates.tolist() == [20] * each + [8] * each + [20] * 6 * each


@pytest.mark.parametrize(
    "override",
    [
        {"nodes": [2, 4], "nic": link("3 GB/s")},
        {"links": ["spine1"], "cable": link("1 GB/s")},
        {"links": ["leaf0 -> spine0"], "cable": link("50 GB/s")},
    ],
)
def test_bisection_is_the_maximum_flow_of_the_cluster_as_built(
    override: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = bed(override)
    assert describe(cluster)["bisection_GBps"] == pytest.approx(maximum_flow(cluster) / 1e9)
    assert describe(cluster.with_links([("spine0", 0.0)]))["bisection_GBps"] == describe(cluster)["bisection_GBps"]
    monkeypatch.setattr(direct, "EXACT_CABLES", 10)
    assert describe(cluster)["bisection_GBps"] is None
    assert "bisection not computed" in draw(cluster)


def test_oversubscription_is_that_of_the_worst_leaf() -> None:
    assert describe(bed())["oversubscription"] == 1
    assert describe(bed({"links": ["leaf0 <-> spine0"], "cable": link("1 GB/s")}))["oversubscription"] == pytest.approx(
        20 / 12
    )


def test_split_flows_wait_for_the_slower_cable_and_for_the_longer_one() -> None:
    cluster = bed({"links": ["leaf0 <-> spine0"], "cable": link("1 GB/s", "9 us")})
    flows = route_flows(cluster, np.array([0]), np.array([2]), np.array([1e9]))
    assert flows.finish.tolist() == pytest.approx([0.5 / 2])  # half of it over 2 cables of 1 GB/s
    assert flows.fixed.tolist() == pytest.approx([1.5e-6 + 9.5e-6 + 1.5e-6 + 1e-6])
    without_twins = cluster.routes([0], [2], without_twins=True)
    assert without_twins.latency == pytest.approx(cluster.routes([0], [2]).latency)


def test_the_lower_bound_of_the_tuner_never_exceeds_the_simulated_time() -> None:
    cluster = bed({"nodes": [0, 3], "nic": link("5 GB/s", "0.1 us")})
    src, dst = np.arange(8), (np.arange(8) + 1) % 8
    stage = Stage((), src, dst, np.full(8, 1e3))
    taken = route_flows(cluster, src, dst, stage.size).alone(1.0)
    assert Floor(cluster, np.arange(8))(stage) <= taken


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ({"links": ["leaf0 <-> spine0"]}, "override.0: write links and cable, or nodes = [first, last] and some of"),
        ({"links": ["leaf0"], "nodes": [0, 1], "nic": link("1 GB/s")}, "write links and cable, or nodes"),
        ({"nodes": [0, 1], "cable": link()}, "write links and cable, or nodes"),
        ({"links": ["leaf0 <-> spine9"], "cable": link()}, "spine9"),
        ({"links": ["gpu0 <-> leaf0"], "cable": link()}, "gpu0 -> leaf0 belongs to a node; override by `nodes`"),
        ({"nodes": [6, 8], "nic": link("1 GB/s")}, "[6, 8] are not two of nodes 0 to 7, in order"),
        ({"nodes": [0, 1], "nic": link("11 GB/s")}, "faster than node.nic; write the fastest part there"),
        ({"nodes": [0, 1], "nvlink": link()}, "these nodes have no node.nvlink"),
    ],
)
def test_impossible_overrides_are_refused(override: dict[str, Any], words: str) -> None:
    with pytest.raises((ValidationError, ClusterError)) as caught:
        bed(override)
    error = caught.value
    message = problems(error) if isinstance(error, ValidationError) else str(error)
    assert words in message and "\n" not in message


def test_the_example_of_the_format_page_loads(tmp_path: Path) -> None:
    from dessim.cluster import load_cluster

    text = (topology_root() / "README.md").read_text()
    path = tmp_path / "mixed.toml"
    example, *others = [block.split("```")[0] for block in text.split("```toml\n")[1:]]
    path.write_text(example + next(block for block in others if "[[override]]" in block))
    cluster = load_cluster(path)
    assert check(cluster) == []
    assert len(set(cluster.links.capacity[cluster.links.of_kind("nic_up")].tolist())) == 2
