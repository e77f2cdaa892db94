"""A sweep: the cases that no journal has yet are simulated and journalled; complete results become tables.

Nothing but the journals decides what is left, so a sweep that was interrupted, or whose grid has grown, continues when
it is run again, in one shard or several, on one machine or many.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dessim.errors import DessimError, UsageError
from dessim.sim.progress import Progress
from dessim.sweep.cases import Case, Row, resolve, shard_of, without
from dessim.sweep.grid import Study, read_study
from dessim.sweep.journal import FAILED, Journal, Outcome, journal_file, read_journals
from dessim.sweep.local import in_processes
from dessim.sweep.on_dask import on_dask
from dessim.sweep.tables import listed_rows, write_results

Runner = Callable[[Sequence[Case]], Generator[tuple[str, Outcome]]]
"""Simulates cases, and gives their outcomes by key as they arrive."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A study whose inputs have been checked: its rows, its different cases, and those of them that are left.

    `left` are those of shard `shard` = (number, of), of which no journal in `folder` has a result. `others` is the
    number of cases without a result that belong to other shards.
    """

    study: Study
    rows: Sequence[Row]
    cases: Sequence[Case]
    folder: Path
    shard: tuple[int, int]
    left: Sequence[Case]
    others: int


@dataclass(frozen=True, slots=True)
class Done:
    """The result of a sweep: how many cases have which status, how many have no result yet, and the files written.

    `failed` are the cases that failed twice, and why.
    """

    counts: dict[str, int]
    missing: int
    files: tuple[Path, ...]
    failed: tuple[tuple[str, str], ...]


def sweep_rows(study: Study, jobs: int = 1) -> list[dict[str, Any]]:
    """The rows of a study, simulated in `jobs` processes and kept nowhere. Raises DessimError if one fails."""
    rows, cases = resolve(study)
    outcomes = dict(in_processes(cases, jobs))
    listed = list(listed_rows(study, rows, outcomes))
    for row, outcome in zip(rows, listed, strict=True):
        if outcome["status"] == FAILED:
            raise DessimError(f"{row.point}: {outcome['reason']}")
    return listed


def plan_sweep(study: Path, folder: Path, shard: tuple[int, int] = (1, 1)) -> Plan:
    """Read a study, check all its inputs, and find what is left to simulate. Raises FileError, UsageError."""
    number, of = shard
    if not 1 <= number <= of:
        raise UsageError(f"--shard {number}/{of}: write I/N with I from 1 to N, such as 1/3")
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"--out/-o {str(folder)!r}: name a folder")
    read = read_study(study)
    rows, cases = resolve(read)
    known = {key: outcome for key, outcome in read_journals(folder).items() if outcome["status"] != FAILED}
    left = without(shard_of(cases, number, of), known)
    return Plan(
        study=read,
        rows=rows,
        cases=cases,
        folder=folder,
        shard=shard,
        left=left,
        others=len(without(cases, known)) - len(left),
    )


def run_sweep(
    plan: Plan,
    jobs: int = 1,
    dask: str | None = None,
    progress: Progress | None = None,
    on_case: Callable[[str, Outcome], None] | None = None,
) -> Done:
    """Simulate what is left, in `jobs` processes or on the Dask cluster at `dask`; then write what is complete.

    A case that fails is tried once more at the end. `on_case` hears of each case that is journalled.
    Raises UsageError if another process writes the same shard, OutOfTime, and DessimError for a full disk.
    """
    if plan.left:

        def runner(cases: Sequence[Case]) -> Generator[tuple[str, Outcome]]:
            return on_dask(cases, dask) if dask is not None else in_processes(cases, jobs)

        with Journal(journal_file(plan.folder, *plan.shard)) as journal:
            _simulate(plan.left, runner, journal, progress or Progress(), on_case or (lambda key, outcome: None))
    return conclude(plan)


def _simulate(
    cases: Sequence[Case],
    runner: Runner,
    journal: Journal,
    progress: Progress,
    on_case: Callable[[str, Outcome], None],
) -> None:
    failed: list[Case] = []
    by_key = {case.key: case for case in cases}
    done = 0
    for again in (False, True):
        # Closing a runner ends its processes, also when this loop is interrupted.
        with closing(runner(failed if again else cases)) as outcomes:
            for key, outcome in outcomes:
                if outcome["status"] == FAILED and not again:
                    failed.append(by_key[key])
                    continue
                journal.append([(key, outcome)])
                on_case(key, outcome)
                done += 1
                progress.tick(done, len(cases), "cases")
        if not failed:
            return


def conclude(plan: Plan) -> Done:
    """Count what the journals of the folder have, and write the tables if no case is missing."""
    journaled = read_journals(plan.folder)
    outcomes = {case.key: journaled[case.key] for case in plan.cases if case.key in journaled}
    counts: dict[str, int] = {}
    for outcome in outcomes.values():
        counts[outcome["status"]] = counts.get(outcome["status"], 0) + 1
    points = {row.key: str(row.point) for row in reversed(plan.rows)}
    failed = [(points[key], o["reason"]) for key, o in outcomes.items() if o["status"] == FAILED]
    missing = len(plan.cases) - len(outcomes)
    files = () if missing else write_results(plan.folder, plan.study, plan.rows, outcomes)
    return Done(counts, missing, files, tuple(failed))
