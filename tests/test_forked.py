"""Processes that tests fork find torch and the trainer imported, even if a sweep forks the first ones."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import pytest

from dessim.sweep.local import in_processes
from dessim.sweep.run import plan_sweep
from tests.forked import _IMPORTED
from tests.sweep.small import write_study

pytest.importorskip("torch")

_LACKS = "import sys; sys.exit(not sys.modules.keys() >= set({}))"


def test_a_process_after_those_of_a_sweep_finds_everything_imported(tmp_path: Path) -> None:
    cases = plan_sweep(write_study(tmp_path), tmp_path / "out").left[:2]
    assert {outcome["status"] for _, outcome in in_processes(cases, jobs=2)} == {"ok"}
    process = multiprocessing.get_context("forkserver").Process(target=exec, args=(_LACKS.format(_IMPORTED),))
    process.start()
    process.join()
    assert process.exitcode == 0
