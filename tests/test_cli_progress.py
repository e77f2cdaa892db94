"""Long runs on the command line: `--time-budget`, partial results, and the progress bar."""

from __future__ import annotations

import io
import itertools
import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from dessim.cli.progress import showing_progress
from dessim.cluster import load_cluster
from dessim.commands.collective import run_collective
from dessim.commands.replay import replay
from dessim.errors import OutOfTime, UsageError
from dessim.sim.progress import Progress
from dessim.trace.io import load_trace
from dessim.trace.schema import Collective
from dessim.workload.model import load_model
from dessim.workload.scale import Job
from tests.projecting import project
from tests.test_cli import PROJECT, RAIL, refused, run, small_trace

UNEVEN = (Collective.ALL_TO_ALL, 16, 16e6, "direct")


def clock(step: float = 1.0) -> Callable[[], float]:
    """A clock that advances by `step` seconds each time it is read."""
    ticks = itertools.count()
    return lambda: step * next(ticks)


@pytest.mark.parametrize("text", ["30", "soon", "-1s", "5 GB"])
def test_a_budget_that_is_not_a_time_is_refused(text: str) -> None:
    where = ("--cluster", "one-switch_16", "--gpus", "4", "--size", "1MiB")
    refused(2, f"--time-budget {text!r}: write a time such as", "collective", "reduce", *where, "--time-budget", text)


def commands(folder: Path) -> dict[str, tuple[str, ...]]:
    return {
        "replay": ("replay", str(small_trace(folder)), "--cluster", "one-switch_16"),
        "project": (*PROJECT, "--gpus", "8,16"),
        "collective": ("collective", "all_reduce", "--cluster", RAIL, "--gpus", "16", "--size", "1MiB"),
    }


@pytest.mark.parametrize("verb", ["replay", "project", "collective"])
def test_a_spent_budget_gives_a_partial_result_and_one_line(verb: str, tmp_path: Path) -> None:
    command = commands(tmp_path)[verb]
    code, out, err = run(*command, "--json", "--time-budget", "0s")
    result = json.loads(out)
    assert (code, result["partial"], result["so_far"]["share_done"]) == (1, True, 0.0)
    assert result["schema_version"] == 1 and result["cluster"]
    assert err.startswith("dessim: time budget of 0 s spent with 0.0% done")
    assert "raise --time-budget, or " in err and len(err.strip().splitlines()) == 1
    code, out, err = run(*command, "--time-budget", "0s")
    assert code == 1 and out.startswith("partial result") and "0.0% done" in out
    if verb == "replay":
        assert {"simulated_s", "steps_done", "steps"} <= set(result["so_far"])
    if verb == "project":
        assert (result["so_far"]["projections_done"], result["so_far"]["projections"]) == (0, 2)


@pytest.mark.parametrize("verb", ["replay", "project", "collective"])
def test_a_sufficient_budget_changes_nothing(verb: str, tmp_path: Path) -> None:
    command = (*commands(tmp_path)[verb], "--json")
    cost = {"wall_s", "peak_rss_MiB"}
    plain, watched = (json.loads(run(*command, *more)[1]) for more in ((), ("--time-budget", "1h")))
    assert plain["partial"] is False
    assert {k: v for k, v in plain.items() if k not in cost} == {k: v for k, v in watched.items() if k not in cost}


def test_a_partial_run_leaves_files_unchanged(tmp_path: Path) -> None:
    csv, timeline = tmp_path / "rows.csv", tmp_path / "t.json.gz"
    csv.write_text("earlier")
    code, _, err = run(*PROJECT, "--gpus", "8", "--csv", str(csv), "--time-budget", "0s")
    assert code == 1 and f"not written: {csv}" in err and csv.read_text() == "earlier"
    code, _, err = run(*commands(tmp_path)["replay"], "--timeline", str(timeline), "--time-budget", "0s")
    assert code == 1 and f"not written: {timeline}" in err and not timeline.exists()


def test_rows_finished_before_the_cut_are_kept() -> None:
    job, cluster = Job.of_model(load_model("deepfm")), load_cluster(RAIL)
    whole = project(job, cluster, ["des_all_reduce", "table_wise"], [8])
    looks = itertools.count()
    counted = Progress(clock=lambda: float(next(looks)))
    project(job, cluster, ["des_all_reduce"], [8], progress=counted)
    rows = []
    # The budget lasts for the first row and a little of the second.
    progress = Progress(budget_s=next(looks) + 2.0, clock=clock())
    with pytest.raises(OutOfTime) as cut:
        project(job, cluster, ["des_all_reduce", "table_wise"], [8], progress=progress, on_row=rows.append)
    assert [row.to_json() for row in rows] == [whole[0].to_json()]
    assert (cut.value.so_far["projections_done"], cut.value.so_far["projections"]) == (1, 2)
    assert 0.5 <= cut.value.so_far["share_done"] < 1


def test_a_replay_that_is_cut_counts_its_steps(tmp_path: Path) -> None:
    trace, cluster = load_trace(small_trace(tmp_path)), load_cluster("one-switch_16")
    looks = itertools.count()
    replay(trace, cluster, progress=Progress(clock=lambda: float(next(looks))))
    with pytest.raises(OutOfTime) as cut:
        replay(trace, cluster, progress=Progress(budget_s=0.7 * next(looks), clock=clock()))
    so_far = cut.value.so_far
    steps = len(trace.header.recorded_steps)
    recorded = sum(op.collective is not None for op in trace.ranks[0])
    assert (so_far["steps"], so_far["collectives"]) == (steps, recorded + steps), "a step starts with a barrier"
    assert 0 < so_far["steps_done"] < so_far["steps"] and 0 < so_far["collectives_done"] < so_far["collectives"]
    assert so_far["collectives_done"] / so_far["collectives"] <= so_far["share_done"] < 1
    assert 0 < so_far["simulated_s"] < replay(trace, cluster).record.end


def test_an_uneven_exchange_reports_and_stops_while_it_drains() -> None:
    cluster = load_cluster("one-switch_16")
    reports: list[tuple[float, str]] = []
    progress = Progress(report=lambda share, text: reports.append((share, text)), clock=clock())
    watched = run_collective(cluster, *UNEVEN, uneven=1, progress=progress)
    assert watched.time_s == run_collective(cluster, *UNEVEN, uneven=1).time_s
    shares = [share for share, text in reports if text.endswith(" flows")]
    assert len(shares) > 200 and shares == sorted(shares) and shares[0] < 0.05 and shares[-1] > 0.95
    with pytest.raises(OutOfTime) as cut:
        run_collective(cluster, *UNEVEN, uneven=1, progress=Progress(budget_s=len(reports) / 2, clock=clock()))
    so_far = cut.value.so_far
    assert 0.3 < so_far["share_done"] < 0.7 and so_far["flows"] == 240 and 0 < so_far["flows_done"] < 240


class Terminal(io.StringIO):
    """A stderr that claims to be a terminal."""

    def isatty(self) -> bool:
        return True


def drawn(monkeypatch: pytest.MonkeyPatch, stderr: io.StringIO, looks: int) -> str:
    monkeypatch.setattr(sys, "stderr", stderr)
    monkeypatch.setenv("TERM", "xterm")
    with showing_progress("1h", clock(0.2)) as progress:
        for done in range(looks):
            progress.tick(done, looks, "flows")
    return stderr.getvalue()


def test_the_bar_is_drawn_only_on_a_terminal_and_only_in_long_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    text = drawn(monkeypatch, Terminal(), 20)
    assert "of 20 flows" in text and "left" in text and "%" in text
    assert drawn(monkeypatch, Terminal(), 1) == ""
    assert drawn(monkeypatch, io.StringIO(), 20) == ""


@pytest.mark.parametrize("width", [40, 60, 80, 200])
def test_the_bar_and_the_time_left_are_never_cut(monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    stderr = Terminal()
    monkeypatch.setattr(sys, "stderr", stderr)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", str(width))
    with showing_progress("1h", clock(0.2)) as progress:
        for done in range(20):
            progress.within(3, 8, "projections").within(1, 12, "stages_priced").tick(done, 20, "flows_in_flight")
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", stderr.getvalue())
    lines = [line for line in re.split(r"[\r\n]+", plain) if line.strip()]
    assert lines and max(map(len, lines)) <= width
    assert all(re.search(r"\d+% [-\d]+:[-\d]{2}:[-\d]{2} left", line) for line in lines)
    assert ("…" in plain) is (width < 200)


def test_on_a_real_terminal_stdout_holds_only_the_result() -> None:
    without_delay = "import dessim.cli.progress as w; w._DELAY_S = 0.0; from dessim.cli.app import main; main()"
    where = ("--cluster", "one-switch_16", "--gpus", "16", "--size", "1MiB", "--uneven", "1")
    master, slave = pty.openpty()
    done = subprocess.run(
        [sys.executable, "-c", without_delay, "collective", "all_to_all", *where, "--json"],
        stdout=subprocess.PIPE,
        stderr=slave,
        env={**os.environ, "TERM": "xterm"},
    )
    shown = os.read(master, 1 << 16).decode()
    os.close(slave)
    os.close(master)
    assert done.returncode == 0 and json.loads(done.stdout)["partial"] is False
    assert "%" in shown and "left" in shown and "Traceback" not in shown


def test_a_budget_that_is_not_a_time_starts_nothing() -> None:
    with pytest.raises(UsageError, match="--time-budget"), showing_progress("1"):
        raise AssertionError("never reached")
