"""docs/validation.md: links exist, and predictions of its measurements have the errors that it states."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dessim.validate.outcome import Outcome, broken_bounds, summaries
from dessim.validate.request import bounds_of, read_cases
from tests.golden.running import RESULTS

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "validation.md").read_text()
TRUST = (ROOT / "docs" / "trust.md").read_text()
KEYS = ("name", "kind", "split", "predicted_s", "measured_s")


def test_links_exist() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", PAGE)
    assert len(links) > 5
    for target in links:
        assert (ROOT / "docs" / target).exists(), target


def recorded_outcomes(measured: Mapping[str, Any]) -> list[Outcome]:
    """The outcomes of all measurements, as the golden results have them; tests/golden repeats the predictions."""
    cases: dict[str, dict[str, Any]] = {}
    for name in ("", "-2", "-3"):
        recorded = json.loads((RESULTS / f"validate-collectives{name}.json").read_text("utf-8"))
        cases |= {case["name"]: case for case in recorded["result"]["printed"]["cases"]}
    collectives = {name: case["measured_s"] for name, case in cases.items() if case["kind"] == "collectives"}
    assert collectives == {name: float(np.median(s)) for name, s in measured["collectives"]["seconds"].items()}
    return [Outcome(**{key: case[key] for key in KEYS}) for case in cases.values()]


def test_errors_of_recorded_collectives_agree_with_the_page() -> None:
    """A change to the simulator that moves these predictions must update the page and stay within the bounds."""
    measured = json.loads((ROOT / "docs" / "validation.json").read_text())
    outcomes = recorded_outcomes(measured)
    assert not broken_bounds(outcomes, bounds_of(read_cases()))
    for split, kinds in summaries(outcomes).items():
        for kind, errors in kinds.items():
            name = split.replace("_", "-")
            row = f"| {name} | {kind} | {errors.n} | {errors.median_error:.1%} | {errors.p95_error:.1%} |"
            assert row in PAGE, row
    held_out = summaries(outcomes)["held_out"]["collectives"]
    sentence = f"median error {held_out.median_error:.1%}, 95th percentile {held_out.p95_error:.1%}"
    assert sentence in TRUST, sentence
