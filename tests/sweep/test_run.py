"""Sweeps: the same bytes however they run, resumed after kills and full disks; failures are tried again."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
from pathlib import Path

import pytest

from dessim.errors import DessimError, UsageError
from dessim.locks import _started
from dessim.sweep import journal as journal_module
from dessim.sweep.journal import FAILED, Journal, journal_file, read_journals
from dessim.sweep.run import Done, plan_sweep, run_sweep
from dessim.sweep.simulate import Simulator, failure
from tests.sweep.small import TABLES, journalled, tables, write_study

CASES = 24
Alone = tuple[Path, dict[str, bytes]]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Alone:
    """The study, and the tables of a sweep in one process."""
    folder = tmp_path_factory.mktemp("alone")
    study = write_study(folder)
    done = run_sweep(plan_sweep(study, folder / "out"))
    assert (done.counts, done.missing, done.failed) == ({"ok": CASES}, 0, ())
    assert [file.name for file in done.files if file.suffix != ".parquet"] == ["results.csv", "ops.csv", "sweep.json"]
    return study, tables(folder / "out")


@pytest.fixture
def remembered(alone: Alone, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let simulators give the outcomes of the first sweep, for tests of what is done with outcomes."""
    outcomes = read_journals(alone[0].parent / "out")
    monkeypatch.setattr(Simulator, "outcome", lambda self, case: outcomes[case.key])


def go_on(alone: Alone, folder: Path, left: int) -> Done:
    """Run the sweep again, which has `left` cases to simulate, and require the same tables."""
    study, wanted = alone
    plan = plan_sweep(study, folder)
    assert len(plan.left) == left
    done = run_sweep(plan)
    assert tables(folder) == wanted
    assert len(journalled(folder)) == len(read_journals(folder)) == CASES
    assert not list(folder.rglob("*.lock"))
    return done


def test_rows_follow_the_grid(alone: Alone) -> None:
    head, *rows = alone[1]["results.csv"].decode().splitlines()
    assert head.startswith("model,cluster,what_if,strategy,gpus,batch_per_gpu,batch,status,step_time_s,")
    assert [row.split(",")[:7] for row in rows[:2]] == [
        ["lr", "one-switch_16", "none", "des_all_reduce", "2", "12", "24"],
        ["lr", "one-switch_16", "none", "des_all_reduce", "3", "8", "24"],
    ]
    assert [row.split(",")[1] for row in rows] == ["one-switch_16"] * 12 + ["lab"] * 12


def test_three_shards_give_the_same_bytes(alone: Alone, tmp_path: Path) -> None:
    study, wanted = alone
    for number in (1, 2, 3):
        plan = plan_sweep(study, tmp_path, (number, 3))
        assert len(plan.left) == 8
        done = run_sweep(plan)
        assert bool(done.files) == (number == 3) and bool(tables(tmp_path)) == (number == 3)
    assert tables(tmp_path) == wanted
    assert len(journalled(tmp_path)) == CASES
    with pytest.raises(UsageError, match="write I/N"):
        plan_sweep(study, tmp_path, (4, 3))


def test_processes_give_the_same_bytes_although_one_is_killed(alone: Alone, tmp_path: Path) -> None:
    study, wanted = alone
    killed = []

    def kill_one(key: str, outcome: object) -> None:
        if not killed:
            killed.append(multiprocessing.active_children()[0])
            killed[0].kill()

    done = run_sweep(plan_sweep(study, tmp_path), jobs=2, on_case=kill_one)
    assert killed and done.counts == {"ok": CASES} and tables(tmp_path) == wanted
    assert len(journalled(tmp_path)) == CASES
    assert multiprocessing.active_children() == []


def test_dask_gives_the_same_bytes(alone: Alone, tmp_path: Path) -> None:
    distributed = pytest.importorskip("distributed")
    study, wanted = alone
    with distributed.LocalCluster(
        n_workers=1, threads_per_worker=1, processes=False, dashboard_address=":0"
    ) as cluster:
        done = run_sweep(plan_sweep(study, tmp_path), dask=cluster.scheduler_address)
    assert done.counts == {"ok": CASES} and tables(tmp_path) == wanted
    assert len(journalled(tmp_path)) == CASES


@pytest.mark.usefixtures("remembered")
def test_an_interrupted_sweep_goes_on_after_a_torn_line(alone: Alone, tmp_path: Path) -> None:
    done: list[str] = []

    def stop(key: str, outcome: object) -> None:
        done.append(key)
        if len(done) == 15:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_sweep(plan_sweep(alone[0], tmp_path), on_case=stop)
    assert tables(tmp_path) == {}
    file = journal_file(tmp_path, 1, 1)
    whole = file.read_bytes()
    lines = whole.splitlines(True)
    # A kill tears the last line; a loss of power may leave zeros in place of one.
    file.write_bytes(b"".join(lines[:13]) + b"\0" * 80 + b"\n" + lines[13] + lines[14][:-30])
    plan = plan_sweep(alone[0], tmp_path)
    assert len(plan.left) == CASES - 14
    assert run_sweep(plan).counts == {"ok": CASES} and tables(tmp_path) == alone[1]


@pytest.mark.usefixtures("remembered")
def test_a_full_disk_keeps_what_was_done(alone: Alone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = []

    def write(handle: int, text: bytes) -> int:
        written.append(text)
        if len(written) == 12:
            os.write(handle, text[: len(text) // 2])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return os.write(handle, text)

    with monkeypatch.context() as patched:
        patched.setattr(journal_module, "os", _With(os, write=write))
        with pytest.raises(DessimError, match=r"1-of-1.jsonl: No space left.*run the same command again"):
            run_sweep(plan_sweep(alone[0], tmp_path))
    assert len(journalled(tmp_path)) == 11 and journal_file(tmp_path, 1, 1).read_bytes().endswith(b"\n")
    go_on(alone, tmp_path, CASES - 11)


class _With:
    """A module with some of its functions replaced."""

    def __init__(self, module: object, **replaced: object) -> None:
        self._module = module
        self.__dict__.update(replaced)

    def __getattr__(self, name: str) -> object:
        return getattr(self._module, name)


@pytest.mark.usefixtures("remembered")
def test_failures_are_tried_once_more_and_listed(alone: Alone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_sweep(alone[0], tmp_path)
    once, always = plan.cases[3].key, plan.cases[7].key
    tried: list[str] = []
    simulate = Simulator.outcome

    def outcome(self, case):
        tried.append(case.key)
        if case.key == always or (case.key == once and tried.count(once) == 1):
            return failure("the machine is on fire")
        return simulate(self, case)

    with monkeypatch.context() as patched:
        patched.setattr(Simulator, "outcome", outcome)
        done = run_sweep(plan)
    assert tried.count(once) == tried.count(always) == 2 and len(tried) == CASES + 2
    assert done.counts == {"ok": CASES - 1, FAILED: 1}
    ((point, reason),) = done.failed
    assert "gpus = " in point and reason == "the machine is on fire"
    assert b"failed,,,,,,,,,,,,,,,,,,,,,the machine is on fire" in tables(tmp_path)["results.csv"]
    again = plan_sweep(alone[0], tmp_path)
    assert [case.key for case in again.left] == [always]
    run_sweep(again)
    assert tables(tmp_path) == alone[1]


def test_a_second_writer_of_a_shard_is_refused(alone: Alone, tmp_path: Path) -> None:
    file = journal_file(tmp_path, 1, 1)
    file.parent.mkdir()
    parent = os.getppid()
    holder = {"pid": parent, "host": os.uname().nodename, "started": _started(parent), "run": ""}
    file.with_suffix(".lock").write_text(json.dumps(holder))
    with pytest.raises(UsageError, match=f"process {parent} on .* is writing it"):
        run_sweep(plan_sweep(alone[0], tmp_path))
    with Journal(journal_file(tmp_path, 1, 3)):
        pass  # another shard is free


def test_inputs_that_change_while_a_sweep_runs_fail_its_cases(tmp_path: Path) -> None:
    from dessim.sweep.cases import Case

    study = write_study(tmp_path)
    case = plan_sweep(study, tmp_path / "out").cases[0]
    outcome = Simulator().outcome(Case("another", case.settings))
    assert outcome["status"] == FAILED and "differ from those that the sweep began with" in outcome["reason"]


def test_all_tables_are_compared(alone: Alone) -> None:
    pytest.importorskip("pyarrow")
    assert set(alone[1]) == set(TABLES)
