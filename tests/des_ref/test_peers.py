"""A process that dies, hangs or never joins: the others report it promptly, in one line."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
import torch

from des_ref.cli import RankError, leave, run
from des_ref.comm import open_comm
from des_ref.forked import forking_context
from tests.des_ref.ranks import stderr_to

SHORT_TIMEOUT_S = 3.0
LONG_TIMEOUT_S = 60.0


def _join(rank: int, folder: Path, timeout: float) -> None:
    """Both ranks join; rank 1 touches a file and sleeps until it is killed; rank 0 runs a collective alone."""

    stderr_to(folder / "said")

    def main() -> int:
        with open_comm("cpu", (folder / "rendezvous", rank, 2), timeout) as comm:
            comm.barrier()
            if rank == 1:
                (folder / "joined").touch()
                time.sleep(LONG_TIMEOUT_S)
            comm.all_reduce("partials", torch.zeros(3)).wait()
        return 0

    leave(run("des_ref.train", main))


@pytest.mark.parametrize(
    ("kill_signal", "timeout", "limit_s"),
    [(signal.SIGKILL, LONG_TIMEOUT_S, 10.0), (signal.SIGSTOP, SHORT_TIMEOUT_S, SHORT_TIMEOUT_S + 10)],
)
def test_losing_a_peer_ends_the_run_with_a_one_line_error(
    kill_signal: signal.Signals, timeout: float, limit_s: float, tmp_path: Path
) -> None:
    context = forking_context()
    survivor, gone = (context.Process(target=_join, args=(rank, tmp_path, timeout)) for rank in range(2))
    for process in (survivor, gone):
        process.start()
    try:
        deadline = time.monotonic() + LONG_TIMEOUT_S
        while not (tmp_path / "joined").exists():
            assert time.monotonic() < deadline and survivor.is_alive() and gone.is_alive()
            time.sleep(0.02)
        os.kill(gone.pid or 0, kill_signal)
        start = time.monotonic()
        survivor.join(limit_s)
        assert time.monotonic() - start < limit_s and survivor.exitcode == 1
    finally:
        for process in (survivor, gone):
            process.kill()
            process.join()
    errors = [line for line in (tmp_path / "said").read_text().splitlines() if "des_ref.train" in line]
    assert len(errors) == 1
    assert (
        f"rank 0: op partials failed, because another process has died or was silent for {timeout:g} s: " in errors[0]
    )


def test_a_start_that_a_peer_never_joins_times_out(tmp_path: Path) -> None:
    with (
        pytest.raises(RankError, match=r"rank 0: not all 2 processes joined within 1 s"),
        open_comm("cpu", (tmp_path / "rendezvous", 0, 2), timeout=1),
    ):
        pass


def test_an_error_of_this_process_is_not_blamed_on_a_peer() -> None:
    with open_comm("cpu") as comm, pytest.raises(RuntimeError, match="shape"), comm.patience("partials"):
        torch.zeros(2) @ torch.zeros(3, 2).reshape(7)
