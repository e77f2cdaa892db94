"""The progress of a run: steps, epochs and scores so far, as a checkpoint stores them."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from des_ref.strategies.base import Counts


def _no_counts() -> NDArray[np.float64]:
    return np.zeros(len(fields(Counts)))


@dataclass(slots=True)
class Progress:
    """How far a run has trained.

    steps, epochs  of the whole run, checkpoints that it resumed from included
    step_seconds   times of this process's steps [s]
    steps_before   steps that were trained before this process resumed the run
    counts         sums of the fields of Counts over this process's steps
    best           scores of the best epoch so far, and `best_score`, which decided it
    loss           of the last step, over all workers; up to date when a checkpoint or an epoch needs it
    """

    steps: int = 0
    epochs: int = 0
    step_seconds: list[float] = field(default_factory=list)
    steps_before: int = 0
    counts: NDArray[np.float64] = field(default_factory=_no_counts)
    best: dict[str, Any] | None = None
    best_score: float = -np.inf
    loss: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """The part that belongs to the whole run, without this process's times and counts. Floats keep every bit."""
        best_score = self.best_score if self.best is not None else None
        return {
            "steps": self.steps,
            "epochs": self.epochs,
            "best": self.best,
            "best_score": best_score,
            "loss": self.loss,
        }

    @classmethod
    def from_json(cls, saved: dict[str, Any]) -> Self:
        """The progress of a run that resumes from what `to_json` saved."""
        best_score = saved["best_score"] if saved["best"] is not None else -np.inf
        return cls(
            steps=saved["steps"],
            epochs=saved["epochs"],
            steps_before=saved["steps"],
            best=saved["best"],
            best_score=best_score,
            loss=saved["loss"],
        )
