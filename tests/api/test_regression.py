"""Golden files: recorded by a command or from Python, checked by either, and explained when a step changes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import dessim
from dessim.cli.app import app
from dessim.cluster.load import list_topologies

ROOT = Path(__file__).resolve().parents[2]
SLOWER = '\n[[override]]\nnodes = [0, 0]\nnic = "connectx-6"\n'


def run(*words: str | Path) -> tuple[int, str, str]:
    shown = CliRunner().invoke(app, [str(word) for word in words])
    return shown.exit_code, shown.stdout, shown.stderr


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a topology file, and below it a golden file of two steps on that cluster."""
    folder = tmp_path_factory.mktemp("job")
    (folder / "mine.toml").write_text(list_topologies()["one-switch_16"].read_text())
    words = ("--model", "deepfm", "--strategy", "table_wise", "--gpus", "8,16")
    code, _, said = run(
        "project", *words, "--cluster", folder / "mine.toml", "--golden", folder / "golden" / "step.json"
    )
    assert code == 0, said
    return folder


@pytest.fixture
def job(recorded: Path, tmp_path: Path) -> Path:
    """A copy of the folder, to change."""
    (tmp_path / "golden").mkdir()
    for file in ("mine.toml", "golden/step.json"):
        (tmp_path / file).write_text((recorded / file).read_text())
    return tmp_path


def test_an_unchanged_step_passes(recorded: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From any folder: files are relative to the golden file."""
    monkeypatch.chdir("/")
    golden = recorded / "golden" / "step.json"
    assert run("check", golden)[:2] == (0, f"{golden}: ok, 2 steps unchanged within 1e-06\n")
    dessim.assert_unchanged(golden)
    request = json.loads(golden.read_text())["request"]
    assert request == {
        "job": {"model": "deepfm"},
        "cluster": {"name": "../mine.toml"},
        "project": {"strategies": ["table_wise"], "gpus": [8, 16]},
    }


def test_a_slower_link_names_op_and_cause(job: Path) -> None:
    golden = job / "golden" / "step.json"
    with (job / "mine.toml").open("a") as file:
        file.write(SLOWER)
    code, out, said = run("check", golden)
    assert code == 3 and "1 of 1 golden files differ" in said
    assert "table_wise on 16 GPUs: step" in out and "pooled (all_to_all):" in out
    assert "likely cause: cluster: NIC, sending: 1 at 24 GB/s, 15 at 50 GB/s, was 16 at 50 GB/s" in out
    assert "unchanged: job, question" in out
    with pytest.raises(AssertionError, match="likely cause: cluster: NIC, sending"):
        dessim.assert_unchanged(golden)

    code, out, _ = run("check", golden, "--json")
    found = json.loads(out)
    (file_of_json,) = found["files"]
    change = file_of_json["changes"][1]
    assert code == 3 and not found["ok"]
    assert change["step_time_s"] > change["step_time_before_s"] and change["ops"][0]["what"] == "all_to_all"
    explained = sum(op["time_s"] - op["time_before_s"] for op in change["ops"])
    assert explained == pytest.approx(change["step_time_s"] - change["step_time_before_s"], rel=0.1)

    assert run("check", golden, "--within", "10000%")[0] == 2
    assert run("check", golden, "--record")[0] == 0
    assert run("check", golden)[0] == 0


def test_causes_are_those_of_the_change(recorded: Path) -> None:
    golden = recorded / "golden" / "step.json"
    cluster = dessim.load_cluster(recorded / "mine.toml")

    def first_cause(*asked: Any, **options: Any) -> str:
        return dessim.check(golden, dessim.project(*asked, "table_wise", [8, 16], **options)).causes[0]

    assert "job: precision.dense: tf32, was fp32" in first_cause(
        dessim.load_model("deepfm", precision="dense=tf32"), cluster
    )
    assert "question: codecs: bf16, was not stated" in first_cause("deepfm", cluster, codecs="bf16")
    a100 = dessim.load_cluster("a100-8x_leafspine_16").gpu
    assert "cluster: gpu.name: a100-sxm-80gb, was h100-sxm" in first_cause("deepfm", cluster.with_gpu(a100))


def test_steps_may_come_go_and_no_longer_fit(recorded: Path) -> None:
    golden = recorded / "golden" / "step.json"
    huge = dessim.project("deepfm", recorded / "mine.toml", ["table_wise", "row_wise"], [16, 8], batch_per_worker=2**21)
    text = str(dessim.check(golden, huge, tolerance=0.5))
    assert "table_wise on 8 GPUs: does not fit any more" in text or "sent a worker" in text
    assert "row_wise on 16 GPUs: is new" in text
    fewer = dessim.check(golden, dessim.project("deepfm", recorded / "mine.toml", "table_wise", 8))
    assert [change.problem for change in fewer.changes] == ["is gone"] and not fewer.is_unchanged


def test_another_release_is_the_cause_where_inputs_are_the_same(job: Path) -> None:
    golden = job / "golden" / "step.json"
    content = json.loads(golden.read_text())
    content["rows"][0]["step_time_s"] *= 1.5
    golden.write_text(json.dumps(content))
    assert "cause unknown: question, job, cluster and dessim" in str(dessim.check(golden))
    golden.write_text(json.dumps(content | {"dessim": "0.0.1"}))
    found = dessim.check(golden)
    assert "was 0.0.1: see its CHANGELOG" in found.causes[0] and len(found.changes) == 1


def test_a_replay_and_python_objects(tmp_path: Path) -> None:
    trace = ROOT / "tests" / "golden" / "inputs" / "tiny.trace"
    assert run("replay", trace, "--cluster", "lab/switch_4", "--golden", tmp_path / "replay.json")[0] == 0
    assert run("check", tmp_path / "replay.json")[0] == 0
    slower = dessim.replay(trace, dessim.load_cluster("lab/switch_2"))
    assert dessim.check(tmp_path / "replay.json", slower).is_unchanged or slower.step_time_s
    loaded = dessim.project(dessim.load_model("fm"), "one-switch_16", "table_wise", 2)
    dessim.record(tmp_path / "fm.json", loaded, tolerance=0.01)
    dessim.assert_unchanged(tmp_path / "fm.json", loaded)
    code, _, said = run("check", tmp_path / "fm.json")
    assert code == 1 and "was recorded from Python objects; run the Python test" in said
    with pytest.raises(dessim.UsageError, match="read from JSON"):
        dessim.record(tmp_path / "fm.json", dessim.ProjectResult.from_json(loaded.to_json()))


Change = Callable[[dict[str, Any]], Any]


@pytest.mark.parametrize(
    ("change", "where"),
    [
        (lambda golden: golden.pop("rows"), "rows: missing"),
        (lambda golden: golden.update(rows=[]), "rows"),
        (lambda golden: golden.update(schema_version=2), "schema_version"),
        (lambda golden: golden.update(tolerance=-1), "tolerance"),
        (lambda golden: golden["rows"][0].update(step_time_s="long"), "rows.0.step_time_s"),
        (lambda golden: golden["request"].pop("project"), "request: needs job, cluster, and one of"),
        (lambda golden: golden["request"]["project"].update(strategy="x"), "request.project: unknown key 'strategy'"),
        (lambda golden: golden["request"]["project"].update(gpus=["many"]), "request.project.gpus.0"),
        (lambda golden: golden["request"]["project"].update(gpus=[10**9]), "too few"),
        (lambda golden: golden["request"]["job"].update(model="gone.toml"), "golden/gone.toml: "),
        (lambda golden: golden["request"]["cluster"].update(name="./gone"), "golden/gone: no such topology"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_wrong_file_is_one_line(job: Path, change: Change, where: str) -> None:
    golden = job / "golden" / "step.json"
    content = json.loads(golden.read_text())
    change(content)
    golden.write_text(json.dumps(content))
    code, out, said = run("check", golden)
    assert code in (1, 2) and not out and said.count("\n") == 1 and where in said


def test_what_is_no_golden_file_is_refused(tmp_path: Path) -> None:
    for text in ("", "[]", "{", '"golden"', "\x00"):
        (tmp_path / "a.json").write_text(text)
        code, _, said = run("check", tmp_path / "a.json")
        assert code == 1 and said.startswith(f"dessim: {tmp_path}/a.json: ") and said.count("\n") == 1
    assert run("check", tmp_path / "none.json")[0] == 1
