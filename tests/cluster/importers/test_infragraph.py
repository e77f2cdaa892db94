"""Edges of InfraGraph: cables counted once, members that differ, and a bound on the whole file."""

from __future__ import annotations

from pathlib import Path

import pytest

from dessim.cluster.importers import infragraph
from dessim.cluster.importers.found import FoundFabric
from dessim.errors import ClusterError
from tests.cluster.importers import fuzz

BETWEEN_LEAVES = (
    '  - {ep1: {instance: leaf, component: "port[12]"}, ep2: {instance: leaf, component: "port[12]"}, '
    "scheme: many2many, link: eth}\n"
)


def fabric_of(text: str) -> FoundFabric:
    return infragraph.read_infragraph(Path("net.yaml"), text)


def test_an_edge_of_a_set_with_itself_is_one_cable_for_each_pair() -> None:
    fabric = fabric_of(fuzz.INFRAGRAPH + BETWEEN_LEAVES)
    assert fabric.cables["leaf0", "leaf1"] == ((12.5e9, 1),)
    assert fabric.cables["leaf0", "spine"] == ((12.5e9, 2),)


def test_two_members_with_one_name_are_refused() -> None:
    """Member 11 of `leaf` and member 1 of `leaf1` are both leaf11."""
    two = "{name: leaf, device: tor, count: 12}\n  - {name: leaf1, device: tor, count: 2}"
    text = fuzz.INFRAGRAPH.replace("{name: leaf, device: tor, count: 2}", two)
    for end in ('"leaf[11]"', '"leaf1[1]"'):
        text += (
            f'  - {{ep1: {{instance: {end}, component: "port[0]"}}, ep2: {{instance: spine, component: "port[5]"}}, '
            "link: eth}\n"
        )
    with pytest.raises(ClusterError, match="'leaf11' names two members; rename an instance"):
        fabric_of(text)


def test_cables_of_all_edges_are_bounded_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(infragraph, "MAX_ENDS", 16)
    assert len(fabric_of(fuzz.INFRAGRAPH + BETWEEN_LEAVES).hosts) == 4
    with pytest.raises(ClusterError, match=r"edges\.4: with it, the edges are more than 16 cables"):
        fabric_of(fuzz.INFRAGRAPH + 2 * BETWEEN_LEAVES)
