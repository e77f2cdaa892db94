"""The progress of a run: steps, epochs and scores so far, as a checkpoint stores them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from des_ref.strategies.base import Counts


@dataclass(slots=True)
class Progress:
    """How far a run has trained.

    steps, epochs  of the whole run, checkpoints that it resumed from included
    step_seconds   times of this process's steps [s]
    steps_before   steps that were trained before this process resumed the run
    counts         sums of `Counts.to_list` over this process's steps
    best           scores of the best epoch so far, and `best_score`, which decided it
    loss           of the last step, over all workers; up to date when a checkpoint or an epoch needs it
    """

    steps: int = 0
    epochs: int = 0
    step_seconds: list[float] = field(default_factory=list)
    steps_before: int = 0
    counts: NDArray[np.float64] = field(default_factory=lambda: np.array(Counts(0).to_list()))
    best: dict[str, Any] | None = None
    best_score: float = -np.inf
    loss: float = 0.0

    def count(self, counts: Counts) -> None:
        """Add the counts of a step."""
        numbers = np.array(counts.to_list(), dtype=np.float64)
        numbers[: len(self.counts)] += self.counts
        self.counts = numbers

    def mean_counts(self) -> Counts:
        """The counts of a step, mean over this process's steps."""
        return Counts.of_list((self.counts / max(self.steps - self.steps_before, 1)).tolist())

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
        """The progress of a run that resumes from what `to_json` saved. Raises ValueError where a value is wrong."""
        best_score = saved["best_score"] if saved["best"] is not None else -np.inf
        if not all(type(saved[key]) is int and saved[key] >= 0 for key in ("steps", "epochs")):
            raise ValueError("steps and epochs must be whole numbers of 0 or more")
        if not all(isinstance(number, int | float) for number in (best_score, saved["loss"])):
            raise ValueError("best_score and loss must be numbers")
        if not isinstance(saved["best"], dict | None):
            raise ValueError("best must be a table of scores")
        return cls(
            steps=saved["steps"],
            epochs=saved["epochs"],
            steps_before=saved["steps"],
            best=saved["best"],
            best_score=best_score,
            loss=saved["loss"],
        )
