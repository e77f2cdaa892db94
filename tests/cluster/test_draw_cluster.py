"""Drawings: the same bytes each time, well-formed, every count in it, nothing outside the sheet."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from small_clusters import clusters

from dessim.cluster import Cluster, draw, list_topologies, load_cluster

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


def test_the_rail_drawing_says_what_is_folded() -> None:
    root = assert_inside_the_sheet(draw(load_cluster("h100-8x_rail_128")))
    words = [row.text for row in root.iter(f"{SVG}text")]
    for expected in ("16 spines", "32 leaves", "128 nodes", "12 more", "24 more leaves", "31 more nodes", "96 nodes"):
        assert expected in words
    assert "2 × 400 Gb/s, payload 96 GB/s" in words


@settings(max_examples=50, deadline=None)
@given(clusters())
def test_any_cluster_can_be_drawn(cluster: Cluster) -> None:
    assert_inside_the_sheet(draw(cluster))
