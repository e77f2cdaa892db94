"""Reports on a terminal, in a log and for TensorBoard."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest

from des_ref.stream import report
from des_ref.stream.report import Reports, line_of
from dessim.errors import DessimError, FileError, UsageError

REPORT: dict[str, Any] = {
    "step": 100, "rows": 1_638_400, "seconds": 20.0, "rows_per_s": 81_920.0, "ids_per_s": 3_194_880.0, "cpu_s": 30.0,
    "auc": 0.71234, "auc_error": 1e-5, "logloss": 0.51, "total_auc": 0.7, "total_logloss": 0.52,
    "table_rows": 1_250_000, "candidates": 5, "memory_bytes": 3 << 29, "batches_ahead": 4,
    "held_back_share": 0.4, "starved_share": 0.0, "bad_rows": 0, "position": {"row": 1_638_400},
}  # fmt: skip


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_the_line_has_units() -> None:
    line = "step 100  1.638 M rows  81.9 k rows/s  3.19 M ids/s  AUC 0.7123  log loss 0.5100  table 1.25 M rows"
    assert line_of(REPORT) == f"{line}  1.5 GiB  4 batches ahead"
    assert "AUC undefined" in line_of(REPORT | {"auc": None})


def test_a_terminal_line_is_rewritten_and_other_outputs_get_a_line_per_report(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal, file = Terminal(), io.StringIO()
    for screen in (terminal, file):
        with Reports(None, None, 0, screen) as reports:
            reports.give(REPORT)
            reports.tick(101, 1_700_000, 40_960.0)  # too soon after the last one
            reports._shown_at = -10.0
            reports.tick(150, 2_000_000, 40_960.0)
    shown = terminal.getvalue().split("\r\x1b[K")
    assert len(shown) == 3 and terminal.getvalue().endswith("\n") and "\n" not in terminal.getvalue()[:-1]
    assert "step 150  2 M rows  41 k rows/s  1.6 M ids/s  AUC 0.7123" in shown[2]
    assert file.getvalue() == line_of(REPORT) + "\n"


def test_the_log_has_an_object_per_report_and_continues_where_the_run_resumes(tmp_path: Path) -> None:
    log = tmp_path / "run" / "reports.jsonl"
    with Reports(log, None, 0, io.StringIO()) as reports:
        for step in (100, 200, 300):
            reports.give(REPORT | {"step": step})
    assert [json.loads(line) for line in log.read_text().splitlines()] == [
        REPORT | {"step": step} for step in (100, 200, 300)
    ]
    with Reports(log, None, 200, io.StringIO()) as reports:
        reports.give(REPORT | {"step": 300, "auc": None})
    assert [json.loads(line)["step"] for line in log.read_text().splitlines()] == [100, 200, 300]
    assert json.loads(log.read_text().splitlines()[-1])["auc"] is None
    with Reports(log, None, 0, io.StringIO()):
        pass
    assert log.read_text() == ""


def test_tensorboard_reads_the_events(tmp_path: Path) -> None:
    accumulators = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    with Reports(None, tmp_path, 0, io.StringIO()) as reports:
        for step in (100, 200):
            reports.give(REPORT | {"step": step, "auc": None if step == 200 else 0.75})
    events = accumulators.EventAccumulator(str(tmp_path))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("stream/rows_per_s")] == [(100, 81_920.0), (200, 81_920.0)]
    assert [(e.step, e.value) for e in events.Scalars("stream/auc")] == [(100, 0.75)]
    assert "stream/position" not in events.Tags()["scalars"] and len(events.Tags()["scalars"]) == len(REPORT) - 2


def test_mistakes_are_one_line_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "notes.txt").write_text("my notes\n")
    (tmp_path / "file").touch()
    with pytest.raises(FileError, match=r"notes.txt: exists and is not a log of reports: name another file"):
        Reports(tmp_path / "notes.txt", None, 5, io.StringIO())
    with pytest.raises(FileError, match=r"cannot be written: Not a directory|cannot be written: File exists"):
        Reports(tmp_path / "file" / "log", None, 0, io.StringIO())
    monkeypatch.setattr(report, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"needs the package tensorboard: pip install 'dessim\[tensorboard\]'") as said:
        Reports(None, tmp_path / "events", 0, io.StringIO())
    assert isinstance(said.value, DessimError) and "\n" not in str(said.value)
