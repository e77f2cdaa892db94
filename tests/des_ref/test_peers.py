"""A process that dies, hangs or never comes: the others say so in one line, and soon."""

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

PATIENCE_S = 3.0
UNHURRIED_S = 60.0


def _meets(rank: int, folder: Path, timeout: float) -> None:
    """Rank 1 tells when it has met rank 0, and waits for its end; rank 0 goes on alone."""

    def main() -> int:
        with open_comm("cpu", (folder / "meeting", rank, 2), timeout) as comm:
            comm.barrier()
            if rank == 1:
                (folder / "met").touch()
                time.sleep(UNHURRIED_S)
            comm.all_reduce("partials", torch.zeros(3)).wait()
        return 0

    leave(run("des_ref.train", main))


@pytest.mark.parametrize(
    ("how", "timeout", "most_s"),
    [(signal.SIGKILL, UNHURRIED_S, 10.0), (signal.SIGSTOP, PATIENCE_S, PATIENCE_S + 10)],
)
def test_a_peer_that_is_gone_ends_the_run_with_one_line(
    how: signal.Signals, timeout: float, most_s: float, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    context = multiprocessing.get_context("spawn")
    left, gone = (context.Process(target=_meets, args=(rank, tmp_path, timeout)) for rank in range(2))
    for process in (left, gone):
        process.start()
    try:
        deadline = time.monotonic() + UNHURRIED_S
        while not (tmp_path / "met").exists():
            assert time.monotonic() < deadline and left.is_alive() and gone.is_alive()
            time.sleep(0.02)
        os.kill(gone.pid or 0, how)
        start = time.monotonic()
        left.join(most_s)
        assert time.monotonic() - start < most_s and left.exitcode == 1
    finally:
        for process in (left, gone):
            process.kill()
            process.join()
    said = [line for line in capfd.readouterr().err.splitlines() if "des_ref.train" in line]
    assert len(said) == 1
    assert f"rank 0: op partials failed, because another process has died or was silent for {timeout:g} s: " in said[0]


def test_a_peer_that_never_comes_is_not_waited_for(tmp_path: Path) -> None:
    with (
        pytest.raises(RankError, match=r"rank 0: not all 2 processes came within 1 s"),
        open_comm("cpu", (tmp_path / "meeting", 0, 2), timeout=1),
    ):
        pass


def test_a_mistake_of_ones_own_is_not_blamed_on_others() -> None:
    with open_comm("cpu") as comm, pytest.raises(RuntimeError, match="shape"), comm.patience("partials"):
        torch.zeros(2) @ torch.zeros(3, 2).reshape(7)
