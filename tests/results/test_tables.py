"""Tables: plain and at full width into a pipe, fitted to a terminal; CSV with fixed columns."""

from __future__ import annotations

import csv
import io
import re

import pytest
from rich.console import Console

from dessim.results import tables
from dessim.results.fitted_table import FittedTable, Layout
from dessim.results.show import print_facts, print_text
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


def test_a_pipe_gets_every_cell_whole_and_no_colour(monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)
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


def test_low_bandwidths_keep_four_significant_digits():
    text = printed(tables.collective_table([{**COLLECTIVES[0], "algbw_GBps": 0.00336093, "busbw_GBps": 0.9999}]))
    assert text.split()[-2:] == ["0.003361", "0.9999"]


def test_no_color_is_respected_on_a_terminal(monkeypatch):
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert "\x1b[1m" in printed(tables.projection_table(ROWS), Terminal())
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[3" not in printed(tables.projection_table(ROWS), Terminal())


def test_markup_in_names_is_text(capsys):
    print_facts("[bold]title", [("[red]a", "[/x]"), (":smile:", 3)])
    text = capsys.readouterr().out
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


def test_csv_does_not_depend_on_the_order_of_keys():
    reordered = [dict(reversed(r.items())) for r in ROWS]
    assert tables.projection_csv(reordered) == tables.projection_csv(ROWS)


def test_no_rows_give_the_header_alone():
    assert tables.projection_csv([]) == ",".join(tables.PROJECTION_COLUMNS) + "\n"
    printed(tables.projection_table([]))


def test_the_error_column_appears_only_if_a_row_has_an_error() -> None:
    rows = projection()
    names = [str(column.header) for column in tables.projection_table(rows).columns]
    assert "error bar" in names
    unknown = [{**row, "error_bar": None} for row in rows]
    assert "error bar" not in [str(column.header) for column in tables.projection_table(unknown).columns]


WIDE = ("name", "first", "second", "third")


def fitted(width, layout, text="a text of seven words to be folded"):
    table = FittedTable(WIDE, layout)
    table.add_texts((text, "1" * 12, "2" * 12, "3" * 12))
    out = io.StringIO()
    Console(file=out, width=width).print(table)
    return out.getvalue()


def test_a_table_that_fits_is_left_alone():
    text = fitted(200, Layout(folds={"name": 10}, drops=("third",)))
    assert "a text of seven words to be folded" in text and "not shown" not in text


def test_texts_fold_before_columns_are_left_out():
    text = fitted(66, Layout(folds={"name": 10}, drops=("third",)))
    assert "3" * 12 in text and "not shown" not in text and "a text of seven words to be folded" not in text


def test_a_mark_a_unit_and_a_counted_thing_stay_beside_their_words():
    table = FittedTable(("strategy", "bound by"), Layout(folds={"strategy": 10, "bound by": 10}))
    table.add_texts(("row AllToAll *", "uplinks of leaves 61 %"))
    table.add_texts(("1 table-wise, 9 column-wise", "61 ms"))
    out = io.StringIO()
    Console(file=out, width=32).print(table)
    lines = [re.split("  +", line.strip()) for line in out.getvalue().splitlines()]
    assert ["row", "uplinks of"] in lines and ["AllToAll *", "leaves 61 %"] in lines
    assert ["1 table-wise,", "61 ms"] in lines and ["9 column-wise"] in lines


def test_a_sign_starts_or_ends_no_line(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "20")
    print_text("within intervals: 85 % * fastest")
    lines = capsys.readouterr().out.splitlines()
    assert lines == ["within intervals:", "  85 % * fastest"]


def test_columns_are_left_out_in_order_and_named():
    layout = Layout(folds={"name": 10}, drops=("third", "first"), full_version="--csv")
    text = fitted(50, layout)
    assert "1" * 12 in text and "3" * 12 not in text
    assert "not shown for lack of width: third" in text and "--csv" in text
    assert layout.drops == ("third", "first") and "first" in fitted(35, layout).split("width:")[1]


def test_a_table_that_cannot_fit_folds_every_cell_and_cuts_none():
    text = fitted(30, Layout())
    assert max(map(len, text.splitlines())) <= 30 and "…" not in text
    assert all(text.count(digit) == 12 for digit in "123")


def test_tables_name_bounds_and_strategies_in_words():
    rows = [{**ROWS[0], "strategy": "ps_sync+hot_rows=1000", "bound_by": "leaf_up"}]
    text = printed(tables.projection_table(rows))
    assert "parameter server, 1,000 hot rows *" in text and "leaf-to-spine uplinks" in text
