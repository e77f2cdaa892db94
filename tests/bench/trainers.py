"""Start runs of the trainer as processes that may be killed.

They are forked from a process that has torch loaded, so they start fast.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path

from tests.forked import launch_environments

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
        self.processes = []
        for environment in launch_environments(self.ranks):
            work = _CONTEXT.Process(
                target=_train, args=(environment | self.environment, list(self.arguments), self.output)
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
    from des_ref.cli import run
    from dessim.processes import leave

    leave(run("des_ref.train", lambda: train.main(arguments)))
