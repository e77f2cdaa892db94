"""docs/validation.md: links exist, and predicting its measurements again gives the errors that it states."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from dessim.validate.outcome import broken_bounds, summaries
from dessim.validate.request import bounds_of, read_cases
from dessim.validate.run import ValidationRequest, validate

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "validation.md").read_text()
TRUST = (ROOT / "docs" / "trust.md").read_text()


def test_links_exist() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", PAGE)
    assert len(links) > 5
    for target in links:
        assert (ROOT / "docs" / target).exists(), target


@pytest.mark.slow
def test_errors_of_recorded_collectives_agree_with_the_page() -> None:
    """A change to the simulator that moves these predictions must update the page and stay within the bounds."""
    measured = json.loads((ROOT / "docs" / "validation.json").read_text())
    outcomes = validate(ValidationRequest(kinds=["collectives"], measured=measured))
    assert not broken_bounds(outcomes, bounds_of(read_cases()))
    for split, kinds in summaries(outcomes).items():
        for kind, errors in kinds.items():
            name = split.replace("_", "-")
            row = f"| {name} | {kind} | {errors.n} | {errors.median_error:.1%} | {errors.p95_error:.1%} |"
            assert row in PAGE, row
    held_out = summaries(outcomes)["held_out"]["collectives"]
    sentence = f"median error {held_out.median_error:.1%}, 95th percentile {held_out.p95_error:.1%}"
    assert sentence in TRUST, sentence
