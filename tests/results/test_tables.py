"""Tables: full width and plain into a pipe, and CSV columns that do not move."""

from __future__ import annotations

import csv
import io

import pytest

from dessim.results import tables
from tests.results.sample import projection

ROWS = projection()
COLLECTIVES = [
    {
        "size_bytes": 64 * 2**20,
        "count": 16 * 2**20,
        "dtype": "float",
        "redop": "sum",
        "time_s": 0.0023456,
        "algbw_GBps": 28.61,
        "busbw_GBps": 50.07,
    }
]


class Terminal(io.StringIO):
    def isatty(self):
        return True


def printed(table, out=None):
    out = out or io.StringIO()
    tables.print_table(table, out)
    return out.getvalue()


def test_a_pipe_gets_every_cell_whole_and_no_colour():
    long = "link " + "spine-leaf-uplink-" * 20
    text = printed(tables.projection_table([{**r, "bound_by": long} for r in ROWS]))
    assert text.count(long) == len(ROWS)
    assert "\x1b" not in text and "…" not in text


def test_the_fastest_of_each_scale_is_marked():
    text = printed(tables.projection_table(ROWS))
    assert len([line for line in text.splitlines() if " * " in line]) == len({r["gpus"] for r in ROWS})
    assert "* fastest at this scale" in text


def test_nccl_tests_columns():
    lines = [line.split() for line in printed(tables.collective_table(COLLECTIVES)).splitlines()]
    assert ["size", "count", "type", "redop", "time", "algbw", "busbw"] in lines
    assert ["67108864", "16777216", "float", "sum", "2345.60", "28.61", "50.07"] in lines


def test_no_color_is_respected_on_a_terminal(monkeypatch):
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert "\x1b[1m" in printed(tables.projection_table(ROWS), Terminal())
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[3" not in printed(tables.projection_table(ROWS), Terminal())


def test_markup_in_names_is_text():
    text = printed(tables.key_value_table("[bold]title", {"[red]a": "[/x]", ":smile:": 3}))
    assert "[bold]title" in text and "[red]a" in text and "[/x]" in text and ":smile:" in text
    assert "[link=x]" in printed(tables.table_of(["name"], [["[link=x]"]]))


def test_csv_columns_are_fixed_and_flat(tmp_path):
    path = tmp_path / "projection.csv"
    tables.write_projection_csv(path, ROWS)
    rows = list(csv.DictReader(path.open()))
    assert tuple(rows[0]) == tables.PROJECTION_COLUMNS
    assert len(rows) == len(ROWS)
    for row, source in zip(rows, ROWS, strict=True):
        assert float(row["bytes_sparse"]) == source["bytes_by_traffic"]["sparse"]
        assert float(row["step_time_s"]) == source["step_time_s"]
        parts = sum(float(row[f"bytes_{t}"]) for t in tables.TRAFFIC)
        assert parts == pytest.approx(float(row["bytes_per_worker"]))
        assert row["provenance_communication"] == "formula"
    assert {row["error_bar"] for row in rows} == {"", "0.08"}


def test_csv_is_the_same_whatever_the_order_of_keys():
    turned = [dict(reversed(r.items())) for r in ROWS]
    assert tables.projection_csv(turned) == tables.projection_csv(ROWS)


def test_no_rows_still_give_a_head():
    assert tables.projection_csv([]) == ",".join(tables.PROJECTION_COLUMNS) + "\n"
    printed(tables.projection_table([]))


def test_the_error_column_is_there_only_where_an_error_is_known() -> None:
    rows = projection()
    names = [str(column.header) for column in tables.projection_table(rows).columns]
    assert "±" in names
    unknown = [{**row, "error_bar": None} for row in rows]
    assert "±" not in [str(column.header) for column in tables.projection_table(unknown).columns]
