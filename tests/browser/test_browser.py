"""Pages in headless Chromium: accessible (axe-core), complete without scripts, sorted and filtered by their script.

Needs Node, and once `npm install --prefix tests/browser`; skipped elsewhere.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from dessim.cluster import load_cluster
from dessim.cluster.drawing.draw import draw
from dessim.results.pages.demo import write_report
from dessim.results.pages.render import write_page
from dessim.results.pages.rows import rows_page
from tests.results.sample import projection, result

HERE = Path(__file__).parent
NEEDED = ("puppeteer-core", "axe-core", "@sparticuz/chromium")
ROWS = [
    {"gpus": 8 * 2**n, "strategy": name, "step_time_s": (n + 1.5) * speed, "memory_bytes": None if n % 3 else 2e9}
    for n in range(6)
    for name, speed in (("table_wise", 1e-3), ("row_wise", 7e-4), ("<script>document.title = 'bad'</script>", 2.0))
]
"""A table whose order differs by text and by value, with missing values and a name that is hostile."""


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The findings of check.mjs, by page."""
    if shutil.which("node") is None:
        pytest.skip("needs Node and Chromium: docs/reports.md")
    missing = [name for name in NEEDED if not (HERE / "node_modules" / name).is_dir()]
    if missing:
        pytest.skip(f"needs {', '.join(missing)}: npm install --prefix tests/browser")
    folder = tmp_path_factory.mktemp("pages")
    steps = [{"step": n, "measured_s": 0.021, "predicted_s": 0.02} for n in range(4)]
    drawing = draw(load_cluster("one-switch_16"), {"nic_up": 0.6, "nic_down": 0.2})
    shown = {**result(), "projection": projection(scales=(8, 64))}
    write_report(folder / "demo.html", shown, cluster_svg=drawing, timeline="timeline.json.gz", recorded=steps)
    write_page(
        folder / "rows.html",
        rows_page("A table", "Which row?", ["The first."], asked=[("command", "dessim")], rows=ROWS),
    )
    command = ["node", str(HERE / "check.mjs"), str(folder / "demo.html"), str(folder / "rows.html")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)  # type: ignore[no-any-return]


PAGES = ("demo.html", "rows.html")


@pytest.mark.parametrize("page", PAGES)
def test_no_accessibility_rule_of_axe_is_violated(seen: dict[str, Any], page: str) -> None:
    for view in ("wide", "dark"):
        assert seen[page]["axe"][view]["violations"] == [], view
        assert seen[page]["axe"][view]["passes"] > 20


@pytest.mark.parametrize("page", PAGES)
def test_nothing_is_loaded_and_nothing_fails(seen: dict[str, Any], page: str) -> None:
    assert seen[page]["problems"] == []


@pytest.mark.parametrize("page", PAGES)
def test_no_page_scrolls_sideways(seen: dict[str, Any], page: str) -> None:
    for view, (needed, given) in seen[page]["width"].items():
        assert needed <= given, view


@pytest.mark.parametrize("page", PAGES)
def test_a_page_is_complete_without_scripts(seen: dict[str, Any], page: str) -> None:
    without = seen[page]["without_scripts"]
    assert without["tables"] == seen[page]["tables"] and without["tables"]
    assert without["buttons"] == 0


def test_columns_sort_by_value_with_missing_values_last(seen: dict[str, Any]) -> None:
    columns = {column["title"]: column for column in seen["rows.html"]["used"]["sorted"]}
    for title, key in (("step time", "step_time_s"), ("GPUs", "gpus")):
        values = sorted(float(row[key]) for row in ROWS)  # type: ignore[arg-type]
        for order, expected in (("ascending", values), ("descending", values[::-1])):
            aria, sorted_values = columns[title][order]
            assert aria == order and list(map(float, sorted_values)) == expected
    for order in ("ascending", "descending"):
        known = [value != "–" for value in columns["memory"][order][1]]
        assert known == sorted(known, reverse=True) and True in known and False in known


def test_rows_are_filtered_by_words(seen: dict[str, Any]) -> None:
    used = seen["rows.html"]["used"]
    assert used["filtered"]["said"] == "6 of 18 rows" and used["all"] == 18
    assert all("table-wise" in row for row in used["filtered"]["rows"])
