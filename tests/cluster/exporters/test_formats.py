"""Exports to InfraGraph, GraphML and ASTRA-sim: what can be read again is the same cluster, and losses are named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from dessim.cli.app import app
from dessim.cluster import Cluster, load_cluster
from dessim.cluster.exporters.astra_sim import GIB
from dessim.cluster.importers.compose import Wishes
from dessim.commands.topo_export import FORMATS, ExportRequest, run_export
from dessim.commands.topo_import import ImportRequest, run_import
from dessim.errors import ClusterError, UsageError
from tests.cluster.changed_copy import changed
from tests.cluster.importers import fuzz
from tests.cluster.importers.test_same_times import assert_same_times


def exported(name: str, to: str) -> str:
    text, lost = run_export(ExportRequest(load_cluster(name), to))
    assert lost and all("\n" not in line for line in lost)
    return text


def imported_again(folder: Path, text: str) -> Cluster:
    path = folder / "exported"
    path.write_text(text)
    return run_import(ImportRequest(folder / "mine.toml", fabric=path)).cluster


def first_servers(folder: Path, name: str, count: int) -> Cluster:
    """A smaller copy of a shipped cluster, for speed."""
    return changed(folder, name, (f"\ncount = {load_cluster(name).n_nodes}\n", f"\ncount = {count}\n"))


@pytest.mark.parametrize(
    ("name", "count"), [("a100-8x_leafspine_16", 8), ("h100-8x_rail_128", 34), ("h100-8x_fattree_128", 36)]
)
def test_infragraph_comes_back_with_the_same_times(tmp_path: Path, name: str, count: int) -> None:
    original = first_servers(tmp_path, name, count)
    text, _ = run_export(ExportRequest(original, "infragraph"))
    assert_same_times(imported_again(tmp_path, text), original)


def test_infragraph_in_yaml(tmp_path: Path) -> None:
    done = imported_again(tmp_path, fuzz.INFRAGRAPH)
    assert (done.kind, done.n_nodes, done.node.gpus, done.node.nics) == ("leaf_spine", 4, 4, 2)
    assert done.node.nvlink is not None and done.node.nvlink.rate == 300e9
    assert done.node.nic.rate == 12.5e9 and done.gpu.name == "a100-sxm-80gb"
    original = first_servers(tmp_path, "a100-8x_leafspine_16", 4)
    as_yaml = yaml.safe_dump(json.loads(run_export(ExportRequest(original, "infragraph"))[0]))
    (tmp_path / "again").mkdir()
    assert_same_times(imported_again(tmp_path / "again", as_yaml), original)


def test_nvlink_without_a_bandwidth_is_named(tmp_path: Path) -> None:
    path = tmp_path / "net.yaml"
    rated = "physical: {bandwidth: {choice: gigabytes_per_second, gigabytes_per_second: 150}}"
    path.write_text(fuzz.INFRAGRAPH.replace(f"{{name: nvlink, {rated}}}", "{name: nvlink}"))
    done = run_import(ImportRequest(tmp_path / "mine.toml", fabric=path, wishes=Wishes(gpu="a100-sxm-80gb")))
    assert done.cluster.node.nvlink is None
    assert any("NVLink of the servers" in line for line in done.left_out)


def test_yaml_aliases_are_refused(tmp_path: Path) -> None:
    bomb = "a: &a [x, x]\nb: &b [*a, *a]\ndevices: [*b, *b]\n"
    with pytest.raises(ClusterError, match="aliases"):
        imported_again(tmp_path, bomb)


def test_graphml_comes_back_with_its_cables(tmp_path: Path) -> None:
    text = exported("a100-8x_leafspine_16", "graphml")
    done = imported_again(tmp_path, text)
    original = load_cluster("a100-8x_leafspine_16")
    assert (done.kind, done.n_nodes) == ("leaf_spine", 16)
    kinds = [cluster.links.capacity[cluster.links.of_kind("leaf_up")].tolist() for cluster in (done, original)]
    assert kinds[0] == kinds[1]
    assert exported("a100-8x_tworooms_12", "graphml").count("<edge") == 14


def test_graphml_counts_whole_servers() -> None:
    with pytest.raises(UsageError, match="NICs of a server are on several switches"):
        run_export(ExportRequest(load_cluster("h100-8x_rail_128"), "graphml"))


def test_slower_adapters_come_back_from_infragraph(tmp_path: Path) -> None:
    override = '\n[[override]]\nnodes = [2, 3]\nnic = "connectx-5"\n'
    original = changed(tmp_path, "a100-8x_leafspine_16", ("count = 16", "count = 8"), more=override)
    text, lost = run_export(ExportRequest(original, "infragraph"))
    assert any(line.startswith("overrides of NVLink and PCIe") for line in lost)
    mine = imported_again(tmp_path, text)
    rates = [cluster.links.capacity[cluster.links.of_kind("nic_up")].tolist() for cluster in (mine, original)]
    assert rates[0] == pytest.approx(rates[1]) and len(set(rates[1])) == 2


def test_graphml_has_overridden_cables(tmp_path: Path) -> None:
    """Four cables of 50 Gb/s with 96 % payload are 24 GB/s; then the edges state the rate of every link."""
    cable = 'cable = {part = "infiniband-edr", rate = "50 Gb/s"}'
    more = f'\n[[override]]\nlinks = ["east-spine0 <-> west-spine0"]\n{cable}\n'
    text, lost = run_export(ExportRequest(changed(tmp_path, "a100-8x_tworooms_12", more=more), "graphml"))
    assert text.count('<data key="rate">') == text.count("<edge") == 14
    assert text.count('<data key="rate">24 GB/s</data>') == 1
    usual = "rate of the usual cable: edges of that cable state none"
    assert usual not in lost
    assert usual in run_export(ExportRequest(load_cluster("a100-8x_tworooms_12"), "graphml"))[1]


def columns(text: str) -> dict[str, list[str]]:
    """Key -> values of ASTRA-sim's network file."""
    rows = (line.partition("#")[0].split(":") for line in text.splitlines())
    return {key: values.strip(" []").split(", ") for key, values in rows}


def test_astra_sim_keeps_rates_and_oversubscription() -> None:
    fat_tree = columns(exported("h100-8x_fattree_128_4to1", "astra-sim"))
    assert fat_tree["topology"] == ["Switch"] * 4
    assert fat_tree["npus_count"] == ["8", "4", "8", "4"]
    node = load_cluster("h100-8x_fattree_128_4to1").node
    assert node.nvlink is not None
    expected = [node.nvlink.capacity, *(node.nic.capacity / share for share in (1, 4, 4))]
    assert [float(x) * GIB for x in fat_tree["bandwidth"]] == pytest.approx(expected, rel=1e-8)
    torus = columns(exported("tpu-v4_torus_512", "astra-sim"))
    assert torus["topology"] == ["Ring"] * 3 and torus["npus_count"] == ["8"] * 3
    assert [float(x) * GIB for x in torus["bandwidth"]] == pytest.approx([45e9] * 3, rel=1e-8)


@pytest.mark.parametrize(
    ("name", "nic", "pcie", "up"),
    [
        ("a100-8x_leafspine_16", "connectx-6", "pcie4-x16", [24e9]),
        ("h100-8x_fattree_128_4to1", "connectx-7", "pcie5-x16", [12e9, 12e9]),
    ],
)
def test_astra_sim_uplinks_do_not_depend_on_pcie(
    tmp_path: Path, name: str, nic: str, pcie: str, up: list[float]
) -> None:
    """Where PCIe limits the NICs to 28.48 GB/s, the uplinks still have the rate of their cables for each GPU."""
    slow = changed(tmp_path, name, (f'nic = "{nic}"', 'nic = "connectx-7"'), (f'pcie = "{pcie}"', 'pcie = "pcie4-x16"'))
    text, _ = run_export(ExportRequest(slow, "astra-sim"))
    rates = [float(value) * GIB for value in columns(text)["bandwidth"]]
    assert rates[1:] == pytest.approx([28.48e9, *up], rel=1e-8)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("a100-8x_tworooms_12", "do not describe the fabric graph"),
        ("dgx1-v100_16", "cube mesh"),
        ("lab/mixed_4", "several kinds"),
    ],
)
def test_astra_sim_refuses_what_dimensions_do_not_describe(name: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        run_export(ExportRequest(load_cluster(name), "astra-sim"))


def test_the_command(tmp_path: Path) -> None:
    run = CliRunner().invoke
    out = tmp_path / "out"
    for to in FORMATS:
        done = run(app, ["topo", "export", "lab/two_leaves_2to1", "--format", to, "-o", str(out)])
        assert done.exit_code == 0 and "lost: " in done.stderr and out.read_text(), done.stderr
    assert run(app, ["topo", "export", "lab/switch_4", "--format", "ns3"]).exit_code == 2
    assert run(app, ["topo", "export", "lab/switch_4", "--format", "graphml", "--gpus", "2"]).exit_code == 2
