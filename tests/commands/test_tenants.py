"""`dessim tenants`: results against a projection, the examples of the page, and one-line errors for mistakes."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from dessim.cli.app import app
from dessim.cluster import load_cluster
from dessim.commands.support.tenants_file import JobTable, TenantsFile, load_tenants_file
from dessim.commands.tenants import TenantsRequest, run_tenants
from dessim.errors import CapacityError, DessimError
from dessim.workload.model import load_model
from dessim.workload.scale import Job
from tests.projecting import project

DOCS = Path(__file__).resolve().parents[2] / "docs"
CLUSTER = load_cluster(DOCS / "tenants" / "two_leaves.toml")
PAGE = """
cluster = "one-switch_16"

[[job]]
name = "a"
model = "fm"
strategy = "table_wise"
gpus = 4
steps = 3
"""


def request_of(table: JobTable) -> TenantsRequest:
    return TenantsRequest(tenants=TenantsFile(cluster="", job=(table,)), cluster=CLUSTER)


def run(*words: str, code: int = 0) -> str:
    result = CliRunner().invoke(app, ["tenants", *words])
    assert result.exit_code == code, result.output
    return result.stdout if code == 0 else result.stderr


def written(folder: Path, text: str) -> str:
    (folder / "page.toml").write_text(text)
    return str(folder / "page.toml")


@pytest.mark.parametrize("strategy", ["des_reduce_scatter", "table_wise"])
def test_a_job_alone_takes_as_long_as_its_projection(strategy: str) -> None:
    table = JobTable(name="a", model="deepfm", strategy=strategy, gpus=16, steps=4, batch_per_worker=2048)
    [job] = run_tenants(request_of(table)).to_json()["jobs"]
    [row] = project(Job.of_model(load_model("deepfm")), CLUSTER, [strategy], [16], 2048)
    expected = row.to_json()
    assert job["bound_by"] == expected["bound_by"]
    for name in ("step_time_s", "compute_s", "exposed_comm_s", "idle_s"):
        assert job[name] == pytest.approx(expected[name], rel=1e-12, abs=1e-15), name
    assert job["interval"]["causes"] == pytest.approx(expected["interval"]["causes"], rel=1e-9)
    assert job["slowdown"] == pytest.approx(1.0, rel=1e-12)
    assert job["bytes_by_link"] == pytest.approx({k: 4 * v for k, v in expected["bytes_by_link"].items()}, rel=1e-12)
    assert sum(job["bounds_s"].values()) == pytest.approx(job["step_time_s"], rel=1e-9)


def test_the_examples_print_what_the_page_shows() -> None:
    shown = re.findall(r"^    \$ dessim (tenants .+)\n((?:    .*\n)+)", (DOCS / "tenants.md").read_text(), re.MULTILINE)
    assert len(shown) == 2
    for command, output in shown:
        words = [str(DOCS.parent / word) if word.endswith(".toml") else word for word in shlex.split(command)[1:]]
        printed = [line.rstrip() for line in run(*words).splitlines()]
        assert printed == [line[4:].rstrip() for line in output.splitlines()]


def test_the_page_shows_the_example_file_and_its_links_resolve() -> None:
    text = (DOCS / "tenants.md").read_text()
    page = (DOCS / "tenants" / "spread.toml").read_text().rstrip().splitlines()
    assert "\n".join(f"    {line}".rstrip() for line in page) in text
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        assert "://" in target or (DOCS / target).exists(), target


def test_packed_jobs_are_not_slowed_and_the_oversubscribed_layer_is_idle() -> None:
    found = {page: json.loads(run(str(DOCS / "tenants" / f"{page}.toml"), "--json")) for page in ("packed", "spread")}
    packed, spread = found["packed"], found["spread"]
    assert [job["slowdown"] for job in packed["jobs"]] == pytest.approx([1.0] * 3, rel=1e-9)
    assert packed["utilisation"]["links"]["leaf_up"] == 0
    ranker, challenger, late = spread["jobs"]
    assert ranker["slowdown"] > 1.3 and ranker["bound_by"] == "leaf_up"
    assert ranker["steps_simulated"] < 10 and challenger["steps_simulated"] < 10
    assert late["start_s"] == min(ranker["end_s"], challenger["end_s"]) and late["wait_s"] == late["start_s"] - 1.0
    assert spread["partial"] is False and spread["schema_version"] == 1
    # The utilisation counts every byte of every step.
    capacity = CLUSTER.links.capacity[CLUSTER.links.of_kind("leaf_up")].sum()
    carried = sum(job["bytes_by_link"].get("leaf_up", 0.0) for job in spread["jobs"])
    assert spread["utilisation"]["links"]["leaf_up"] == pytest.approx(carried / (capacity * spread["end_s"]), rel=1e-12)
    taken = sum(job["gpus"] * (job["end_s"] - job["start_s"]) for job in spread["jobs"])
    assert spread["utilisation"]["gpus"] == pytest.approx(taken / (64 * spread["end_s"]), rel=1e-12)


def test_folding_changes_nothing(tmp_path: Path) -> None:
    second = PAGE[PAGE.index("[[job]]") :].replace('"a"', '"b"').replace("gpus = 4", "placement = [9, 5, 7]")
    page = written(tmp_path, PAGE + second + 'arrival = "10 us"\n')
    on, off = (json.loads(run(page, "--json", "--fold", fold)) for fold in ("on", "off"))
    for one, other in zip(on["jobs"], off["jobs"], strict=True):
        assert one["gpu_ids"] == other["gpu_ids"]
        assert one["end_s"] == pytest.approx(other["end_s"], rel=1e-9)
    assert on["jobs"][1]["gpu_ids"] == [9, 5, 7] and on["jobs"][1]["placement"] == "listed"


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ("gpus = 4", "", "job.0: gpus is missing; give their number, or list them in placement"),
        ("gpus = 4", 'gpus = 4\nplacement = "dense"', "job.0.placement"),
        ("gpus = 4", "gpus = 4\nplacement = [1]", "gpus = 4, but placement lists 1; leave gpus out"),
        ("gpus = 4", "gpus = 4\nseed = 3", 'seed is for placement = "random" only'),
        ("steps = 3", "", "job.0.steps: missing"),
        ("steps = 3", "steps = 0", "job.0.steps: Input should be greater than or equal to 1"),
        ("steps = 3", "steps = 3\narrival = 4", "job.0.arrival: time needs a unit"),
        ("steps = 3", "steps = 3\ngpu = 4", "job.0.gpu: unknown key"),
        ("steps = 3", "steps = 3" + PAGE[PAGE.index("\n[[job]]") :], "two jobs are called 'a'"),
        ("gpus = 4", "gpus = 40", "has 16 GPUs, too few for 40 ranks"),
        ("gpus = 4", "placement = [3, 99]", "GPU 99 is not one of cluster one-switch_16"),
        ('"fm"', '"nobody"', "no such model file; shipped models"),
        ('"table_wise"', '"tablewise"', "tablewise"),
        ('"table_wise"', '"ps_async"', "job 'a': ps_async needs dedicated servers, which tenants do not have"),
        ('"one-switch_16"', '"one-switch"', "did you mean one-switch_16?"),
        ("[[job]]", "[[job]", "not TOML"),
    ],
)
def test_a_mistake_gives_one_line(tmp_path: Path, old: str, new: str, line: str) -> None:
    assert old in PAGE
    text = CliRunner().invoke(app, ["tenants", written(tmp_path, PAGE.replace(old, new, 1))])
    assert text.exit_code in (1, 2) and text.stdout == ""
    assert line in text.stderr and len(text.stderr.strip().splitlines()) == 1


def test_a_job_that_does_not_fit_its_gpus_memory_is_refused() -> None:
    table = JobTable(name="big", model="deepfm", strategy="des_all_reduce", gpus=16, steps=1, batch_per_worker=10**7)
    with pytest.raises(CapacityError, match="job 'big', des_all_reduce of deepfm on 16 GPUs"):
        run_tenants(request_of(table))


def test_files_beside_the_tenants_file_are_found(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text((DOCS / "tenants" / "two_leaves.toml").read_text())
    page = load_tenants_file(Path(written(tmp_path, PAGE.replace("one-switch_16", "mine.toml"))))
    assert page.cluster == str(tmp_path / "mine.toml") and page.job[0].model == "fm"
    with pytest.raises(DessimError, match="cannot be read"):
        load_tenants_file(tmp_path / "none.toml")


def test_a_spent_budget_leaves_a_partial_result(tmp_path: Path) -> None:
    page = written(tmp_path, PAGE.replace("steps = 3", "steps = 3000"))
    result = CliRunner().invoke(app, ["tenants", page, "--json", "--time-budget", "0s"])
    assert result.exit_code == 1 and json.loads(result.stdout)["partial"] is True
    assert "raise --time-budget, or give the jobs fewer steps" in result.stderr
