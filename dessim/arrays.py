"""Array types that all packages share, and the rounding of numbers."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


def significant(value: float, digits: int = 9) -> float:
    """`value` to that many significant digits: the last bits of a float depend on the processor."""
    return float(f"{value:.{digits}g}")
