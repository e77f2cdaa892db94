"""Processes of tests that need torch: forked from one that has imported it, because importing it takes seconds.

There is one such process per test worker, with the modules that any test needs (tests/conftest.py starts it).
"""

from __future__ import annotations

import os
import runpy
import socket
import sys
from collections.abc import Mapping, Sequence
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext
from pathlib import Path
from subprocess import CompletedProcess
from tempfile import TemporaryDirectory
from typing import Any

_LIMIT_S = 240.0
# No program: Python warns where a process runs one as its program that is imported already.
_IMPORTED = (
    "des_ref.bench_cases",
    "des_ref.certify.program",
    "des_ref.checkpoint.resume",
    "des_ref.stream.run",
    "des_ref.train_flags",
    "des_ref.training.samples",
    "dessim.sweep.local",
    "hypothesis",
    "pytest",
    "torch.distributed.checkpoint",
    "tests.frozen",
)
_TORCHRUN = ["-m", "torch.distributed.run", "--standalone"]


def forked_from_everything() -> ForkServerContext:
    """The context of processes that have imported torch, the trainer and pytest already; the first call starts them."""
    from des_ref.forked import forking_context

    context = forking_context(*_IMPORTED, first=["tests.importing"])
    forkserver.ensure_running()
    return context


def run_forked(command: Sequence[str], cwd: Path | None = None, input: str = "", **_: Any) -> CompletedProcess[str]:
    """Stand in for subprocess.run, with text, of `python -m MODULE ...` or of torchrun with `--nproc-per-node=N`.

    Each process reads `input`, of 64 KiB at most, from a pipe.
    """
    words, environments = list(command[1:]), [dict[str, str]()]
    if words[: len(_TORCHRUN)] == _TORCHRUN:
        ranks, *words = words[len(_TORCHRUN) :]
        environments = launch_environments(int(ranks.removeprefix("--nproc-per-node=")))
    with TemporaryDirectory() as folder:
        outputs = [(Path(folder, f"{rank}.out"), Path(folder, f"{rank}.err")) for rank in range(len(environments))]
        context, where = forked_from_everything(), cwd or Path.cwd()
        processes = [
            context.Process(target=_run, args=(words, where, environment, input, *output))
            for environment, output in zip(environments, outputs, strict=True)
        ]
        for process in processes:
            process.start()
        for process in processes:
            process.join(_LIMIT_S)
            process.kill()
            process.join()
        printed, said = ("".join(path.read_text() for path in paths) for paths in zip(*outputs, strict=True))
    code = next((process.exitcode for process in processes if process.exitcode), 0)
    return CompletedProcess(command, code, printed, said)


def launch_environments(ranks: int) -> list[dict[str, str]]:
    """The environments that torchrun gives to its ranks."""
    common = {"WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": ranks, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    own = [common | {"OMP_NUM_THREADS": 1, "RANK": rank, "LOCAL_RANK": rank} for rank in range(ranks)]
    return [{key: str(value) for key, value in environment.items()} for environment in own]


def free_port() -> int:
    """A port of this machine at which no program listens."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


def _run(
    words: Sequence[str], folder: Path, environment: Mapping[str, str], typed: str, printed: Path, said: Path
) -> None:
    """Run a module (`-m`) or a file as the program, with its arguments."""
    reads, writes = os.pipe()
    assert os.write(writes, typed.encode()) == len(typed.encode())
    os.close(writes)
    os.dup2(reads, 0)
    sys.stdin = os.fdopen(0, closefd=False)
    for stream, path in ((1, printed), (2, said)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), stream)
    os.environ.update(environment)
    os.chdir(folder)
    if words[0] == "-m":
        sys.argv = list(words[1:])
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = list(words)
        sys.path.insert(0, str(Path(words[0]).parent))
        runpy.run_path(words[0], run_name="__main__")
