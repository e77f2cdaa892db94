"""Damaged, hostile and unfit files: one line that names the file, and nothing is written."""

from __future__ import annotations

from pathlib import Path

import pytest

from dessim.cluster.importers.detect import read_fabric, read_node
from dessim.errors import ClusterError
from tests.cluster.importers import fuzz

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
    from dessim.cluster import load_cluster

    text = load_cluster("a100-8x_tworooms_12").path.read_text()
    (tmp_path / "net.graphml").write_text(BOMB)
    path = tmp_path / "mine.toml"
    path.write_text(text.partition("nodes = {")[0] + 'graphml = "net.graphml"\n')
    with pytest.raises(ClusterError, match="declares entities"):
        load_cluster(path)
