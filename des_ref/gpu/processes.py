"""Runs a function on ranks in dedicated processes, so that a crash or a hang ends one check only."""

from __future__ import annotations

import json
import os
import socket
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from des_ref.cli import run
from des_ref.comm import Comm, open_comm
from des_ref.forked import forking_context
from des_ref.gpu.machine import CheckTimedOut, Figures, Machine
from dessim.errors import CheckFailed
from dessim.files import write_json
from dessim.processes import leave

Work = Callable[[Comm, Machine], Figures]
_PARENT = "des_ref.gpu.checks"
LOG = "log.txt"  # in the machine's folder: what the ranks print


def on_ranks(machine: Machine, work: Work, ranks: int, limit_s: float, servers: int = 0) -> Figures:
    """Run `work`, a module-level function, on a group of `ranks` workers and `servers`; returns rank 0's figures.

    Raises CheckFailed with the first problem of any rank, or where a rank dies or is not done after `limit_s` seconds.
    """
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        processes = [
            forking_context(_PARENT).Process(target=_rank, args=(work, machine, rank, ranks, servers, scratch))
            for rank in range(ranks + servers)
        ]
        stack.callback(_kill, processes)
        for process in processes:
            process.start()
        _join(processes, limit_s)
        answers = [_answer(scratch / f"{rank}.json", process) for rank, process in enumerate(processes)]
        is_late = any(process.is_alive() for process in processes)
    # The first problem is the cause: the other ranks then lose the one that failed, or run out of time.
    problems = sorted((answer for answer in answers if "problem" in answer), key=lambda answer: float(answer["at"]))
    if problems:
        raise CheckFailed(problems[0]["problem"])
    if is_late:
        raise CheckTimedOut(f"not done after {limit_s:.0f} s")
    figures: Figures = answers[0]["figures"]
    return figures


def _rank(work: Work, machine: Machine, rank: int, ranks: int, servers: int, scratch: Path) -> None:
    _redirect(machine.folder / LOG, 2)
    answer: dict[str, Any] = {}
    try:
        with open_comm(machine.device, (scratch / "rendezvous", rank, ranks + servers), servers=servers) as comm:
            try:
                answer = {"figures": work(comm, machine)}
            except Exception as error:  # noted before this rank leaves the group, which the others then notice
                answer = _problem(rank, error)
    except Exception as error:  # any failure is a result here
        answer = answer or _problem(rank, error)
    write_json(scratch / f"{rank}.json", answer)
    leave(0)


def _problem(rank: int, error: Exception) -> dict[str, Any]:
    kind = "" if isinstance(error, CheckFailed) else f"{type(error).__name__}: "
    line = next((line for line in str(error).splitlines() if line.strip()), "no message")
    return {"problem": f"rank {rank}: {kind}{line}", "at": time.monotonic()}


def _redirect(path: Path, *streams: int) -> None:
    """Append what this process writes to these streams to a file; on the terminal it would break up the table."""
    with path.open("a") as file:
        for stream in streams:
            os.dup2(file.fileno(), stream)


def _join(processes: Sequence[BaseProcess], limit_s: float) -> None:
    """Wait until all are done, or one has died, or the time has run out."""
    end = time.monotonic() + limit_s
    while time.monotonic() < end:
        codes = [process.exitcode for process in processes]
        if None not in codes or any(codes):
            return
        next(process for process in processes if process.exitcode is None).join(0.2)


def _kill(processes: Sequence[BaseProcess]) -> None:
    for process in processes:
        if process.pid is not None:
            process.kill()
            process.join()


def _answer(path: Path, process: BaseProcess) -> dict[str, Any]:
    if path.is_file():
        answer: dict[str, Any] = json.loads(path.read_text("utf-8"))
        return answer
    return {"problem": f"a rank died with exit code {process.exitcode}", "at": 0.0} if process.exitcode else {}


# -- a program under a launcher's environment -------------------------------------------------------------------------


@dataclass(slots=True)
class Launched:
    """Ranks that run a program as torchrun would start them."""

    processes: list[BaseProcess]

    def kill_one(self) -> None:
        """Kill the last rank, and then the others, which have lost it."""
        self.processes[-1].kill()
        self.stop()

    def stop(self) -> None:
        _kill(self.processes)

    def wait(self, limit_s: float) -> None:
        """Raises CheckFailed where a rank fails or is not done in time."""
        _join(self.processes, limit_s)
        codes = [process.exitcode for process in self.processes]
        self.stop()
        if any(codes):
            raise CheckFailed(f"des_ref.train ended with exit codes {codes}")
        if None in codes:
            raise CheckTimedOut(f"des_ref.train was not done after {limit_s:.0f} s")


def launch(main: Callable[[Sequence[str]], int], arguments: Sequence[str], ranks: int, log: Path) -> Launched:
    """Start `main(arguments)`, a module-level function, on every rank; what it prints goes to `log`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = forking_context(_PARENT)
    processes = [
        context.Process(target=_launched, args=(main, list(arguments), rank, ranks, port, log)) for rank in range(ranks)
    ]
    for process in processes:
        process.start()
    return Launched(list(processes))


def _launched(
    main: Callable[[Sequence[str]], int], arguments: list[str], rank: int, ranks: int, port: int, log: Path
) -> None:
    own = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": ranks, "MASTER_PORT": port}
    os.environ |= {name: str(value) for name, value in own.items()} | {"MASTER_ADDR": "127.0.0.1"}
    _redirect(log, 1, 2)
    leave(run("des_ref.train", lambda: main(arguments)))
