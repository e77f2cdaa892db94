"""Arrays that are equal but for rounding."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike


def assert_near(found: ArrayLike, expected: ArrayLike, rel: float, abs: float = 1e-12) -> None:
    """Require what `pytest.approx` requires, which compares large arrays one element after the other."""
    found, expected = np.asarray(found, dtype=float), np.asarray(expected, dtype=float)
    assert found.shape == expected.shape
    with np.errstate(invalid="ignore"):
        near = np.abs(found - expected) <= np.maximum(rel * np.abs(expected), abs)
    # No rounding leads to infinity.
    wrong = ~np.where(np.isfinite(expected), near, found == expected)
    assert not wrong.any(), (np.flatnonzero(wrong), found[wrong], expected[wrong])
