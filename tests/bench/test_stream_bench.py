"""`tests/bench/stream.py`: its summary of the trainer's reports, and the page shows its last measurement."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="the trainer needs the [train] extra")

from tests.bench import stream
from tests.bench.stream_figure import stream_figure


def reports(slower: float = 1.0, count: int = 24) -> list[dict[str, Any]]:
    """Return one report per EVERY steps, each `slower` times as long as the previous one, half of it CPU time."""
    made = []
    seconds = 0.0
    for n in range(1, count + 1):
        took = 10.0 * slower**n
        seconds += took
        made.append(
            {"rows": n * stream.BATCH * stream.EVERY, "seconds": seconds, "cpu_s": took / 2, "auc": 0.5 + n / 100,
             "logloss": 0.6, "table_rows": 1000 + n, "candidates": 5, "memory_bytes": (n << 20),
             "rows_per_s": stream.BATCH * stream.EVERY / took}
        )  # fmt: skip
    return made


def result(slower: float = 1.0) -> dict[str, Any]:
    made = reports(slower)
    machine = {"cpu": "a CPU", "cores": 2, "load_average": 0.5, "python": "3", "torch": "2"}
    return {
        "machine": machine, "warm_up_rows": 4 * stream.BATCH * stream.EVERY,
        "tenths": stream.tenths(made, 20 * 750_000),
        "memory_bytes": max(r["memory_bytes"] for r in made), "text": None, "reports": made,
    }  # fmt: skip


def test_tenths_exclude_the_warm_up() -> None:
    parts = result()["tenths"]
    assert [part["rows"] for part in parts] == [750_000 * n for n in range(6, 25, 2)]
    assert all(part["rows_per_s"] == pytest.approx(75_000) for part in parts)
    assert all(part["rows_per_cpu_s"] == pytest.approx(150_000) for part in parts)
    assert parts[0]["auc"] == pytest.approx(0.5 + 5.5 / 100) and parts[-1]["table_rows"] == 1024


def test_a_run_that_slows_down_or_takes_too_much_memory_is_reported() -> None:
    assert stream.problems(result()) == []
    assert stream.problems(result(1.02)) == ["throughput changed by −30 %"]
    assert "3 GiB of memory" in stream.problems(result() | {"memory_bytes": 3 << 30})[0]


def test_the_page_shows_the_last_measurement(tmp_path: Path) -> None:
    drawn = stream_figure(result(), tmp_path / "f.csv")
    assert drawn.startswith("<?xml") and len((tmp_path / "f.csv").read_text().splitlines()) == 25
    kept = json.loads(stream.PAGE.with_suffix(".json").read_text())
    assert stream.markdown(kept) in stream.PAGE.read_text()
    assert stream.problems(kept) == []
