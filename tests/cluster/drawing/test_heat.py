"""Heat: the colour of a line shows the utilisation of its class of links, and the margin states it in figures."""

from __future__ import annotations

import re
from itertools import pairwise
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dessim.cluster import Cluster, list_topologies, load_cluster
from dessim.cluster.drawing.draw import draw
from dessim.cluster.drawing.heat import EDGES, STEP_LABELS, STEPS, WIRE, Heat
from tests.cluster.drawing.test_draw import SVG, assert_inside_the_sheet
from tests.cluster.small_clusters import clusters

SHARE = st.floats(0, 1)


def brightness(colour: str) -> float:
    """Relative luminance, as WCAG 2.1 defines it."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (p / 12.92 if p <= 0.03928 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def lines(root: ElementTree.Element) -> list[str]:
    """The colours of all lines and curves."""
    return [line.attrib["stroke"] for tag in ("line", "path") for line in root.iter(f"{SVG}{tag}")]


def words(root: ElementTree.Element) -> list[str]:
    return [row.text or "" for row in root.iter(f"{SVG}text")]


@given(SHARE, SHARE)
def test_busier_is_darker(a: float, b: float) -> None:
    heat = Heat({"nic_up": min(a, b), "leaf_up": max(a, b)})
    assert 1 <= heat.width("nic_up") <= heat.width("leaf_up")
    if min(a, b) > 0:
        assert brightness(heat.colour("nic_up")) >= brightness(heat.colour("leaf_up"))


def test_every_step_can_be_distinguished_from_the_next_and_from_paper() -> None:
    assert len(STEPS) == len(STEP_LABELS) == len(EDGES) + 1
    light = [1.0, *(brightness(step) for step in STEPS)]
    for lighter, darker in pairwise(light):
        assert (lighter + 0.05) / (darker + 0.05) > 1.25
    assert [Heat({"x": edge}).colour("x") for edge in EDGES] == list(STEPS[1:])


@given(SHARE, SHARE)
def test_a_line_shows_the_busier_direction(up: float, down: float) -> None:
    for kind, opposite in (("nic_up", "nic_down"), ("x_plus", "x_minus")):
        assert Heat({kind: up, opposite: down}).share(kind) == max(up, down)


def test_lines_and_margin_show_the_utilisation_of_each_class() -> None:
    rail = load_cluster("h100-8x_rail_128")
    root = assert_inside_the_sheet(draw(rail, {"nic_up": 0.2, "nic_down": 0.8, "leaf_up": 0.3, "nvlink_down": 0.04}))
    plain = ElementTree.fromstring(draw(rail))
    colours = lines(root)
    assert len(colours) == len(lines(plain)) and set(lines(plain)) == {WIRE}
    # spines to 8 leaves and the stack; NICs inside and outside the node, other nodes; GPUs to the plane; PCIe
    counts = {STEPS[2]: 5 * 9, STEPS[4]: 16 + 8 + 1, STEPS[0]: 8, WIRE: 8}
    assert {colour: colours.count(colour) for colour in set(colours)} == counts
    assert [word for word in words(root) if re.fullmatch(r"[\d.]+ %", word)] == ["30.0 %", "80.0 %", "0 %", "4.0 %"]


def test_a_torus_states_the_utilisation_of_each_axis() -> None:
    root = assert_inside_the_sheet(draw(load_cluster("tpu-v4_torus_512"), {"y_minus": 0.3, "z_plus": 0.6}))
    assert any(word.endswith("mean use: x 0 %, y 30.0 %, z 60.0 %") for word in words(root))
    assert "60.0 %" in words(root)
    assert {STEPS[2], STEPS[3], WIRE} == set(lines(root))


def test_a_run_that_carried_nothing_is_drawn_unused() -> None:
    root = assert_inside_the_sheet(draw(load_cluster("one-switch_16"), {}))
    assert set(lines(root)) == {WIRE} and "unused" in words(root)


@pytest.mark.parametrize("name", list(list_topologies()))
def test_heat_fits_on_every_shipped_topology(name: str) -> None:
    cluster = load_cluster(name)
    root = assert_inside_the_sheet(draw(cluster, dict.fromkeys(cluster.links.kinds, 1.0)))
    assert set(lines(root)) == {STEPS[-1]}


@settings(max_examples=25, deadline=None)
@given(clusters(), st.data())
def test_any_cluster_can_be_drawn_with_heat(cluster: Cluster, data: st.DataObject) -> None:
    heat = {kind: data.draw(st.floats(0.001, 1)) for kind in cluster.links.kinds}
    root = assert_inside_the_sheet(draw(cluster, heat))
    assert WIRE not in lines(root)
    assert set(lines(root)) <= {Heat(heat).colour(kind) for kind in heat}
