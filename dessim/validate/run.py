"""Runs every kind of case on one calibration.

All measurements form one JSON value, `{"calibration": ..., KIND: ...}`, so that a later run can predict them again
without measuring.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dessim.calibrate.profile import Profile, fit_profile
from dessim.commands.calibrate import measure_on_lab
from dessim.errors import UsageError
from dessim.files import write_json
from dessim.validate.collectives import run_collectives
from dessim.validate.outcome import SPLITS, Outcome
from dessim.validate.plans import run_plans
from dessim.validate.request import CaseRequest, CaseRunner, OnStatus, ignore_status, read_cases
from dessim.validate.steps import run_steps
from dessim.wording import choose_from

KINDS: dict[str, CaseRunner] = {"collectives": run_collectives, "steps": run_steps, "plans": run_plans}
"""The kinds of cases, in the order of outcomes and of files."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ValidationRequest:
    """The cases to run, by kind and split; `quick` keeps a few of each, and calibrates on a smaller bed.

    `only` keeps the cases whose names contain it.

    With `measured`, the content of a file that `save` named in an earlier run, nothing is measured and no privileges
    are needed.
    """

    kinds: Sequence[str] = tuple(KINDS)
    splits: Sequence[str] = SPLITS
    quick: bool = False
    only: str = ""
    measured: Mapping[str, Any] | None = None
    save: Path | None = None


def validate(request: ValidationRequest, on_status: OnStatus = ignore_status) -> list[Outcome]:
    """Calibrate, then measure and predict the cases of each kind.

    Measurements are written to `request.save` after each kind. Raises UsageError and LabError.
    """
    _check_names("--kinds", request.kinds, known=tuple(KINDS))
    _check_names("--splits", request.splits, known=SPLITS)
    table = read_cases()
    measured = request.measured
    bed = table["calibration"]["quick_bed" if request.quick else "bed"]
    calibration = measured["calibration"] if measured else measure_on_lab(bed, on_status)
    profile = fit_profile(calibration)
    measurements = {"calibration": calibration}
    outcomes = _fitted(profile) if "calibration" in request.splits else []
    for kind in request.kinds:
        measured_before = measured.get(kind) if measured else None
        if measured and not measured_before:
            raise UsageError(f"the measurements have no {kind}; measure again, or leave them out with --kinds")
        cases = CaseRequest(
            table=table,
            transport=profile.transport,
            splits=request.splits,
            quick=request.quick,
            only=request.only,
            measured=measured_before,
            on_status=on_status,
        )
        outcomes_of_kind, measurements[kind] = KINDS[kind](cases)
        outcomes += outcomes_of_kind
        if request.save is not None:
            write_json(request.save, measurements)
    return outcomes


def _check_names(flag: str, names: Sequence[str], known: Sequence[str]) -> None:
    unknown = [name for name in names if name not in known]
    if unknown:
        raise UsageError(f"{flag}: {unknown[0]!r} is unknown; {choose_from(unknown[0], known)}")


def _fitted(profile: Profile) -> list[Outcome]:
    """The outcomes of the messages that the profile was fitted to."""
    return [
        Outcome(
            name=message.name,
            kind="messages",
            split="calibration",
            predicted_s=message.predicted_s,
            measured_s=message.measured_s,
        )
        for message in profile.residuals
    ]
