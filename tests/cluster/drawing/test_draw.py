"""Drawings: deterministic, well-formed, with every count, and without elements outside the sheet."""

from __future__ import annotations

from itertools import pairwise
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings

from dessim.cluster import Cluster, list_topologies, load_cluster
from dessim.cluster.drawing.draw import draw
from tests.cluster.fabric_examples import graph
from tests.cluster.small_clusters import clusters

SVG = "{http://www.w3.org/2000/svg}"


def assert_inside_the_sheet(text: str) -> ElementTree.Element:
    root = ElementTree.fromstring(text)
    width, height = float(root.attrib["width"]), float(root.attrib["height"])
    for rect in root.iter(f"{SVG}rect"):
        x, y = float(rect.attrib.get("x", 0)), float(rect.attrib.get("y", 0))
        w, h = float(rect.attrib["width"]), float(rect.attrib["height"])
        assert x >= 0 and y >= 0 and w > 0 and h > 0 and x + w <= width and y + h <= height
    for row in root.iter(f"{SVG}text"):
        x, size, rows = float(row.attrib["x"]), float(row.attrib["font-size"]), row.text or ""
        assert 6 <= size <= 22
        if row.attrib["text-anchor"] == "start" and x < 100 and float(row.attrib["y"]) > 120:
            assert x + len(rows) * size * 0.62 <= 290, f"margin text runs into the drawing: {rows}"
    return root


@pytest.mark.parametrize("name", list(list_topologies()))
def test_shipped_topologies_draw_the_same_bytes_twice(name: str) -> None:
    first, second = draw(load_cluster(name)), draw(load_cluster(name))
    assert first == second
    assert_inside_the_sheet(first)


def test_the_rail_drawing_states_what_is_folded() -> None:
    root = assert_inside_the_sheet(draw(load_cluster("h100-8x_rail_128")))
    words = [row.text for row in root.iter(f"{SVG}text")]
    for expected in ("16 spines", "32 leaves", "128 nodes", "12 more", "24 more leaves", "31 more nodes", "96 nodes"):
        assert expected in words
    assert "2 × 400 Gb/s, payload 96 GB/s" in words


@settings(max_examples=50, deadline=None)
@given(clusters())
def test_any_cluster_can_be_drawn(cluster: Cluster) -> None:
    assert_inside_the_sheet(draw(cluster))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("tpu-v4_torus_512", ["512 routers", "500 ns; 1,536 per direction", "511 more routers"]),
        ("h100-8x_hyperx_128", ["64 routers", "3 × 400 Gb/s, payload 144 GB/s", "300 ns; 224 per direction"]),
        (
            "mi250x-8x_dragonfly_2048",
            ["group 0: 32 routers", "16 groups", "450 ns; 7,936 per direction", "3 more nodes"],
        ),
        (
            "a100-4x_dragonflyplus_3456",
            ["414 spines", "414 leaves", "18 spines", "23 groups", "230 ns; 4,554 per direction"],
        ),
        ("gb200-nvl72_8", ["9 spines", "in 18 trays", "28 more leaves", "… 71", "65"]),
        ("h100-8x_railonly_64", ["8 leaves", "8 rails, joined only by NVLink"]),
        ("a100-8x_tworooms_12", ["10 switches", "east-spine0", "east0"]),
    ],
)
def test_each_drawing_states_the_parts_of_its_fabric(name: str, expected: list[str]) -> None:
    root = assert_inside_the_sheet(draw(load_cluster(name)))
    words = [row.text for row in root.iter(f"{SVG}text")]
    assert [word for word in expected if word not in words] == []


def test_a_graph_with_too_many_switches_is_folded() -> None:
    names = [f"s{i}" for i in range(80)]
    root = assert_inside_the_sheet(draw(graph(dict.fromkeys(names, 1), list(pairwise(names)))))
    assert "80 switches" in [row.text for row in root.iter(f"{SVG}text")]
