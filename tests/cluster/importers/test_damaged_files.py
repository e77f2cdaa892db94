"""Damaged, hostile and unfit files: one line that names the file, and nothing is written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dessim.cluster import load_cluster
from dessim.cluster.importers.compose import Wishes
from dessim.cluster.importers.detect import read_fabric, read_node
from dessim.commands.topo_import import ImportRequest, run_import
from dessim.errors import ClusterError, DessimError, FileError
from tests.cluster.importers import fuzz, servers

BOMB = """<?xml version="1.0"?>
<!DOCTYPE system [
 <!ENTITY a "aaaaaaaaaa">
 <!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;">
 <!ENTITY c "&b;&b;&b;&b;&b;&b;&b;&b;&b;&b;">
]>
<system><cpu>&c;</cpu></system>
"""
OUTSIDE = '<!DOCTYPE system [<!ENTITY x SYSTEM "file:///etc/hostname">]>\n<system>&x;</system>'


@pytest.mark.parametrize("name", list(fuzz.samples()))
def test_mutations_end_in_a_cluster_or_one_line(name: str) -> None:
    imported = fuzz.run(name, 60)
    assert 0 < imported < 60


@pytest.mark.parametrize("read", [read_node, read_fabric], ids=["server", "fabric"])
@pytest.mark.parametrize("text", [BOMB, OUTSIDE], ids=["bomb", "external"])
def test_xml_with_entities_is_refused(tmp_path: Path, text: str, read: object) -> None:
    path = tmp_path / "bomb.xml"
    path.write_text(text)
    with pytest.raises(ClusterError, match=r"bomb\.xml: .*declares entities") as raised:
        read(path)  # type: ignore[operator]
    assert "\n" not in str(raised.value)


def test_a_graphml_bomb_in_a_topology_file_is_refused(tmp_path: Path) -> None:
    text = load_cluster("a100-8x_tworooms_12").path.read_text()
    (tmp_path / "net.graphml").write_text(BOMB)
    path = tmp_path / "mine.toml"
    path.write_text(text.partition("nodes = {")[0] + 'graphml = "net.graphml"\n')
    with pytest.raises(ClusterError, match="declares entities"):
        load_cluster(path)


def test_an_unknown_gpu_must_be_named(tmp_path: Path) -> None:
    path = tmp_path / "nccl.xml"
    path.write_text(servers.without_nvlink().replace('sm="80"', 'sm="89"'))
    with pytest.raises(ClusterError, match=r"compute capability 8\.9; name one with --gpu"):
        run_import(ImportRequest(tmp_path / "mine.toml", node=path))
    done = run_import(ImportRequest(tmp_path / "mine.toml", node=path, wishes=Wishes(gpu="a100-sxm-40gb")))
    assert done.cluster.gpu.name == "a100-sxm-40gb"


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    path, out = tmp_path / "nccl.xml", tmp_path / "mine.toml"
    path.write_text(servers.dgx_a100())
    out.write_text("mine")
    with pytest.raises(FileError, match=r"mine\.toml: exists already"):
        run_import(ImportRequest(out, node=path))
    assert out.read_text() == "mine"


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({}, "nothing to import"),
        ({"node": "nccl.xml", "compute": "["}, "--compute.*is not a regular expression"),
        ({"node": "nccl.xml", "nics": "^nothing"}, "0 adapters do not divide 8 GPUs"),
        ({"node": "nccl.xml", "wishes": Wishes(gpu="h1000")}, "gpu part 'h1000' is unknown"),
        ({"node": "none.xml"}, "cannot be read: No such file"),
    ],
)
def test_mistakes_of_the_command_line(tmp_path: Path, more: dict[str, Any], words: str) -> None:
    (tmp_path / "nccl.xml").write_text(servers.dgx_a100())
    paths = {key: tmp_path / value if key == "node" else value for key, value in more.items()}
    if "compute" in paths:
        paths["fabric"] = paths.pop("node")
    with pytest.raises(DessimError, match=words) as raised:
        run_import(ImportRequest(tmp_path / "mine.toml", **paths))
    assert "\n" not in str(raised.value) and not (tmp_path / "mine.toml").exists()
