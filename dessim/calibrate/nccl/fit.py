"""Fits the factors of a transport to readings: robust least squares on relative errors, held near the start.

The residual of a reading is the logarithm of predicted over measured time. Large ones count less than by their square,
as a reading that something else disturbed should. Every factor is held near its start (the value of NCCL's source, or
that of a shipped transport) by the spread that its constant states, so that what readings do not show stays as it was.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from dessim.arrays import Floats
from dessim.calibrate.nccl.readings import Reading, repeated
from dessim.collectives.nccl.constants import CONSTANTS, Factors, factor_of, possible, value_of
from dessim.collectives.nccl.model import Run, run
from dessim.collectives.nccl.setup import Setup
from dessim.collectives.timing import Timing

_SCALE = 0.08
"""Relative error beyond which a reading counts less than by its square."""
_STEP = 1e-3
_DIGITS = 9
_CLOSE = 1e-4


@dataclass(frozen=True, slots=True)
class Parameter:
    """The logarithm of a factor on constant `name`, for the readings of a `scope`.

    A scope is "" (all), an architecture, a network, or `@` and the name of a cluster. `spread` is its standard
    deviation before readings are seen.
    """

    name: str
    scope: str
    spread: float

    def applies(self, where: str, setup: Setup) -> bool:
        """Whether it acts on a reading at `where` on this set-up."""
        return self.scope in ("", setup.architecture, setup.network) or self.scope == f"@{where}"


Solution = Mapping[tuple[str, str], float]
"""(constant, scope) -> logarithm of the factor."""


def fit(
    readings: Sequence[Reading], parameters: Sequence[Parameter], start: Factors | None = None, rounds: int = 12
) -> dict[tuple[str, str], float]:
    """The logarithm of each parameter's factor, on top of the factors of `start`.

    Rounded to nine digits, so that the last bits of a machine's arithmetic do not show.
    """
    problem = _Problem(repeated(readings), parameters, start or {})
    x = np.zeros(len(parameters))
    damping = 1e-3
    residuals = problem.residuals(x)
    cost = problem.cost(residuals, x)
    for _ in range(rounds):
        jacobian = problem.jacobian(x, residuals)
        improved = False
        for _ in range(6):
            trial = x + problem.step(jacobian, residuals, x, damping)
            trial_residuals = problem.residuals(trial)
            lower = problem.cost(trial_residuals, trial)
            if lower < cost:
                improved = cost - lower > _CLOSE * cost
                x = trial
                residuals = trial_residuals
                cost = lower
                damping /= 5
                break
            damping *= 8
        if not improved:
            break
    rounded = np.round(x, _DIGITS).tolist()
    return {(p.name, p.scope): value for p, value in zip(parameters, rounded, strict=True)}


def cluster_parameters(spreads: Mapping[str, float] | None = None) -> list[Parameter]:
    """A parameter for each constant, for readings of one cluster. `spreads` replaces some spreads."""
    wider = spreads or {}
    return [Parameter(name, "", wider.get(name, constant.spread)) for name, constant in CONSTANTS.items()]


def with_solution(factors: Factors, solution: Solution) -> dict[str, float | dict[str, float]]:
    """`factors` times the factors of a solution whose scopes are all "": a transport of one cluster."""
    merged: dict[str, float | dict[str, float]] = {}
    for name in CONSTANTS:
        change = math.exp(solution.get((name, ""), 0.0))
        old = factors.get(name, 1.0)
        if isinstance(old, int | float):
            merged[name] = round(old * change, 4)
        else:
            merged[name] = {architecture: round(value * change, 4) for architecture, value in old.items()}
    return merged


class _Problem:
    """The readings to explain; `x` [n_parameters] are the logarithms of factors."""

    def __init__(self, readings: Sequence[Reading], parameters: Sequence[Parameter], start: Factors) -> None:
        self._readings = readings
        self._parameters = parameters
        self._measured = np.log([reading.microseconds for reading in readings])
        self._spread = np.array([parameter.spread for parameter in parameters])
        places = {(reading.where, reading.setup) for reading in readings}
        self._sources = {
            place: {name: value_of(name, place[1]) * factor_of(start.get(name, 1.0), place[1]) for name in CONSTANTS}
            for place in places
        }
        self._acting = {
            place: [i for i, parameter in enumerate(parameters) if parameter.applies(*place)] for place in places
        }

    def residuals(self, x: Floats) -> Floats:
        """log(predicted / measured) [n_readings]."""
        return self._residuals_of(range(len(self._readings)), x)

    def jacobian(self, x: Floats, residuals: Floats) -> Floats:
        """Derivatives [n_readings, n_parameters]."""
        columns = np.zeros((len(residuals), len(x)))
        for number in range(len(x)):
            rows = [i for i, r in enumerate(self._readings) if number in self._acting[r.where, r.setup]]
            moved = x.copy()
            moved[number] += _STEP
            columns[rows, number] = (self._residuals_of(rows, moved) - residuals[rows]) / _STEP
        return columns

    def step(self, jacobian: Floats, residuals: Floats, x: Floats, damping: float) -> Floats:
        """The change of `x` that a damped, reweighted Gauss-Newton step makes."""
        weight = 1 / np.sqrt(1 + (residuals / _SCALE) ** 2) / _SCALE**2
        prior = np.diag(1 / self._spread**2)
        normal = jacobian.T @ (weight[:, None] * jacobian) + prior
        normal += damping * np.diag(np.diag(normal))
        gradient = jacobian.T @ (weight * residuals) + prior @ x
        return np.asarray(-np.linalg.solve(normal, gradient), dtype=np.float64)

    def cost(self, residuals: Floats, x: Floats) -> float:
        """The sum that is minimised: soft absolute errors, and the squares of the parameters over their spreads."""
        errors = 2 * (np.sqrt(1 + (residuals / _SCALE) ** 2) - 1)
        return float(errors.sum() + ((x / self._spread) ** 2).sum())

    def _residuals_of(self, rows: Iterable[int], x: Floats) -> Floats:
        values = {place: self._values(place, x) for place in self._sources}
        return np.array([self._residual(row, values) for row in rows])

    def _residual(self, row: int, values: Mapping[tuple[str, Setup], dict[str, float]]) -> float:
        reading = self._readings[row]
        predicted = predict(reading, values[reading.where, reading.setup])
        return math.log(predicted) - float(self._measured[row])

    def _values(self, place: tuple[str, Setup], x: Floats) -> dict[str, float]:
        values = dict(self._sources[place])
        for number in self._acting[place]:
            values[self._parameters[number].name] *= math.exp(x[number])
        return {name: possible(name, value) for name, value in values.items()}


def predict(reading: Reading, values: Mapping[str, float]) -> float:
    """Microseconds that the model predicts for a reading, with these values of its constants."""
    return model_run(reading, values).microseconds


def model_run(reading: Reading, values: Mapping[str, float]) -> Run:
    """A reading as the model runs it, with these values of its constants."""
    return run(reading.op, reading.size, reading.setup, values, timing=Timing.REPEATED)
