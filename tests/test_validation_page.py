"""docs/validation.md: links lead somewhere; measurements beside it, predicted anew, give the errors it names."""

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
README = (ROOT / "README.md").read_text()


def test_links_lead_somewhere() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", PAGE)
    assert len(links) > 5
    for target in links:
        assert (ROOT / "docs" / target).exists(), target


@pytest.mark.slow
def test_recorded_collectives_are_predicted_as_the_page_says() -> None:
    """A change of the simulator that moves these predictions has to say so here, and stays within the bounds."""
    measured = json.loads((ROOT / "docs" / "validation.json").read_text())
    outcomes = validate(ValidationRequest(kinds=["collectives"], measured=measured))
    assert not broken_bounds(outcomes, bounds_of(read_cases()))
    for split, kinds in summaries(outcomes).items():
        for kind, found in kinds.items():
            row = (
                f"| {split.replace('_', '-')} | {kind} | {found.n} | {found.median_error:.1%} | {found.p95_error:.1%} |"
            )
            assert row in PAGE, row
    held_out = summaries(outcomes)["held_out"]["collectives"]
    said = f"median error {held_out.median_error:.1%}, 95th percentile {held_out.p95_error:.1%}"
    assert said in README, said
