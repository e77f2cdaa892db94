"""Checks of the studies of training steps on the lab: the kept page, and stored measurements predicted anew."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from dessim.validate.outcome import Outcome
from dessim.validate.run import ValidationRequest, validate
from tests.pages import TOLERANCE, assert_same_page

Rows = Sequence[Mapping[str, str]]


def assert_predicted_anew(rows: Rows, measured: Mapping[str, Any], names: Collection[str], only: str = "") -> None:
    """Predicting the measurements of the cases `names` gives the steps of the study's CSV."""
    trained = {name: measured["steps"]["trained"][name] for name in names}
    some = {**measured, "steps": {**measured["steps"], "trained": trained}}
    outcomes = validate(ValidationRequest(kinds=["steps"], only=only, measured=some))
    predicted = {outcome.name: outcome.predicted_s for outcome in outcomes if outcome.kind == "steps"}
    kept = {row["name"]: float(row["predicted_s"]) for row in rows if row["name"] in names}
    assert predicted == pytest.approx(kept, rel=TOLERANCE)


def assert_page_shows(folder: Path, plot: ModuleType, rows: Rows, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Made from the predictions of the study's CSV, its page and CSV are those that are kept."""
    kept = [
        Outcome(row["name"], row["kind"], row["split"], float(row["predicted_s"]), float(row["measured_s"]))
        for row in rows
    ]
    monkeypatch.setattr(plot, "validate", lambda request: [one for one in kept if one.split in request.splits])
    assert plot.main(["--out", str(out)]) == 0
    for name in ("README.md", f"{folder.name}.csv"):
        assert_same_page(out / name, folder / name)
