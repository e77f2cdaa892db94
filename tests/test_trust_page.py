"""docs/trust.md and the README state the errors and counts that the studies found."""

from __future__ import annotations

import csv
import importlib
import json
import tomllib
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "trust.md").read_text("utf-8")
README = (ROOT / "README.md").read_text("utf-8")


def rows_of(study: str, name: str) -> list[dict[str, str]]:
    lines = (ROOT / "studies" / study / name).read_text("utf-8").splitlines()
    return list(csv.DictReader(line for line in lines if not line.startswith("#")))


def test_the_readme_counts_the_claims() -> None:
    claims = PAGE.split("\n\n")[2].splitlines()[2:]
    assert f"All {len(claims)} claims" in README


def test_errors_of_training_steps_agree_with_the_study() -> None:
    rows = rows_of("lab_steps", "lab_steps.csv")
    errors = np.array([abs(float(row["predicted_s"]) / float(row["measured_s"]) - 1) for row in rows])
    median = f"median 5 %, found {100 * np.median(errors):.1f} %"
    assert f"{median}; 95th percentile 12 %, found {100 * np.percentile(errors, 95):.1f} %" in PAGE
    assert f"{len(errors)} held-out steps" in README and median in README


def test_errors_of_recorded_collectives_agree_with_the_study() -> None:
    expected = json.loads((ROOT / "studies" / "recorded_gpus" / "expected.json").read_text("utf-8"))
    assert f"median 8.3 %; found {100 * expected['median_error']:.1f} %" in PAGE


def test_shares_of_readings_within_intervals_agree_with_the_study(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "studies" / "published"))
    study = importlib.import_module("leave_out")
    readings = study.read_left_out()
    short, middle, long = (round(100 * share) for share in study.coverage_of_others(readings))
    shares = f"found {min(short, middle, long)} to {max(short, middle, long)} %"
    assert f"{len(readings)} published nccl-tests readings" in PAGE and shares in PAGE
    stated = f"{short} % of the left-out readings up to 64 KiB, {middle} % to 8 MiB and {long} % above"
    assert stated in (ROOT / "docs" / "error_bars.md").read_text("utf-8")


def test_numbers_of_recorded_cases_agree_with_the_studies() -> None:
    assert f"[{len(rows_of('bytes', 'bytes.csv'))} recorded cases]" in PAGE
    wire = rows_of("wire_bytes", "wire_bytes.csv")
    ratios = [int(row["frame_bytes"]) / int(row["payload_bytes"]) for row in wire]
    assert f"[{len(wire)} cases]" in PAGE
    assert f"{min(ratios):.2f} to {max(ratios):.2f} bytes of frames" in PAGE


def test_the_bounds_are_those_of_the_validation() -> None:
    bounds = tomllib.loads((ROOT / "dessim" / "validate" / "cases.toml").read_text("utf-8"))["bounds"]
    page = PAGE.replace(" %", "%")
    collectives = bounds["collectives"]
    assert f"median {collectives['median_error']:.0%}, 95th percentile {collectives['p95_error']:.0%}" in page
    assert f"median {bounds['steps']['median_error']:.0%}, found" in page
