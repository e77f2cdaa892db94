"""A training outlasts a stopped rank, ends at a full disk, and resumes exactly; a failed check is reported."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch", reason="the trainer needs the [train] extra")

from tests.chaos.faults import Struck, fill_disk, stop_short
from tests.chaos.lives import Life, Wrong
from tests.chaos.run import strike


@pytest.mark.slow
@pytest.mark.torch
def test_a_training_is_struck_twice_and_ends_like_an_undisturbed_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    faults = {"full disk": fill_disk, "SIGSTOP of a rank, for a moment": stop_short}
    assert strike(tmp_path, ["des_all_reduce"], faults, kills=2, seed=3, timeout=20.0) == 0, capsys.readouterr().out
    printed = capsys.readouterr().out
    assert "2 of 2 faults" in printed and "equal to an undisturbed run" in printed


@pytest.mark.torch
def test_a_traceback_a_silent_failure_and_an_unknown_exit_code_are_wrong(tmp_path: Path) -> None:
    life = Life(tmp_path, "mesh", ranks=2, steps=4, timeout=1.0, disk=tmp_path)
    with pytest.raises(Wrong, match="0 lines of errors from 1 ranks that failed"):
        life._check([-9, 1], Struck(killed=[0]))
    with pytest.raises(Wrong, match=r"exit codes \[0, 2\]"):
        life._check([0, 2], Struck())
    (tmp_path / "struck.txt").write_text("Traceback (most recent call last):\n")
    with pytest.raises(Wrong, match="a traceback"):
        life._check([-9, 0], Struck(killed=[0]))
    (tmp_path / "struck.txt").write_text("des_ref.train: error: rank 1: op ids failed\n")
    life._check([-9, 1], Struck(killed=[0]))
