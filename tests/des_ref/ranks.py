"""Runs a function on several processes that form a gloo group."""

from __future__ import annotations

import json
import multiprocessing
import os
from collections.abc import Callable
from importlib import import_module
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Any

import torch

from des_ref.comm import Comm, open_comm
from des_ref.forked import forking_context
from dessim.processes import leave


def on_ranks(
    ranks: int, folder: Path, work: Callable[[Comm], Any], limit_s: float = 240, imported: str = ""
) -> list[Any]:
    """The results of `work`, a module-level function, on each rank; exchanged as JSON files in an empty `folder`.

    `imported`: a module that takes long to import. One process imports it and forks all ranks.
    """
    if imported:
        importing = forking_context().Process(target=_import_and_fork, args=(imported, ranks, folder, work, limit_s))
        importing.start()
        importing.join()
    else:
        _run(forking_context(), ranks, folder, work, limit_s)
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(ranks)]


def _import_and_fork(module: str, ranks: int, folder: Path, work: Callable[[Comm], Any], limit_s: float) -> None:
    import_module(module)
    _run(multiprocessing.get_context("fork"), ranks, folder, work, limit_s)
    leave(0)


def _run(context: BaseContext, ranks: int, folder: Path, work: Callable[[Comm], Any], limit_s: float) -> None:
    processes = [context.Process(target=_rank, args=(rank, ranks, folder, work)) for rank in range(ranks)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(limit_s)
        process.kill()


def stderr_to(file: Path) -> None:
    """Append what this process and its libraries write to stderr to `file`; several ranks may share it."""
    os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)


def _rank(rank: int, ranks: int, folder: Path, work: Callable[[Comm], Any]) -> None:
    torch.set_num_threads(1)
    with open_comm("cpu", (folder / "rendezvous", rank, ranks)) as comm:
        (folder / f"{rank}.json").write_text(json.dumps(work(comm)))
        comm.barrier()
    leave(0)
