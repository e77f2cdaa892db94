"""Start runs of the trainer as processes that may be killed.

They are forked from a process that has torch loaded, so they start fast.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["des_ref.train", "torch.distributed.checkpoint"])


@dataclass
class Run:
    """A running `des_ref.train` with these arguments on `ranks` processes. Their output is appended to `output`."""

    ranks: int
    arguments: Sequence[str]
    output: Path
    environment: dict[str, str] = field(default_factory=dict)
    processes: list[BaseProcess] = field(init=False)

    def __post_init__(self) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        environment = {"WORLD_SIZE": self.ranks, "LOCAL_WORLD_SIZE": self.ranks, "MASTER_ADDR": "127.0.0.1"}
        environment |= {"MASTER_PORT": port, "OMP_NUM_THREADS": 1}
        self.processes = []
        for rank in range(self.ranks):
            rank_environment = {
                key: str(value) for key, value in (environment | {"RANK": rank, "LOCAL_RANK": rank}).items()
            }
            work = _CONTEXT.Process(
                target=_train, args=(rank_environment | self.environment, list(self.arguments), self.output)
            )
            work.start()
            self.processes.append(work)

    @property
    def has_ended(self) -> bool:
        """Whether a process has ended."""
        return any(process.exitcode is not None for process in self.processes)

    def kill(self, ranks: Sequence[int], how: signal.Signals = signal.SIGKILL) -> None:
        for rank in ranks:
            pid = self.processes[rank].pid
            if pid is not None and self.processes[rank].exitcode is None:
                os.kill(pid, how)

    def wait(self, limit_s: float) -> list[int]:
        """Wait for all ranks; return their exit codes, -n for signal n. Raises TimeoutError after killing them all."""
        deadline = time.monotonic() + limit_s
        for process in self.processes:
            process.join(max(deadline - time.monotonic(), 0))
        late = [rank for rank, process in enumerate(self.processes) if process.exitcode is None]
        if late:
            self.kill(range(self.ranks))
            raise TimeoutError(f"ranks {late} of {self.ranks} still run after {limit_s:g} s")
        return [process.exitcode or 0 for process in self.processes]


def _train(environment: dict[str, str], arguments: list[str], output: Path) -> None:
    os.environ.update(environment)
    file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(file, stream)
    from des_ref import train
    from des_ref.cli import leave, run

    leave(run("des_ref.train", lambda: train.main(arguments)))
