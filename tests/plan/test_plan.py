"""`dessim plan`: ranked plans, their file, and one line for what cannot be planned."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from typer.testing import CliRunner

from dessim.cli.app import app
from dessim.errors import FileError
from dessim.plan.scales import Planned, PlanRequest, run_plan
from dessim.workload.composed import TablePlan
from dessim.workload.plan_file import JobPlan, read_plan, write_plan
from dessim.workload.scale import Job
from dessim.workload.torchrec_plan import EXPRESSIBLE
from tests.plan.small import BATCH, CLUSTER, TABLES, cluster, model_of, model_text

JOB = ("--gpus", "8", "--batch", "65536")


@pytest.fixture(scope="module")
def planned() -> Planned:
    request = PlanRequest(job=Job.of_model(model_of()), cluster=cluster(), gpus=[8, 16], batch=BATCH)
    return run_plan(request)


@pytest.fixture
def model_file(tmp_path: Path) -> Path:
    path = tmp_path / "small.toml"
    path.write_text(model_text())
    return path


def run(*args: str | Path) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, [str(arg) for arg in args])
    return result.exit_code, result.stdout, result.stderr


def test_plans_are_ranked_and_the_best_is_at_least_as_fast_as_each_strategy(planned: Planned) -> None:
    for scale in planned.scales:
        times = [candidate.row.breakdown.step_time_s for candidate in scale.plans.candidates]
        assert all(later >= earlier * (1 - 1e-8) for earlier, later in pairwise(times))
        alone = {c.row.strategy for c in scale.plans.candidates if not c.tables}
        assert {"row_wise", "des_all_reduce", "mesh"} <= alone
        assert min(scale.to_json()["leads"].values()) >= 0
        assert 0 <= scale.plans.gap <= 0.05
        for candidate in scale.plans.candidates:
            least = candidate.row.least
            assert least is not None and times[0] >= 0.999 * min(least.nic_s, least.gpu_s)


def test_the_estimate_of_the_best_plan_is_near_its_simulation(planned: Planned) -> None:
    for scale in planned.scales:
        best = next(c for c in scale.plans.candidates if c.estimate_s is not None)
        assert best.estimate_s == pytest.approx(best.row.breakdown.step_time_s, rel=0.3)


def test_a_request_gives_the_same_plan_again(planned: Planned) -> None:
    again = run_plan(PlanRequest(job=Job.of_model(model_of()), cluster=cluster(), gpus=[8], batch=BATCH))
    assert again.scales[0].to_json()["plans"] == planned.scales[0].to_json()["plans"]


def test_another_process_on_one_core_writes_the_same_bytes(tmp_path: Path) -> None:
    """Hashes of texts are seeded anew in each process, and HiGHS finds another number of processors."""
    model_file = tmp_path / "small.toml"
    model_file.write_text(model_text(TABLES[:3]))
    arguments = [
        "--model",
        str(model_file),
        "--cluster",
        CLUSTER,
        "--gpus",
        "8",
        "--batch",
        "65536",
        "--to",
        "torchrec",
    ]
    options = ["--without", "data_parallel,row_wise", "-o"]
    assert run("plan", *arguments, *options, tmp_path / "here.json")[0] == 0
    start = (
        "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); from dessim.cli.app import main; main()"
    )
    program = [sys.executable, "-c", start, "plan", *arguments, *options, str(tmp_path / "there.json")]
    subprocess.run(program, check=True, capture_output=True, env={**os.environ, "PYTHONHASHSEED": "7"})
    assert (tmp_path / "here.json").read_bytes() == (tmp_path / "there.json").read_bytes()


def test_no_table_has_a_strategy_that_is_left_out() -> None:
    request = PlanRequest(
        job=Job.of_model(model_of()),
        cluster=cluster(),
        gpus=[8],
        batch=BATCH,
        strategies=("table_wise", "row_wise"),
    )
    (scale,) = run_plan(request).scales
    alone = {candidate.row.strategy for candidate in scale.plans.candidates if not candidate.tables}
    assert not alone & {"row_all_to_all", "data_parallel"}
    mixed = [candidate.tables for candidate in scale.plans.candidates if candidate.tables]
    assert mixed and {table.strategy for tables in mixed for table in tables} <= {"table_wise", "row_wise"}
    assert all(len(table.ranks) <= 1 for tables in mixed for table in tables)


def test_a_plan_file_is_projected_to_the_planned_step(model_file: Path, tmp_path: Path) -> None:
    model_file.write_text(model_text(TABLES[:2]))
    out, prices = tmp_path / "job.plan.toml", tmp_path / "prices.toml"
    prices.write_text('schema_version = 1\nnode = "20 $/h"\nsource = "offer of 3 March"\n')
    figure = tmp_path / "front.svg"
    common = ("--model", model_file, "--cluster", CLUSTER)
    options = ("--gpus", "8..16", "--batch", "65536", "--target", "1 M samples/s", "--prices", prices)
    code, text, error = run("plan", *common, *options, "--json", "-o", out, "--figure", figure)
    assert code == 0, error
    result = json.loads(text)
    assert result["chosen_gpus"] == 8  # the fewest that reach it
    assert result["price_source"] == "offer of 3 March"
    chosen = result["scales"][0]
    assert 0.5 < result["target"]["probability"] <= 1  # the prediction is above the target
    assert chosen["dollars_per_h"] == 20 and result["scales"][1]["dollars_per_h"] == 40
    assert chosen["dollars_per_billion"] == pytest.approx(20 / 3600 * 1e9 / chosen["samples_per_s"])
    assert chosen["joules_per_billion"] == pytest.approx(8 * 700 * 1e9 / chosen["samples_per_s"])
    assert figure.read_text().startswith("<?xml") and "80 % interval" in figure.read_text()
    code, text, error = run("project", *common, "--plan", out, "--json")
    assert code == 0, error
    assert json.loads(text)["projection"][0]["step_time_s"] == pytest.approx(
        chosen["plans"][0]["step_time_s"], rel=1e-12
    )


def test_a_plan_for_torchrec_is_projected_and_compared_with(model_file: Path, tmp_path: Path) -> None:
    """It has only strategies that TorchRec has; without that limit a plan is found that is at least as fast."""
    model_file.write_text(model_text(TABLES[:3]))
    out = tmp_path / "plan.json"
    common = ("--model", model_file, "--cluster", CLUSTER)
    options = ("--gpus", "8", "--batch", "65536")
    code, text, error = run("plan", *common, *options, "--to", "torchrec", "-o", out, "--json")
    assert code == 0, error
    (scale,) = json.loads(text)["scales"]
    had = {row["strategy"] for row in scale["plans"] if not row["tables"]}
    assert had <= {"table_wise", "row_wise", "data_parallel"}
    assert {table["strategy"] for row in scale["plans"] for table in row["tables"]} <= set(EXPRESSIBLE)
    code, text, error = run("project", *common, "--plan", out, "--batch-per-worker", "8192", "--json")
    assert code == 0, error
    step = json.loads(text)["projection"][0]["step_time_s"]
    assert step == pytest.approx(scale["plans"][0]["step_time_s"], rel=1e-12)
    code, text, error = run("plan", *common, *options, "--from", out)
    assert code == 0 and "plan.json: " in text and "lead over plan.json: +" in text, error
    code, _, error = run("project", *common, "--plan", out, "--gpus", "16")
    assert code == 2 and "is for 8 GPUs" in error and error.count("\n") == 1
    code, _, error = run("plan", *common, "--gpus", "16", "--batch", "65536", "--from", out)
    assert code == 2 and "--from plan.json: is for 8 GPUs; name them with --gpus" in error and error.count("\n") == 1
    code, _, error = run("plan", *common, *options, "--to", "torchrec")
    assert code == 2 and "--to torchrec: name the file to write with -o" in error and error.count("\n") == 1


def test_a_given_plan_does_not_change_those_that_are_found() -> None:
    """TorchRec may split columns unevenly, in any number of parts."""
    split = TablePlan("table_wise", (0, 1, 2), (16, 16, 32))
    given = {"theirs.json": JobPlan(8, BATCH, (split,) * 2)}
    strategies = ("table_wise", "column_wise")
    request = PlanRequest(
        Job.of_model(model_of(TABLES[:2])), cluster(), [8], BATCH, strategies=strategies, by_table=True
    )
    alone, beside = (run_plan(r).scales[0].plans.candidates for r in (request, replace(request, given=given)))
    assert sum(candidate.source == "theirs.json" for candidate in beside) == 1
    assert [c.tables for c in beside if not c.source] == [c.tables for c in alone]


def test_a_given_plan_that_does_not_fit_is_named() -> None:
    huge = model_of(((400_000_000, 3), (1000, 1)))
    given = JobPlan(8, BATCH, (TablePlan("table_wise", (0,), (64,)), TablePlan("row_wise")))
    request = PlanRequest(
        Job.of_model(huge), cluster(), [8], BATCH, strategies=["row_wise"], by_table=True, given={"theirs.json": given}
    )
    (scale,) = run_plan(request).scales
    assert not any(candidate.source for candidate in scale.plans.candidates)
    (reason,) = scale.plans.refused
    assert reason.startswith("theirs.json: 1 table_wise, 1 row_wise of small on 8 GPUs")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda text: text.replace('model = "small"', 'model = "large"'), "is for large, not small"),
        (lambda text: text.replace('model_hash = "', 'model_hash = "0'), "model small has changed since"),
        (lambda text: text.replace('cluster_hash = "', 'cluster_hash = "0'), "has changed since"),
        (lambda text: text[: text.rindex("[[tables]]")], "table t4 of small is left out"),
        (lambda text: text.replace("table = 4", "table = 3"), "planned twice"),
        (lambda text: text.replace('name = "t4"\nstrategy = "', 'name = "t4"\nstrategy = "x'), "is none of"),
        (lambda text: text.replace("gpus = 8", "gpus = 7"), "divide evenly"),
    ],
)
def test_an_edited_plan_is_refused_in_one_line(planned: Planned, tmp_path: Path, change, expected: str) -> None:  # type: ignore[no-untyped-def]
    found = planned.scales[0].plans
    tables = next(c.tables for c in found.candidates if c.tables)
    path = tmp_path / "job.plan.toml"
    write_plan(path, JobPlan(8, BATCH, tables), model_of(), cluster())
    assert read_plan(path, model_of(), cluster()).tables == tables
    path.write_text(change(path.read_text()))
    with pytest.raises(FileError, match=expected) as refused:
        read_plan(path, model_of(), cluster())
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("options", "files", "expected"),
    [
        (("--gpus", "8", "--batch", "65537"), {}, "does not divide evenly"),
        (("--gpus", "16..8", "--batch", "65536"), {}, "smaller number first"),
        (("--gpus", "8,16..64", "--batch", "65536"), {}, "write a range such as 8..1024"),
        (("--gpus", "8..16,32", "--batch", "65536"), {}, "write a range such as 8..1024"),
        (("--gpus", "8,12", "--batch", "65536"), {}, "does not divide evenly over 12 GPUs"),
        (("--gpus", "8", "--batch", "64/rank"), {}, "1024/gpu"),
        ((*JOB, "--target", "1 M samples/s", "--budget", "4"), {}, "--budget: price '4'"),
        ((*JOB, "--target", "20 M"), {}, "samples/s"),
        ((*JOB, "--without", "mesh"), {}, "--without mesh: choose from data_parallel"),
        ((*JOB, "--budget", "4 $/h"), {}, "--budget needs --prices"),
        ((*JOB, "--from", "no.json"), {}, "--from no.json: no such file"),
        (
            (*JOB, "--from", "t.json"),
            {"t.json": '{"world_size": 4, "plan": {}}'},
            "table t0 of small is left out",
        ),
        (
            (*JOB, "--prices", "p.toml"),
            {"p.toml": "schema_version = 1\ngpu = 2.5\n"},
            "$/h",
        ),
        (
            (*JOB, "--prices", "p.toml"),
            {"p.toml": "schema_version = 2\n"},
            "schema_version",
        ),
        (
            (*JOB, "--prices", "p.toml"),
            {"p.toml": 'schema_version = 1\ngpu = "2 $/h"\nnode = "20 $/h"\n'},
            "write the price of a gpu or of a node, one of them",
        ),
        (
            (*JOB, "--prices", "p.toml"),
            {"p.toml": 'schema_version = 1\ncpu = "2 $/h"\n'},
            "cpu: unknown key",
        ),
        (
            (*JOB, "--target", "1 T samples/s"),
            {},
            "--target 1 T samples/s: nothing reaches it; the fastest is",
        ),
        (
            (*JOB, "--budget", "4 $/h", "--prices", "p.toml"),
            {"p.toml": 'schema_version = 1\ngpu = "2.5 $/h"\n'},
            "more than the budget",
        ),
        (
            (*JOB, "--keep", "k.toml"),
            {"k.toml": '[[tables]]\nname = "C9"\nstrategy = "row_wise"\n'},
            "no table of small",
        ),
        (
            (*JOB, "--keep", "k.toml"),
            {"k.toml": '[[tables]]\ntable = 0\nstrategy = "column_wise"\nparts = 3\n'},
            "a power of two",
        ),
        (
            (*JOB, "--keep", "k.toml"),
            {"k.toml": '[[tables]]\ntable = 0\nstrategy = "column_wise"\nparts = 1024\n'},
            "cannot be column_wise in 1024 parts",
        ),
    ],
)
def test_what_cannot_be_planned_is_refused_in_one_line(
    model_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: tuple[str, ...],
    files: dict[str, str],
    expected: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    model_file.write_text(model_text(TABLES[:2]))  # some requests are refused only after a plan has been found
    for name, text in files.items():
        Path(name).write_text(text)
    arguments = ("--model", model_file, "--cluster", CLUSTER, *options, "-o", "job.plan.toml", "--figure", "front.svg")
    code, _, error = run("plan", *arguments, "--html", "plan.html")
    assert code in (1, 2) and expected in error and error.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*files, model_file.name])


@pytest.mark.parametrize(
    ("change", "options", "expected"),
    [
        (('model = "', 'model = "x'), (), "model: is for xsmall, not small; plan again with dessim plan"),
        (('model_hash = "', 'model_hash = "0'), (), "model: model small has changed since it was planned"),
        (('cluster = "', 'cluster = "x'), (), f"cluster: is for x{CLUSTER}, not {CLUSTER}"),
        (('cluster_hash = "', 'cluster_hash = "0'), (), f"cluster: cluster {CLUSTER} has changed since it was planned"),
        (("", ""), ("--gpus", "16"), "--gpus 16: job.plan.toml is for 8 GPUs; leave --gpus out, or plan again"),
        (("", ""), ("--batch-per-worker", "1"), "--batch-per-worker 1: job.plan.toml is for 8,192 samples a GPU"),
        (("[[tables]]\ntable = 4", None), (), "tables: table t4 of small is left out: add an entry with table = 4"),
    ],
)
def test_a_plan_for_another_job_is_refused_before_anything_is_written(
    model_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: tuple[str, str | None],
    options: tuple[str, ...],
    expected: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    plan = Path("job.plan.toml")
    write_plan(plan, JobPlan(8, BATCH, (TablePlan("row_wise"),) * len(TABLES)), model_of(), cluster())
    text, (old, new) = plan.read_text(), change
    assert old in text
    plan.write_text(text[: text.index(old)] if new is None else text.replace(old, new, 1))
    arguments = ("--model", model_file, "--cluster", CLUSTER, "--plan", plan, *options)
    code, out, error = run("project", *arguments, "--csv", "rows.csv", "--figure", "steps.svg")
    assert code in (1, 2) and not out and expected in error and error.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == [plan.name, model_file.name]


def test_a_pinned_table_that_fits_nowhere_is_named_and_nothing_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("large.toml").write_text(model_text(((400_000_000, 3), (1000, 1))))
    Path("keep.toml").write_text('[[tables]]\nname = "t0"\nstrategy = "data_parallel"\n')
    options = (*JOB, "--keep", "keep.toml", "-o", "plan.toml")
    written = ("--figure", "front.svg", "--html", "plan.html")
    code, out, error = run("plan", "--model", "large.toml", "--cluster", CLUSTER, *options, *written)
    assert code == 2 and not out and error.count("\n") == 1
    assert "table t0 pinned to data_parallel fits nowhere, by " in error and "or fewer pinned tables" in error
    assert sorted(path.name for path in tmp_path.iterdir()) == ["keep.toml", "large.toml"]


def test_a_table_that_fits_nowhere_is_named() -> None:
    from dessim.errors import CapacityError
    from dessim.plan.loads import Choice

    huge = model_of(((40_000_000_000, 3), (1000, 1)))
    with pytest.raises(CapacityError, match=r"table t0 fits nowhere, by .* left for tables; use more GPUs"):
        run_plan(PlanRequest(job=Job.of_model(huge), cluster=cluster(), gpus=[8], batch=BATCH))
    pinned = {0: Choice("data_parallel")}
    large = model_of(((400_000_000, 3), (1000, 1)))
    with pytest.raises(CapacityError, match="table t0 pinned to data_parallel fits nowhere"):
        run_plan(PlanRequest(job=Job.of_model(large), cluster=cluster(), gpus=[8], batch=BATCH, pinned=pinned))


def test_a_target_is_reached_with_the_probability_of_the_error_bar(planned: Planned) -> None:
    scale = planned.scales[0]
    low = BATCH / scale.to_json()["plans"][0]["interval"]["high_s"]
    assert scale.probability_of(scale.samples_per_s) == pytest.approx(0.5)
    assert scale.probability_of(low) == pytest.approx(0.9, abs=1e-3)  # a tenth is beyond either end of the interval


def test_a_target_that_nothing_reaches_states_the_fastest() -> None:
    from dessim.errors import CapacityError

    job = Job.of_model(model_of(TABLES[:2]))
    request = PlanRequest(job, cluster(), [8], BATCH, target=1e12, strategies=["row_wise"], by_table=True)
    with pytest.raises(CapacityError, match=r"nothing reaches it; the fastest is .* on 8 GPUs"):
        run_plan(request)
