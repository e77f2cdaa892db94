"""Every kind of case, on one calibration.

What was measured is one JSON value, `{"calibration": ..., KIND: ...}`, so that a later run can predict it anew.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dessim.calibrate.profile import Profile, fit_profile
from dessim.commands.calibrate import measure_on_lab
from dessim.errors import UsageError
from dessim.files import write_json
from dessim.validate.collectives import run_collectives
from dessim.validate.outcome import SPLITS, Outcome
from dessim.validate.request import Kind, Request, Say, read_cases, say_nothing
from dessim.validate.steps import run_steps

KINDS: dict[str, Kind] = {"collectives": run_collectives, "steps": run_steps}
"""Outcomes and files have them in this order."""


def validate(
    *,
    kinds: Sequence[str] = tuple(KINDS),
    splits: Sequence[str] = SPLITS,
    quick: bool = False,
    measured: Mapping[str, Any] | None = None,
    say: Say = say_nothing,
    save: Path | None = None,
) -> list[Outcome]:
    """Calibrate, then measure and predict.

    What is measured is written to `save` as it comes; with `measured`, what such a file holds, nothing is measured and
    no privileges are needed. Raises LabError.
    """
    for given, known in ((kinds, tuple(KINDS)), (splits, SPLITS)):
        if unknown := [name for name in given if name not in known]:
            raise UsageError(f"{unknown[0]!r} is unknown; choose from {', '.join(known)}")
    table = read_cases()
    calibration = measured["calibration"] if measured else measure_on_lab(table["calibration"]["bed"], say)
    profile = fit_profile(calibration)
    kept, outcomes = {"calibration": calibration}, _fitted(profile) if "calibration" in splits else []
    for kind in kinds:
        earlier = measured.get(kind) if measured else None
        if measured and earlier is None:
            raise UsageError(f"the measurements have no {kind}; measure anew, or leave them out with --kinds")
        request = Request(table, profile.transport, splits, quick, earlier, say)
        found, kept[kind] = KINDS[kind](request)
        outcomes += found
        if save is not None:
            write_json(save, kept)
    return outcomes


def _fitted(profile: Profile) -> list[Outcome]:
    """What the profile was fitted to, and what the fit makes of it."""
    return [Outcome(r.name, "messages", "calibration", r.predicted_s, r.measured_s) for r in profile.residuals]
