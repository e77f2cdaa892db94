"""Logs of JSON lines: which lines are kept, and what happens on a full disk."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from des_ref.line_log import LineLog
from dessim.errors import FileError


def test_it_starts_empty_or_continues_after_the_kept_lines(tmp_path: Path) -> None:
    file = tmp_path / "log" / "lines.jsonl"
    for keep, steps in ((None, [1, 2]), (lambda lines: lines[:1], [3]), (lambda lines: lines, [4])):
        with LineLog(file, keep) as log:
            for step in steps:
                log.add({"step": step})
    assert [json.loads(line)["step"] for line in file.read_text().splitlines()] == [1, 3, 4]
    with LineLog(file, None):
        assert file.read_text() == ""


def test_an_incomplete_last_line_is_removed(tmp_path: Path) -> None:
    file = tmp_path / "lines.jsonl"
    file.write_text('{"step": 1}\n{"st')
    with LineLog(file, lambda lines: [line for line in lines if json.loads(line)["step"] < 5]) as log:
        log.add({"step": 2})
    assert file.read_text() == '{"step": 1}\n{"step": 2}\n'


def test_a_full_disk_is_reported_once_with_the_files_name(tmp_path: Path) -> None:
    with (
        pytest.raises(FileError, match=r"lines\.jsonl: cannot be written: No space left on device"),
        LineLog(tmp_path / "lines.jsonl", None) as log,
    ):
        log._file.close()
        log._file = Path("/dev/full").open("a", buffering=1)  # noqa: SIM115
        log.add({"step": 1})
