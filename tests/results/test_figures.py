"""Figures are valid SVG and reproducible, can share a page, and have their data beside them."""

from __future__ import annotations

import csv
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from itertools import combinations

import pytest

from dessim.results import figures, style
from dessim.workload.strategies import STRATEGIES
from tests.results.sample import SCALES, projection

ROWS = projection()
STEPS = [{"step": i, "measured_s": 0.02, "predicted_s": 0.019 if i % 2 else None} for i in range(5)]
DRAW = {
    "throughput": lambda path=None: figures.throughput(ROWS, path),
    "bytes_per_worker": lambda path=None: figures.bytes_per_worker(ROWS, path),
    "step_breakdown": lambda path=None: figures.step_breakdown(ROWS, path),
    "predicted_vs_measured": lambda path=None: figures.predicted_vs_measured(STEPS, path),
    "utilisation": lambda path=None: figures.utilisation(ROWS[0]["utilisation"], path),
}
BACKGROUND = re.compile(r'<g id="[\w-]*patch_1">\s*<path[^>]* style="fill: ([#\w]+)"')


@pytest.fixture(scope="module")
def drawn():
    return {name: draw() for name, draw in DRAW.items()}


def test_every_strategy_has_its_own_colour_and_marker():
    assert style.STRATEGY_STYLE.keys() == STRATEGIES.keys()
    for field in ("color", "marker", "label"):
        assert len({getattr(s, field) for s in style.STRATEGY_STYLE.values()}) == len(STRATEGIES)


def test_the_colours_are_seaborns_colourblind_palette():
    import seaborn as sns

    palette = {c.lower() for c in sns.color_palette("colorblind").as_hex()}
    assert {s.color for s in style.STRATEGY_STYLE.values()} <= palette


@pytest.mark.parametrize("name", DRAW)
def test_a_figure_is_svg_with_a_label_and_the_ink_of_the_page(drawn, name):
    svg = drawn[name]
    root = ET.fromstring(svg)
    assert root.tag.endswith("svg") and root.get("role") == "img" and root.get("aria-label")
    assert style.INK not in svg and "currentColor" in svg
    assert not re.search(r"\d{4}-\d\d-\d\d", svg)  # no date


@pytest.mark.parametrize("name", DRAW)
def test_a_figure_drawn_again_is_identical(drawn, name):
    assert DRAW[name]() == drawn[name]


def test_no_two_figures_share_an_id(drawn):
    ids = {name: set(re.findall(r'\bid="([^"]+)"', svg)) for name, svg in drawn.items()}
    for a, b in combinations(ids, 2):
        assert not ids[a] & ids[b], (a, b)


@pytest.mark.parametrize("name", DRAW)
def test_every_reference_has_its_target(drawn, name):
    svg = drawn[name]
    ids = set(re.findall(r'\bid="([^"]+)"', svg))
    assert set(re.findall(r'href="#([^"]+)"', svg)) | set(re.findall(r"url\(#([^)]+)\)", svg)) <= ids


@pytest.mark.parametrize("name", DRAW)
def test_saved_it_is_on_white_with_its_data_beside_it(tmp_path, name):
    path = tmp_path / f"{name}.svg"
    pasted = DRAW[name](path)
    assert path.read_text().startswith("<?xml")
    assert [BACKGROUND.findall(svg) for svg in (path.read_text(), pasted)] == [["#ffffff"], ["none"]]
    assert sorted(p.suffix for p in tmp_path.iterdir()) == [".csv", ".svg"]
    rows = list(csv.DictReader(path.with_suffix(".csv").open()))
    assert len(rows) == {"predicted_vs_measured": 5, "utilisation": 9}.get(name, len(ROWS))


def test_axes_have_units_and_scales_are_powers_of_two(drawn):
    assert "throughput (samples/s)" in drawn["throughput"]
    assert "sent by a worker in a step (MiB)" in drawn["bytes_per_worker"]
    assert "time of a step (ms)" in drawn["step_breakdown"]
    for gpus in SCALES:
        assert f">{gpus:,}</text>" in drawn["throughput"]


@pytest.mark.parametrize("name", ["throughput", "bytes_per_worker", "step_breakdown"])
def test_one_row_can_be_drawn(name):
    ET.fromstring(getattr(figures, name)(ROWS[:1]))


def test_a_figure_without_rows_is_refused():
    for draw in (figures.throughput, figures.bytes_per_worker, figures.step_breakdown):
        with pytest.raises(ValueError, match="at least one row"):
            draw([])


def test_a_hostile_strategy_name_is_text():
    hostile = [{**r, "strategy": "<script>$x_1$ & </svg>"} for r in ROWS[:3]]
    for draw in (figures.throughput, figures.bytes_per_worker, figures.step_breakdown):
        svg = draw(hostile)
        ET.fromstring(svg)
        assert "<script" not in svg and "$x_1$" in svg


def test_drawing_restores_settings_and_backend():
    import matplotlib as mpl

    before, backend = dict(mpl.rcParams), mpl.get_backend()
    figures.throughput(ROWS)
    assert dict(mpl.rcParams) == before and mpl.get_backend() == backend


def test_importing_loads_no_plotting_library():
    modules = ", ".join(f"dessim.results.{m}" for m in ("figures", "pages.demo", "tables", "timeline"))
    code = f"import sys, {modules}; print('matplotlib' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
