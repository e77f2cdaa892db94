"""Runs the cases of a certificate: one group of processes for each number of ranks takes its cases one after another.

A small case takes tenths of a second, so ranks are forked from a process that has imported everything. When a rank
dies, the other ranks of its group are killed, the case that was running is reported as failed, and a new group
continues with the next case.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch

from des_ref.certify import stale
from des_ref.certify.case import SEED, Case, batches
from des_ref.certify.compare import State, compare, reference_states
from des_ref.cli import say
from des_ref.comm import Comm, open_comm
from des_ref.data.batch import Batch
from des_ref.forked import forking_context
from dessim.errors import SimulationError
from dessim.processes import leave
from dessim.trace.schema import PREFETCH

_PROGRESS_INTERVAL_S = 10.0

T = TypeVar("T")
RunCase = Callable[[Case], dict[str, Any]]


@dataclass(frozen=True, slots=True)
class _Rendezvous:
    """How the processes of a group find each other, and where rank 0 writes the results, a JSON line per case."""

    store: Path
    results: Path
    processes: int


@dataclass(frozen=True, slots=True)
class _Count:
    """For progress lines: cases finished before this group started, and cases of the whole certificate."""

    finished: int
    total: int


def certify(case: Case) -> dict[str, Any]:
    """Run one case in a new group of processes; its part of the JSON object. Raises SimulationError if a rank dies."""
    (result,) = certify_all([case])
    if "error" in result:
        raise SimulationError(f"{case.label}: {result['error']}")
    return result


def _processes(case: Case) -> tuple[int, bool]:
    """Ranks, and whether server processes are needed: cases with the same pair can run in the same processes."""
    return case.ranks, not case.is_synchronous


def certify_all(cases: Sequence[Case]) -> list[dict[str, Any]]:
    """Results of the cases, in their order. A case in which a rank died has `error` instead of figures."""
    results: list[dict[str, Any]] = []
    for (ranks, is_async), group in groupby(cases, key=_processes):
        remaining = list(group)
        processes = ranks + (stale.SERVERS if is_async else 0)
        while remaining:
            finished, exit_codes = _spawn(remaining, processes, _Count(len(results), len(cases)))
            if len(finished) < len(remaining):
                finished.append({"ranks": ranks, "error": f"a rank died (exit codes {exit_codes}); see above"})
            results += [_named(case, result) for case, result in zip(remaining, finished, strict=False)]
            remaining = remaining[len(finished) :]
    return results


def _named(case: Case, result: dict[str, Any]) -> dict[str, Any]:
    """`result` with the choices that make up the case in front."""
    choices = {key: getattr(case, key) for key in ("model", "placement", "pooling", "strategy", "optimizer")}
    return {"case": case.label} | choices | result


def _spawn(cases: list[Case], processes: int, count: _Count) -> tuple[list[dict[str, Any]], list[int | None]]:
    """Run cases in a new group until all are done or a rank dies. Returns their results, and the exit codes."""
    context = forking_context(__name__)
    with tempfile.TemporaryDirectory() as scratch:
        rendezvous = _Rendezvous(Path(scratch) / "store", Path(scratch) / "results.jsonl", processes)
        ranks = [
            context.Process(target=_rank_main, args=(cases, rank, rendezvous, count), daemon=True)
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
        lines = rendezvous.results.read_text("utf-8").splitlines() if rendezvous.results.is_file() else []
        return [json.loads(line) for line in lines], [process.exitcode for process in ranks]


def _rank_main(cases: list[Case], rank: int, rendezvous: _Rendezvous, count: _Count) -> None:
    torch.set_num_threads(1)
    if cases[0].sabotage is not None:
        cases[0].sabotage()
    make_runner = synchronous_runner if cases[0].is_synchronous else _asynchronous
    servers = rendezvous.processes - cases[0].ranks
    with open_comm(cases[0].device, (rendezvous.store, rank, rendezvous.processes), servers=servers) as comm:
        run = make_runner(comm, len(cases) > 1)
        reported_at = time.monotonic()
        for i, case in enumerate(cases):
            started_at = time.monotonic()
            result = run(case)
            if comm.rank:
                continue
            with rendezvous.results.open("a", encoding="utf-8") as file:
                file.write(json.dumps(result | {"seconds": round(time.monotonic() - started_at, 3)}) + "\n")
            if time.monotonic() - reported_at > _PROGRESS_INTERVAL_S:
                say(f"{count.finished + i + 1} of {count.total} cases finished, the last one {case.label}")
                reported_at = time.monotonic()
    leave(0)


class _Last(Generic[T]):
    """The value of the last key asked for."""

    def __init__(self) -> None:
        self._key: tuple[Any, ...] | None = None
        self._value: T

    def of(self, key: tuple[Any, ...], make: Callable[[], T]) -> T:
        """The value of `key`: the stored one if `key` is the last key, else a new one from `make`."""
        if key != self._key:
            self._value = make()
            self._key = key
        return self._value


def synchronous_runner(comm: Comm, has_several: bool) -> RunCase:
    """A function that runs a case of an exact strategy.

    `has_several`: keep batches and reference states, which consecutive cases share if they differ by strategy only.
    """
    prefetch = comm.separate_group(PREFETCH)
    drawn: _Last[list[Batch]] = _Last()
    trained: _Last[list[State]] = _Last()

    def run(case: Case) -> dict[str, Any]:
        model = case.load()
        samples = (model.model_dump_json(), case.steps, case.small)
        global_batches = drawn.of(samples, partial(batches, case, model, comm))
        truth: Iterable[State] = reference_states(case, model, global_batches)
        if has_several and comm.rank == 0:
            truth = trained.of((*samples, repr(case.optimizers()), case.owners_columns), partial(list, truth))
        return compare(case, model, comm, prefetch=prefetch, batches=global_batches, truth=truth)

    return run


def _asynchronous(world: Comm, has_several: bool) -> RunCase:
    """A function that runs a case of ps_async. The last processes are servers; their results are empty."""
    comm = world.with_servers(stale.SERVERS, stale.TIMEOUT_S)

    def run(case: Case) -> dict[str, Any]:
        model = case.load()
        global_batches = batches(case, model, comm)
        optimizers = case.optimizers()
        measured = stale.measure(comm, model, optimizers, seed=SEED, batches=global_batches, staleness=case.staleness)
        return measured or {}

    return run
