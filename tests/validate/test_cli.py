"""`dessim validate` and `dessim calibrate` on the command line: their output and exit codes."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from dessim.calibrate.plan import calibration_cases
from dessim.cli.app import app
from dessim.cluster import load_cluster
from dessim.validate.beds import at_scale
from dessim.validate.cases import collective_cases
from dessim.validate.collectives import predict
from dessim.validate.request import read_cases
from dessim.validate.run import fit_profile
from tests.calibrate.test_messages import TRUE, bench


def run(*words: str) -> Any:
    return CliRunner().invoke(app, list(words))


@pytest.fixture(scope="module")
def quick_cases() -> dict[str, Any]:
    """A machine on which the quick cases take exactly the predicted times."""
    bed = load_cluster("lab/switch_8")
    kept: dict[str, Any] = {"calibration": {"cluster": "lab/switch_8", "where": {}, "bench": bench(bed, TRUE)}}
    transport = fit_profile(kept["calibration"]).transport
    cases = collective_cases(read_cases(), ("held_out",), quick=True)
    seconds = {case.name: [predict(at_scale(load_cluster(case.bed), 0.5, transport), case)] for case in cases}
    kept["collectives"] = {"scale": {case.bed: 0.5 for case in cases}, "seconds": seconds}
    return kept


@pytest.fixture
def measured(quick_cases: dict[str, Any]) -> dict[str, Any]:
    """The same, to be changed."""
    return deepcopy(quick_cases)


def test_saved_measurements_are_predicted_again_and_judged(measured: dict[str, Any], tmp_path: Path) -> None:
    file, figure, csv = tmp_path / "m.json", tmp_path / "f.svg", tmp_path / "c.csv"
    file.write_text(json.dumps(measured))
    words = ["validate", "--lab", "--quick", "--kinds", "collectives", "--measured", str(file)]
    found = run(*words, "--json", "--csv", str(csv), "--figure", str(figure))
    assert found.exit_code == 0, found.output
    said = json.loads(found.stdout)
    assert said["held_out"]["collectives"]["median_error"] == 0.0 and said["held_out"]["collectives"]["n"] == 15
    assert said["calibration"]["messages"]["n"] == len([c for c in calibration_cases(8)]) - 3  # sums are no messages
    assert len(csv.read_text().splitlines()) == len(said["cases"]) + 1 and figure.exists()

    for of in measured["collectives"]["seconds"].values():
        of[0] *= 1.2
    file.write_text(json.dumps(measured))
    broken = run(*words)
    assert broken.exit_code == 3
    assert "median error 16.7% of 15 held-out cases, allowed 5%" in broken.stderr
    assert "−17 %" in broken.stdout and "95th percentile" in broken.stdout


def test_a_file_of_other_measurements_is_named(measured: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "m.json"
    for wrong in (7, {"scale": 1}):
        file.write_text(json.dumps(measured | {"collectives": wrong}))
        found = run("validate", "--lab", "--quick", "--kinds", "collectives", "--measured", str(file))
        assert (found.exit_code, found.stdout) == (1, "")
        assert found.stderr.startswith(f"dessim: {file}: not measurements that --save wrote: ")
        assert found.stderr.count("\n") == 1
    file.write_text(json.dumps(measured | {"collectives": []}))
    none = run("validate", "--lab", "--quick", "--kinds", "collectives", "--measured", str(file))
    assert none.exit_code == 2 and "have no collectives" in none.stderr


@pytest.mark.parametrize(
    ("words", "code", "complaint"),
    [
        (["validate"], 2, "--lab"),
        (["validate", "--lab", "--splits", "seen"], 2, "'seen' is unknown; choose from calibration"),
        (["validate", "--measured", "nowhere.json"], 1, "--measured nowhere.json: no such file"),
        (["calibrate", "-o", "p.toml"], 2, "--lab FILE, or --bench RESULTS and --cluster FILE"),
        (["calibrate", "-o", "p.toml", "--plan", "2"], 2, "2 ranks are too few"),
    ],
)
def test_mistakes_are_one_line(words: list[str], code: int, complaint: str) -> None:
    found = run(*words)
    assert found.exit_code == code
    assert complaint in found.stderr and len(found.stderr.strip().splitlines()) == 1


def test_an_error_without_root_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    for words in (["validate", "--lab"], ["calibrate", "--lab", "lab/switch_4", "-o", str(tmp_path / "p.toml")]):
        found = run(*words)
        assert found.exit_code == 1 and found.stderr.strip().splitlines()[-1].startswith("dessim: a lab needs root")


def test_a_real_cluster_is_calibrated_from_its_benchmark(tmp_path: Path) -> None:
    plan, results, profile = tmp_path / "cases.json", tmp_path / "bench.json", tmp_path / "p.toml"
    assert run("calibrate", "--plan", "8", "-o", str(plan)).exit_code == 0
    assert json.loads(plan.read_text()) == {"cases": calibration_cases(8)}
    results.write_text(json.dumps(bench(load_cluster("lab/switch_8"), TRUE)))
    words = ["--bench", str(results), "--cluster", "lab/switch_8", "-o", str(profile)]
    found = run("calibrate", *words, "--json")
    assert found.exit_code == 0, found.output
    assert json.loads(found.stdout)["burst_bytes"] == pytest.approx(TRUE.burst)

    at = ["collective", "all_reduce", "--cluster", "lab/switch_4", "--gpus", "4", "--size", "1MiB", "--json"]
    with_profile, without = (json.loads(run(*at, *more).stdout) for more in (["--transport", str(profile)], []))
    assert with_profile["algorithm"] == "gloo" and with_profile["time_s"] != without["time_s"]
