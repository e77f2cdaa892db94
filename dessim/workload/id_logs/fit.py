"""Fits a Zipf-Mandelbrot law to the number of different ids of batches.

The fit minimises the mean squared logarithm of predicted / measured over the batch sizes, by a coarse grid and then
Levenberg's method. Small penalties (1e-5 log(rows / different)**2 and less) decide where the counts do not: a law with
ten times the rows must predict the counts 0.7 % better. Results are rounded, so that they do not depend on the
processor.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np

from dessim.arrays import Floats
from dessim.workload.ids import IdBins, ZipfLaw

_LOWER = np.array([0.0, 0.0, 0.0])  # of skew, log(1 + offset), log(rows / different ids)
_UPPER = np.array([20.0, math.log(1e6), math.log(100.0)])
_PENALTIES = np.sqrt([1e-8, 1e-7, 1e-5])
_CENTRE = np.array([1.0, 0.0, 0.0])
_GRID = ((0.0, 0.5, 0.8, 1.0, 1.2, 1.5, 2.0, 4.0, 12.0), tuple(np.log1p([0.0, 3.0, 30.0, 1000.0])), (0.0, 1.0))
_STEP = 1e-5  # of the numeric derivative
_MAX_ROUNDS = 60


@dataclass(frozen=True, slots=True)
class _Curve:
    """Measured different ids [n] of batches of `draws` [n] ids, in a table with `different` ids."""

    draws: Floats
    measured: Floats
    different: int

    def residuals(self, point: Floats) -> Floats:
        """The fit minimises the sum of their squares: one entry a batch size, and one a penalty [n + 3]."""
        law = _law(point, self.different)
        bins = IdBins.of(law.vocabulary, law.skew, law.offset)
        predicted = bins.expected_present(self.draws[:, None]) @ bins.ids
        errors = np.log(predicted / self.measured) / math.sqrt(len(self.draws))
        return np.concatenate([errors, _PENALTIES * (point - _CENTRE)])

    def loss(self, point: Floats) -> float:
        return float((self.residuals(point) ** 2).sum())


def fit_law(draws: Floats, measured: Floats, different: int) -> ZipfLaw:
    """The law of a table with at least `different` rows whose batches of `draws` [n] ids have `measured` [n] different.

    The skew has four decimals; offset and rows have four significant digits, except that rows is never below
    `different`.
    """
    curve = _Curve(draws, measured, different)
    grid = [np.array(point) for point in itertools.product(*_GRID)]
    best = min(grid, key=curve.loss)
    return _rounded(_law(_descended(curve, best), different), different)


def _law(point: Floats, different: int) -> ZipfLaw:
    skew, offset, rows = point.tolist()
    return ZipfLaw(different * math.exp(rows), skew, offset=math.expm1(offset))


def _descended(curve: _Curve, point: Floats) -> Floats:
    """The minimum near `point`, by Levenberg's method within the bounds."""
    damping = 1e-3
    loss = curve.loss(point)
    for _ in range(_MAX_ROUNDS):
        residuals = curve.residuals(point)
        slopes = _slopes(curve, point, residuals)
        gradient = slopes.T @ residuals
        is_free = ~(((point <= _LOWER) & (gradient > 0)) | ((point >= _UPPER) & (gradient < 0)))
        if not is_free.any():
            break
        curvature = slopes[:, is_free].T @ slopes[:, is_free]
        step = np.zeros(len(point))
        step[is_free] = -np.linalg.solve(curvature + damping * np.diag(np.diag(curvature)), gradient[is_free])
        tried = np.clip(point + step, _LOWER, _UPPER)
        tried_loss = curve.loss(tried)
        if tried_loss < loss:
            has_converged = float(np.abs(tried - point).max()) < 1e-6
            point, loss, damping = tried, tried_loss, damping / 10
            if has_converged:
                break
        else:
            damping *= 10
            if damping > 1e6:
                break
    return point


def _slopes(curve: _Curve, point: Floats, residuals: Floats) -> Floats:
    """The derivatives of the residuals [n + 3, 3], from differences inside the bounds."""
    columns = []
    for axis, upper in enumerate(_UPPER.tolist()):
        step = _STEP if point[axis] + _STEP <= upper else -_STEP
        moved = point.copy()
        moved[axis] += step
        columns.append((curve.residuals(moved) - residuals) / step)
    return np.stack(columns, axis=1)


def _rounded(law: ZipfLaw, different: int) -> ZipfLaw:
    offset = float(f"{law.offset:.3e}") if law.offset >= 1e-3 else 0.0
    rows = float(max(different, round(float(f"{law.vocabulary:.3e}"))))
    return ZipfLaw(rows, round(law.skew, 4), offset=offset)
