"""The benchmark itself: costs are measured from outside, limits hold, tables and figure show the results."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.bench.figure import cost_figure
from tests.bench.measure import measure, median
from tests.bench.tables import BEGIN, END, markdown, with_tables

ROOT = Path(__file__).resolve().parents[2]
COST = {"cpu_s": 2.0, "wall_s": 2.5, "peak_rss_MiB": 50.0, "stopped": False, "runs": 3}
MACHINE = {"cpu": "a CPU", "cores": 2, "load_average": 0.5, "python": "3.12", "numpy": "2.0", "simgrid": "4.0"}


def test_time_and_memory_exclude_the_parent_process() -> None:
    ballast = bytearray(200 << 20)
    ballast[::4096] = b"x" * len(ballast[::4096])
    cost = measure(["/bin/sh", "-c", "echo hello; exit 3"], 10)
    assert (cost.output, cost.status, cost.timed_out, cost.ok) == ("hello\n", 3, False, False)
    assert 0 < cost.rss_MiB < 30 and cost.wall_s < 5
    large = measure([sys.executable, "-c", "x = b'x' * (100 << 20)"], 10)
    assert large.ok and large.rss_MiB > 100 and large.cpu_s > 0
    assert median([large, cost, large]) is large


def test_a_process_is_stopped_at_its_limit() -> None:
    asleep = measure(["/bin/sleep", "60"], 0.1)
    assert asleep.timed_out and not asleep.ok and asleep.wall_s < 10
    busy = measure([sys.executable, "-c", "while True: pass"], 1)
    assert busy.timed_out and not busy.ok and busy.cpu_s < 3
    # On a busy machine the limit of wall time comes first. The kernel's two counts of CPU time differ there.
    assert busy.cpu_s >= 0.5 or busy.wall_s >= 5


def test_a_missing_program_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="could not run"):
        measure(["/no/such/program"], 1)


def test_tables_show_the_results() -> None:
    both = {"work": "w", "dessim": COST, "simgrid": {**COST, "cpu_s": 8.0}, "ratio": 4.0}
    targets = {"limit_s": 3.0, "limit_MiB": None, "problems": []}
    rows = [
        {**both, **targets, "error_against_simgrid": -2e-9},
        {**both, **targets, "simgrid": {**COST, "cpu_s": 120.0, "stopped": True, "runs": 1}, "ratio": 60.0},
        {**both, **targets, "problems": ["1 s, SimGrid says 2 s"]},
    ]
    alone = [{"work": "v", "dessim": COST, **targets, "limit_s": 1.5, "answer": {"time_s": 0.0481449}}]
    text = markdown({"peer": rows, "alone": alone, "machine": MACHINE})
    assert "| w | 8 s, 50 MiB | 2 s, 50 MiB | 3 s | 4 | 2e-09 |" in text
    assert "| > 120 s, 50 MiB, one run | 2 s, 50 MiB | 3 s | > 60 | SimGrid did not finish |" in text
    assert "**1 s, SimGrid says 2 s**" in text
    assert "| v | 2 s, 50 MiB | 1.5 s: **missed** | 48.1449 ms |" in text
    page = (ROOT / "docs" / "bench.md").read_text()
    updated = with_tables(page, text)
    assert text in updated and updated.count(BEGIN) == updated.count(END) == 1
    assert with_tables(updated, text) == updated


def test_the_figure_has_every_line_and_its_data(tmp_path: Path) -> None:
    names = ("ring all_reduce", "hierarchical all_to_all", "ring in SimGrid")
    rows = [
        {"work": name, "gpus": n, "cpu_s": 0.5 + n / 100, "peak_rss_MiB": 60.0 + n} for name in names for n in (8, 64)
    ]
    svg = cost_figure(rows, tmp_path / "cost.csv")
    assert all(name in svg for name in names) and svg == cost_figure(rows, tmp_path / "cost.csv")
    assert (tmp_path / "cost.csv").read_text().splitlines()[1] == "ring all_reduce,8,0.58,68.0"
