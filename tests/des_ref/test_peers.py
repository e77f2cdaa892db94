"""If a process dies, hangs or never starts, the others soon exit with one line."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest
import torch

from des_ref.cli import RankError, leave, run
from des_ref.comm import open_comm

TIMEOUT_S = 3.0
LIMIT_S = 60.0


def _rank(rank: int, folder: Path, timeout: float) -> None:
    """Rank 1 signals once the group is up, then sleeps until it is killed; rank 0 continues alone."""

    def main() -> int:
        with open_comm("cpu", (folder / "meeting", rank, 2), timeout) as comm:
            comm.barrier()
            if rank == 1:
                (folder / "started").touch()
                time.sleep(LIMIT_S)
            comm.all_reduce("partials", torch.zeros(3)).wait()
        return 0

    leave(run("des_ref.train", main))


@pytest.mark.parametrize(
    ("how", "timeout", "most_s"),
    [(signal.SIGKILL, LIMIT_S, 10.0), (signal.SIGSTOP, TIMEOUT_S, TIMEOUT_S + 10)],
)
def test_a_dead_or_hanging_peer_ends_the_run_with_one_line(
    how: signal.Signals, timeout: float, most_s: float, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    context = multiprocessing.get_context("spawn")
    survivor, victim = (context.Process(target=_rank, args=(rank, tmp_path, timeout)) for rank in range(2))
    for process in (survivor, victim):
        process.start()
    try:
        deadline = time.monotonic() + LIMIT_S
        while not (tmp_path / "started").exists():
            assert time.monotonic() < deadline and survivor.is_alive() and victim.is_alive()
            time.sleep(0.02)
        os.kill(victim.pid or 0, how)
        start = time.monotonic()
        survivor.join(most_s)
        assert time.monotonic() - start < most_s and survivor.exitcode == 1
    finally:
        for process in (survivor, victim):
            process.kill()
            process.join()
    said = [line for line in capfd.readouterr().err.splitlines() if "des_ref.train" in line]
    assert len(said) == 1
    assert f"rank 0: op partials failed, because another process has died or was silent for {timeout:g} s: " in said[0]


def test_the_start_times_out_if_a_peer_never_starts(tmp_path: Path) -> None:
    with (
        pytest.raises(RankError, match=r"rank 0: not all 2 processes came within 1 s"),
        open_comm("cpu", (tmp_path / "meeting", 0, 2), timeout=1),
    ):
        pass


def test_a_processs_own_mistake_is_not_blamed_on_others() -> None:
    with open_comm("cpu") as comm, pytest.raises(RuntimeError, match="shape"), comm.patience("partials"):
        torch.zeros(2) @ torch.zeros(3, 2).reshape(7)
