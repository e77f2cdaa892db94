"""The benchmark of the row table: every contender finds the right rows, and the page shows the measurement."""

from __future__ import annotations

import json
import re

import pytest

pytest.importorskip("torch", reason="the trainer needs the [train] extra")

from tests.bench import table

PAGE = table.PAGE.read_text()
RESULT = json.loads(table.PAGE.with_suffix(".json").read_text())


@pytest.mark.torch
@pytest.mark.parametrize("name", table.CONTENDERS)
def test_contenders_find_the_right_rows(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table, "BATCH", 700)
    result = table.race(name, 5000)
    assert result["right"] and result["inserts_per_s"] > 0
    assert result["lookups_per_s"].keys() == {"65536", "1048576"}


@pytest.mark.torch
def test_the_page_shows_the_measurement() -> None:
    assert table.markdown(RESULT) in PAGE
    assert all(race["right"] for race in RESULT["races"])
    assert [(race["rows"], race["contender"]) for race in RESULT["races"]] == [
        (rows, name) for rows in table.ROWS for name in table.CONTENDERS
    ]


@pytest.mark.torch
def test_memory_on_the_page_is_the_measured_memory() -> None:
    row_table = next(r for r in RESULT["races"] if r["contender"] == "RowTable" and r["rows"] == 10_000_000)
    stated = sum(float(part) for part in re.search(r"row has (\S+) \+ (\S+) \+ (\S+) bytes", PAGE).groups())
    assert stated == pytest.approx(4 + 9 + 4 * 2**25 / 1e7, abs=0.05)
    assert stated <= row_table["bytes_per_row"] < 1.5 * stated


def test_links_exist() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", PAGE)
    assert len(links) >= 2 and all((table.PAGE.parent / link).exists() for link in links)
