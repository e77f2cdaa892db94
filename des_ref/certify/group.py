"""Processes of the certificate: one group for each number of ranks, which runs its cases one after another.

Starting a process and importing torch takes seconds, a small case tenths of one. When a rank dies, the others of its
group are ended, the case that was running is reported as dead, and a new group goes on with the next one.
"""

from __future__ import annotations

import json
import multiprocessing
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import torch

from des_ref.certify import stale
from des_ref.certify.case import SEED, Case, State, batches, compare, expected
from des_ref.cli import leave, say
from des_ref.comm import Comm, open_comm
from dessim.errors import SimulationError
from dessim.trace.schema import PREFETCH
from dessim.workload.strategies import spec_of

_PROGRESS = 10.0  # seconds between two lines


def certify(case: Case) -> dict[str, Any]:
    """Run one case in processes of its own; its part of the JSON object. Raises SimulationError if a rank dies."""
    (result,) = certify_all([case])
    if "error" in result:
        raise SimulationError(f"{case.label}: {result['error']}")
    return result


def _processes(case: Case) -> tuple[int, bool]:
    """Cases that may run in the same processes: ranks, and whether there are servers beside them."""
    return case.ranks, not spec_of(case.strategy).synchronous


def certify_all(cases: Sequence[Case]) -> list[dict[str, Any]]:
    """Results of the cases, in their order; `error` instead of figures where a rank died."""
    results: list[dict[str, Any]] = []
    for (ranks, is_async), alike in groupby(
        cases, key=lambda case: (case.ranks, not spec_of(case.strategy).synchronous)
    ):
        waiting = list(alike)
        processes = ranks + (stale.SERVERS if is_async else 0)
        while waiting:
            found, codes = _spawn(waiting, processes, (len(results), len(cases)))
            if len(found) < len(waiting):
                found.append({"ranks": ranks, "error": f"a rank died (exit codes {codes}); see above"})
            results += [named(case, result) for case, result in zip(waiting, found, strict=False)]
            waiting = waiting[len(found) :]
    return results


def named(case: Case, result: dict[str, Any]) -> dict[str, Any]:
    """The result with what was run in front."""
    what = {key: getattr(case, key) for key in ("model", "placement", "strategy", "optimizer")}
    return {"case": case.label} | what | result


def _spawn(cases: list[Case], processes: int, so_far: tuple[int, int]) -> tuple[list[dict[str, Any]], list[int | None]]:
    """Run cases in so many processes: results until the end or until a rank died, and exit codes."""
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as scratch:
        meeting, answers = Path(scratch) / "meeting", Path(scratch) / "answers.jsonl"
        ranks = [
            context.Process(target=_rank_main, args=(cases, (meeting, rank, processes), answers, so_far), daemon=True)
            for rank in range(processes)
        ]
        for process in ranks:
            process.start()
        try:
            running = {process.sentinel: process for process in ranks}
            while running and not any(process.exitcode for process in ranks):
                for sentinel in wait(list(running)):
                    running.pop(sentinel).join()  # type: ignore[call-overload]
        finally:
            for process in ranks:
                process.kill()
        lines = answers.read_text("utf-8").splitlines() if answers.is_file() else []
        return [json.loads(line) for line in lines], [process.exitcode for process in ranks]


def _rank_main(cases: list[Case], rendezvous: tuple[Path, int, int], answers: Path, so_far: tuple[int, int]) -> None:
    torch.set_num_threads(1)
    if cases[0].sabotage is not None:
        cases[0].sabotage()
    runner = _asynchronous if not spec_of(cases[0].strategy).synchronous else _synchronous
    done, total = so_far
    with open_comm(cases[0].device, rendezvous) as comm:
        run, told = runner(comm, len(cases) > 1), time.monotonic()
        for i, case in enumerate(cases):
            started = time.monotonic()
            result = run(case)
            if comm.rank:
                continue
            with answers.open("a", encoding="utf-8") as file:
                file.write(json.dumps(result | {"seconds": round(time.monotonic() - started, 3)}) + "\n")
            if time.monotonic() - told > _PROGRESS:
                say(f"{done + i + 1} of {total} cases, last {case.label}")
                told = time.monotonic()
    leave(0)


def _synchronous(comm: Comm, many: bool) -> Callable[[Case], dict[str, Any]]:
    """Runs cases of strategies that are exact. `many`: consecutive ones that only differ by strategy share what one
    process has after each step."""
    prefetch = comm.beside(PREFETCH)
    known: dict[tuple[Any, ...], list[State]] = {}

    def run(case: Case) -> dict[str, Any]:
        model = case.load()
        wholes = batches(case, model, comm)
        truth: Iterator[State] = expected(case, model, wholes)
        if many and comm.rank == 0:
            key = (model.model_dump_json(), repr(case.optimizers()), case.steps)
            if key not in known:
                known.clear()
                known[key] = list(truth)
            truth = iter(known[key])
        return compare(case, model, comm, prefetch, wholes, truth)

    return run


def _asynchronous(everyone: Comm, many: bool) -> Callable[[Case], dict[str, Any]]:
    """Runs cases of ps_async; the last process serves, and its results are empty."""
    comm = everyone.apart(stale.SERVERS, stale.PATIENCE)

    def run(case: Case) -> dict[str, Any]:
        model = case.load()
        wholes = batches(case, model, comm)
        return stale.measure(comm, model, case.optimizers(), SEED, wholes, case.staleness) or {}

    return run
