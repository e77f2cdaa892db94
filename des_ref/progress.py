"""How far a run has come."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from des_ref.strategies.base import Counts


@dataclass(slots=True)
class Progress:
    """What a run has seen so far."""

    steps: int = 0
    epochs: int = 0
    step_seconds: list[float] = field(default_factory=list)
    steps_before: int = 0  # those of the runs that this one goes on from
    counts: NDArray[np.float64] = field(default_factory=lambda: np.zeros(len(fields(Counts))))  # of own steps, summed
    best: dict[str, Any] | None = None
    best_score: float = -np.inf
    loss: float = 0.0  # of the last step, over all workers, as far as anybody has asked

    def to_json(self) -> dict[str, Any]:
        """What the whole run has seen; times and counts are this process's own. JSON keeps every bit of a float."""
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
        """The other way."""
        best_score = saved["best_score"] if saved["best"] is not None else -np.inf
        steps, epochs, best, loss = (saved[name] for name in ("steps", "epochs", "best", "loss"))
        return cls(steps, epochs, steps_before=steps, best=best, best_score=best_score, loss=loss)
