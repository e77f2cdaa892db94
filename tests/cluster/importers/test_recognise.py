"""Fabrics are recognised from their cables, whatever the order and names, and irregular ones keep every cable."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dessim.cluster import Cluster, load_cluster
from dessim.cluster.importers.compose import Wishes
from dessim.cluster.importers.found import FoundFabric, Host
from dessim.cluster.importers.ibnetdiscover import read_ibnetdiscover
from dessim.cluster.importers.recognise import Shape, recognise
from dessim.errors import ClusterError
from tests.cluster.importers import fuzz, servers
from tests.cluster.importers.ib_net import ib_net
from tests.cluster.importers.test_same_times import A100, assert_same_times, imported, original_of

NODE = A100 | {"more": 'nvlink = "nvlink3-12"'}
UPLINK = 'uplink = "infiniband-hdr"'
TABLES = {
    "single_switch": (8, 2, ""),
    "leaf_spine": (12, 1, f"nodes_per_leaf = 4\nspines = 2\nlinks_per_spine = 2\n{UPLINK}"),
    "leaf_spine, last leaf partly filled": (10, 2, f"nodes_per_leaf = 4\nspines = 3\n{UPLINK}"),
    "rail_optimised": (8, 4, f"nodes_per_pod = 4\nspines = 2\n{UPLINK}"),
    "rail_optimised, one pod": (6, 4, f"nodes_per_pod = 6\nspines = 2\n{UPLINK}"),
    "rail_only": (6, 4, ""),
    "rail_only with spines": (6, 4, f"nodes_per_leaf = 3\nspines_per_rail = 2\n{UPLINK}"),
    "fat_tree": (16, 1, f"nodes_per_leaf = 2\nleaves_per_pod = 2\nspines_per_pod = 2\ncores_per_spine = 2\n{UPLINK}"),
    "fat_tree, 4:1": (
        24,
        2,
        f"nodes_per_leaf = 4\nleaves_per_pod = 2\nspines_per_pod = 2\ncores_per_spine = 1\n{UPLINK}",
    ),
    "fat_tree, last pod partly filled": (
        13,
        1,
        f"nodes_per_leaf = 2\nleaves_per_pod = 3\nspines_per_pod = 2\ncores_per_spine = 3\nlinks_per_core = 2\n"
        f"{UPLINK}",
    ),
}


def cluster_of(folder: Path, name: str) -> Cluster:
    count, nics, table = TABLES[name]
    fabric = f'kind = "{name.split(",")[0].split()[0]}"\n{table}'
    return original_of(folder, NODE | {"gpus": nics, "nics": nics}, count, fabric)


def fabric_of(text: str) -> FoundFabric:
    return read_ibnetdiscover(Path("net"), text)


def shuffled(fabric: FoundFabric, seed: int) -> FoundFabric:
    """The same fabric, listed in another order."""
    rng = np.random.default_rng(seed)
    switches = [fabric.switches[i] for i in rng.permutation(len(fabric.switches))]
    cables = list(fabric.cables.items())
    hosts = [fabric.hosts[i] for i in rng.permutation(len(fabric.hosts))]
    return replace(
        fabric,
        switches=tuple(switches),
        cables={cables[i][0]: cables[i][1] for i in rng.permutation(len(cables))},
        hosts=tuple(hosts),
    )


@pytest.mark.parametrize("name", list(TABLES))
def test_regular_fabrics(tmp_path: Path, name: str) -> None:
    original = cluster_of(tmp_path, name)
    text = ib_net(original, original.node.nic.rate)
    fabric = fabric_of(text)
    shape = recognise(fabric)
    assert shape.kind == original.kind and not shape.cables
    for seed in range(3):
        assert recognise(shuffled(fabric, seed)) == shape
    assert_same_times(
        imported(tmp_path, text, wishes=Wishes(gpu="a100-sxm-40gb")).cluster, original_plain(original, tmp_path)
    )


def original_plain(original: Cluster, folder: Path) -> Cluster:
    """The original as an importer without a server file assumes it: with NVSwitches, or without NVLink."""
    several = original.node.nics > 1
    nvlink = 'nvlink = "nvlink3-12"\n'
    text = original.path.read_text().replace(nvlink, f'{nvlink}nvswitch = "nvswitch-gen2"\n' if several else "")
    path = folder / "plain.toml"
    path.write_text(text)
    return load_cluster(path)


def test_a_tree_with_a_missing_cable_is_a_graph_with_the_same_times(tmp_path: Path) -> None:
    fabric = fabric_of(ib_net(cluster_of(tmp_path, "fat_tree"), 25e9))
    damaged = dict(fabric.cables)
    del damaged["leaf0", "spine0"]
    shape = recognise(replace(fabric, cables=damaged))
    assert shape.kind == "graph"
    assert shape.cables == damaged


def test_links_of_a_graph_are_listed_or_go_to_a_file(tmp_path: Path) -> None:
    small, large = tmp_path / "small", tmp_path / "large"
    small.mkdir()
    large.mkdir()
    done = imported(small, fuzz.small_graphml())
    assert done.files == (small / "mine.toml",) and "links = [" in done.files[0].read_text()
    assert done.cluster.kind == "graph" and done.cluster.n_nodes == 10
    original = cluster_of(tmp_path, "fat_tree")
    text = ib_net(original, 25e9)
    lines = text.splitlines()
    cut = next(i for i, line in enumerate(lines) if '"S-' in line and "spine0" in line and line.startswith("["))
    peer = lines[cut].split('"')[1]
    own = next(line for line in reversed(lines[:cut]) if line.startswith("Switch")).split('"')[1]
    kept, record = [], ""
    for line in lines:
        record = line.split('"')[1] if line.startswith(("Switch", "Ca")) else record
        if not line.startswith("[") or {record, line.split('"')[1]} != {own, peer}:
            kept.append(line)
    done = imported(large, "\n".join(kept))
    assert [path.name for path in done.files] == ["mine.toml", "mine.graphml"]
    assert done.cluster.kind == "graph" and done.cluster.n_nodes == 16


def test_storage_is_left_out_with_its_switches(tmp_path: Path) -> None:
    """Storage hosts on a separate leaf: the fabric without them is a regular one."""
    text = ib_net(cluster_of(tmp_path, "leaf_spine"), 25e9)
    for host in range(8, 12):
        text = text.replace(f'"host{host} mlx5_0"', f'"oss{host} mlx5_0"')
    done = imported(tmp_path, text, compute="^host")
    assert done.cluster.kind == "leaf_spine" and done.cluster.n_nodes == 8
    assert any("4 adapters that --compute does not match" in line for line in done.left_out)
    assert any(line.startswith("1 switches on no shortest route") for line in done.left_out)


def test_a_slower_cable_of_a_server_is_an_override(tmp_path: Path) -> None:
    text = ib_net(cluster_of(tmp_path, "leaf_spine"), 25e9)
    lines = [line.replace("4xHDR", "4xEDR") if '"host5 ' in line else line for line in text.splitlines()]
    guid = next(line for line in lines if line.startswith("Ca") and '"host5 ' in line).split('"')[1]
    at = next(i for i, line in enumerate(lines) if line.startswith("Ca") and guid in line)
    lines[at + 1] = lines[at + 1].replace("4xHDR", "4xEDR")
    done = imported(tmp_path, "\n".join(lines))
    capacity = done.cluster.links.capacity[done.cluster.links.of_kind("nic_up")]
    assert np.flatnonzero(capacity < capacity.max()).tolist() == [5]
    assert capacity.max() == pytest.approx(2 * capacity.min())


def test_servers_with_other_numbers_of_adapters_are_refused(tmp_path: Path) -> None:
    text = ib_net(cluster_of(tmp_path, "rail_optimised"), 25e9)
    with pytest.raises(ClusterError, match=r"host0 has 4 cabled adapters, but a server has 8; .*--compute.*--nics"):
        imported(tmp_path, text, servers.dgx_a100())


def test_three_tiers_of_rails_are_refused(tmp_path: Path) -> None:
    fabric = fabric_of(ib_net(cluster_of(tmp_path, "fat_tree"), 25e9))
    pairs = [Host(f"h{i}", (*fabric.hosts[2 * i].ports, *fabric.hosts[15 - i].ports)) for i in range(4)]
    with pytest.raises(ValueError, match="neither rail-optimised nor rail-only"):
        recognise(replace(fabric, hosts=tuple(pairs)))


def test_slurm_gives_a_tree_without_oversubscription(tmp_path: Path) -> None:
    done = imported(tmp_path, fuzz.SLURM, servers.dgx_a100())
    fabric: Any = done.cluster.fabric
    assert (done.cluster.kind, done.cluster.n_nodes, fabric.spines) == ("leaf_spine", 24, 1)
    assert fabric.links_per_spine == 64
    assert any("no oversubscription" in line for line in done.assumed)


def test_shapes_are_short(tmp_path: Path) -> None:
    """A regular cluster of any size fits on a screen."""
    text = ib_net(cluster_of(tmp_path, "fat_tree"), 25e9)
    assert len(imported(tmp_path, text).cluster.path.read_text().splitlines()) < 40
    assert isinstance(recognise(fabric_of(text)), Shape)
