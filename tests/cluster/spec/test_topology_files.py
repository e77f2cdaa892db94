"""Topology files: shipped files load and are consistent, and mistakes get one clear line."""

from __future__ import annotations

import copy
import math
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest

from dessim.cluster import check, describe, list_topologies, load_cluster
from dessim.cluster.load import load_catalogue, topology_root
from dessim.errors import CapacityError, ClusterError
from tests.cluster.small_clusters import build, hosts, link

HOSTS_TOML = """
gpu = "h100-sxm"
transport = "ideal"
[node]
count = 4
gpus = 1
nics = 1
nic = "connectx-7"
[fabric]
kind = "single_switch"
"""


def error_message(tmp_path: Path, text: str) -> str:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(ClusterError) as caught:
        load_cluster(path)
    message = str(caught.value)
    assert message.startswith(f"{path}:") and "\n" not in message
    return message


@pytest.mark.parametrize("name", list(list_topologies()))
def test_every_shipped_topology_is_consistent(name: str) -> None:
    cluster = load_cluster(name)
    assert check(cluster) == []
    assert cluster.description and cluster.gpu.source and cluster.transport.source
    assert describe(cluster)["gpus"] == cluster.n_gpus


def test_the_promised_topologies_ship() -> None:
    sizes = {name: load_cluster(name).n_gpus for name in list_topologies()}
    assert sizes["h100-8x_rail_128"] == 1024
    assert sizes["a100-8x_leafspine_16"] == 128
    assert sizes["one-switch_16"] == 16
    assert sizes["h100-8x_fattree_128"] == sizes["h100-8x_fattree_128_4to1"] == 1024
    assert sizes["aws-p5_16"] == sizes["azure-ndh100v5_16"] == sizes["gcp-a3mega_16"] == sizes["dgx1-v100_16"] == 128
    assert sizes["bench/two_level_1024"] == sizes["bench/two_level_1024_4to1"] == 1024


def test_every_part_of_the_catalogue_is_valid_and_has_a_source() -> None:
    for category, table in load_catalogue().items():
        for name, part in table.items():
            data = hosts()
            if category in ("gpu", "transport"):
                data[category] = name
            elif category == "switch":
                data["fabric"]["switch"] = name
            else:
                data["node"]["nic" if category == "nic" else "pcie"] = name
            build(data)
            assert part["source"]


def test_h100_numbers_are_those_of_the_datasheet() -> None:
    cluster = load_cluster("h100-8x_rail_128")
    assert (cluster.gpu.flops, cluster.gpu.memory_bandwidth, cluster.gpu.memory) == (67e12, 3.35e12, 80e9)
    assert cluster.node.nic.rate == 50e9
    assert cluster.node.nvlink is not None and cluster.node.nvlink.rate == 450e9
    facts = describe(cluster)
    assert facts["oversubscription"] == 1.0
    assert facts["bisection_GBps"] == pytest.approx(512 * 50 * 0.96)
    assert describe(load_cluster("bench/two_level_1024_4to1"))["oversubscription"] == 4.0


def test_the_readme_example_loads(tmp_path: Path) -> None:
    text = (topology_root() / "README.md").read_text()
    path = tmp_path / "example.toml"
    path.write_text(text.split("```toml\n")[1].split("```")[0])
    cluster = load_cluster(path)
    assert check(cluster) == []
    assert cluster.fabric.oversubscription(cluster.wiring.nic_capacity()) == pytest.approx(2.0)


def test_unknown_keys_and_missing_keys_are_reported_together(tmp_path: Path) -> None:
    message = error_message(tmp_path, HOSTS_TOML.replace("count = 4", "cuont = 4") + 'colour = "red"\n')
    assert "node.count: missing; node.cuont: unknown key; fabric.colour: unknown key" in message


def test_a_bare_number_is_refused_with_its_key_and_an_example(tmp_path: Path) -> None:
    text = HOSTS_TOML.replace('nic = "connectx-7"', 'nic = {rate = 400, efficiency = 1.0, latency = "5", source = "x"}')
    message = error_message(tmp_path, text)
    assert 'node.nic.rate: bandwidth needs a unit, not the bare value 400; write for example "400 Gb/s"' in message
    assert "node.nic.latency: time '5' has no unit" in message


def test_an_unknown_part_lists_the_known_ones(tmp_path: Path) -> None:
    message = error_message(tmp_path, HOSTS_TOML.replace("h100-sxm", "h100"))
    assert "gpu: gpu part 'h100' is unknown; did you mean h100-" in message and "known: h100-sxm, " in message


def test_a_file_that_is_not_toml_says_where(tmp_path: Path) -> None:
    assert "not TOML: " in error_message(tmp_path, HOSTS_TOML + "spines 4\n")
    binary = tmp_path / "photo.toml"
    binary.write_bytes(b"\xff\xd8\xff\xe0")
    with pytest.raises(ClusterError, match="is not UTF-8 text"):
        load_cluster(binary)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("single_switch", "fat_ring", "fabric.kind: must be one of single_switch, leaf_spine, rail_optimised"),
        ("count = 4", "count = 0", "node.count: "),
        ("count = 4", "count = 4.0", "node.count: "),
        ("nics = 1", "nics = 3", "node: nics = 3 must divide gpus = 1"),
        ("gpus = 1", "gpus = 2", "node: gpus = 2 share nics = 1; describe the link to a NIC as [node.pcie]"),
        ("count = 4", "count = 1_000_000_000", "links are more than the"),
        ('"connectx-7"', '{part = "connectx-7", efficiency = 1.5}', "node.nic.efficiency: "),
        ('"connectx-7"', '{part = "connectx-7", rate = "0 Gb/s"}', "node.nic.rate: '0 Gb/s' must be more than 0"),
        ('"connectx-7"', '{part = "connectx-77"}', "node.nic: nic part 'connectx-77' is unknown"),
    ],
)
def test_impossible_values_are_refused(tmp_path: Path, old: str, new: str, words: str) -> None:
    assert words in error_message(tmp_path, HOSTS_TOML.replace(old, new))


def test_a_wrong_name_suggests_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match="did you mean h100-8x_rail_128"):
        load_cluster("h100-8x_rail")
    with pytest.raises(ClusterError, match="no such topology file"):
        load_cluster(tmp_path / "absent.toml")
    with pytest.raises(ClusterError, match="is a folder"):
        load_cluster(tmp_path)


def test_a_part_may_be_a_name_a_table_or_a_changed_part() -> None:
    data = hosts()
    data["node"]["nic"] = {"part": "connectx-7", "efficiency": 0.5}
    data["transport"] = {
        "message_overhead": "2 us",
        "op_overhead": "3 us",
        "reduction_rate": "1 GB/s",
        "source": "measured here",
    }
    cluster = build(data)
    assert cluster.node.nic.name == "connectx-7" and cluster.node.nic.capacity == 25e9
    assert cluster.transport.message_overhead == 2e-6 and cluster.transport.reduction_rate == 1e9


def transport(**limits: object) -> dict[str, object]:
    return {**hosts(), "transport": {"part": "ideal", **limits}}


def test_a_transport_may_limit_incast_and_single_flows() -> None:
    limited = build(transport(fan_in=[[1, 1.0], [4, 0.8], [7, 0.62]], flow_rate="10 Gb/s")).transport
    assert limited.fan_in == ((1.0, 1.0), (4.0, 0.8), (7.0, 0.62))
    assert limited.flow_rate == 1.25e9
    free = build(hosts()).transport
    assert (free.fan_in, free.flow_rate) == ((), math.inf)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("fan_in = 0.8", "0.8 is not a list of [flows, share]; write for example [[1, 1.0], [4, 0.8]]"),
        ("fan_in = [1, 0.8]", "[1, 0.8] is not a list of [flows, share]"),
        ("fan_in = [[1, 1.0, 2]]", "[[1, 1.0, 2]] is not a list of [flows, share]"),
        ("fan_in = []", "the first entry must be for 1 flow, for example [1, 1.0]"),
        ("fan_in = [[2, 0.9]]", "the first entry must be for 1 flow"),
        ("fan_in = [[1, 1.0], [4, 0.8], [4, 0.7]]", "numbers of flows must be whole and ascending, not 4 after 4"),
        ("fan_in = [[1, 1.0], [2.5, 0.8]]", "numbers of flows must be whole and ascending, not 2.5 after 1"),
        ("fan_in = [[1, 1.0], [4, 0.0]]", "the share of 4 flows must be more than 0 and at most 1, not 0.0"),
        ("fan_in = [[1, 1.2]]", "the share of 1 flows must be more than 0 and at most 1, not 1.2"),
        ("fan_in = [[1, nan]]", "the share of 1 flows must be more than 0 and at most 1, not nan"),
        ("fan_in = [[1, 0.8], [4, 0.9]]", "more flows cannot get more: 0.9 for 4 after 0.8 for 1"),
    ],
)
def test_an_impossible_fan_in_curve_is_refused(tmp_path: Path, text: str, words: str) -> None:
    table = HOSTS_TOML.replace('"ideal"', f'{{part = "ideal", {text}}}')
    assert f"transport.fan_in: {words}" in error_message(tmp_path, table)


def test_a_flow_rate_needs_a_unit(tmp_path: Path) -> None:
    table = HOSTS_TOML.replace('"ideal"', '{part = "ideal", flow_rate = 10}')
    assert "transport.flow_rate: bandwidth needs a unit" in error_message(tmp_path, table)


def test_the_ideal_transport_costs_nothing() -> None:
    transport = build(hosts()).transport
    assert (transport.message_overhead, transport.op_overhead, transport.reduction_rate) == (0.0, 0.0, math.inf)


def test_a_cluster_that_is_too_small_states_both_sizes() -> None:
    cluster = load_cluster("h100-8x_rail_128")
    cluster.require(1024)
    with pytest.raises(CapacityError, match=r"cluster h100-8x_rail_128 has 1024 GPUs, too few for 2048"):
        cluster.require(2048)
    with pytest.raises(CapacityError, match="at least one"):
        cluster.require(0)


def test_topologies_are_found_in_a_wheel_and_in_a_checkout(tmp_path: Path) -> None:
    package = tmp_path / "site-packages" / "dessim"
    package.mkdir(parents=True)
    with pytest.raises(ClusterError, match="reinstall dessim"):
        topology_root(package)
    (tmp_path / "site-packages" / "topologies" / "parts").mkdir(parents=True)
    assert topology_root(package) == tmp_path / "site-packages" / "topologies"
    (package / "topologies" / "parts").mkdir(parents=True)
    (package / "topologies" / "parts" / "gpu.toml").touch()
    (package / "topologies" / "mine.toml").touch()
    root = topology_root(package)
    assert root == package / "topologies"
    assert list_topologies(root) == {"mine": root / "mine.toml"}


def test_the_wheel_contains_the_topologies() -> None:
    project = topology_root().parent / "pyproject.toml"
    if not project.is_file():
        pytest.skip("not in a checkout")
    hatch = tomllib.loads(project.read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert hatch["force-include"]["topologies"] == "dessim/topologies"


def test_check_counts_switch_ports() -> None:
    data = hosts(kind="leaf_spine", nodes_per_leaf=60, spines=8, uplink=link(), switch="quantum-2")
    data["node"]["count"] = 4200
    assert check(build(data)) == [
        "a leaf needs 68 ports, but quantum-2 has 64",
        "a spine needs 70 ports, but quantum-2 has 64",
    ]


def test_loading_does_not_change_its_input() -> None:
    data = hosts()
    before = copy.deepcopy(data)
    build(data)
    assert data == before


def test_check_names_links_between_the_same_vertices_and_gpus_that_are_cut_off() -> None:
    cluster = load_cluster("lab/switch_4")
    src, dst = cluster.links.src.copy(), cluster.links.dst.copy()
    src[1], dst[1] = src[0], dst[0]
    problems = check(replace(cluster, links=replace(cluster.links, src=src, dst=dst)))
    assert problems[:2] == [
        "1 links join vertices that another link already joins",
        "some GPUs cannot reach each other",
    ]
