"""How far a run has come."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from des_ref.strategies.base import Counts


@dataclass(slots=True)
class Progress:
    """What a run has seen so far."""

    steps: int = 0
    epochs: int = 0
    step_seconds: list[float] = field(default_factory=list)
    counts: NDArray[np.float64] = field(default_factory=lambda: np.zeros(len(fields(Counts))))  # summed over steps
    best: dict[str, Any] | None = None
    best_score: float = -np.inf
