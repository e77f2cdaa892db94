"""Curves of measured over predicted time, by size, which a calibration keeps beside constants.

A curve holds for one op on one shape: a number of GPUs on a number of servers. Constants carry over to other shapes;
what they leave unexplained on one shape does not.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from dessim.arrays import Floats
from dessim.cluster.spread import Bands, band

_BEYOND = 2.0
"""The spread of a curve holds for sizes up to this factor beyond its readings."""
_FADE = 64.0
"""The factor in size beyond the readings over which a curve fades to 1, as latencies say little about rates."""


@dataclass(frozen=True, slots=True)
class Curve:
    """Measured over predicted time of `op` on `gpus` GPUs of `servers` servers, as `points` (bytes, factor).

    Sizes ascend. One process drove `gpus_per_process` GPUs. `spread` is that of sizes between the points, by band;
    None: not known.
    """

    op: str
    gpus: int
    servers: int
    points: tuple[tuple[float, float], ...]
    gpus_per_process: int = 1
    spread: Bands | None = None

    @property
    def shape(self) -> tuple[str, int, int, int]:
        """The op, GPUs, servers and GPUs of a process that the curve holds for."""
        return self.op, self.gpus, self.servers, self.gpus_per_process

    def factor(self, size: float) -> float:
        """Measured over predicted time on `size` bytes: its logarithm is linear in that of the size between points."""
        sizes, factors = _logarithms(self.points)
        at = math.log(max(size, 1.0))
        beyond = max(0.0, float(sizes[0]) - at, at - float(sizes[-1]))
        kept = max(0.0, 1 - beyond / math.log(_FADE))
        return math.exp(kept * float(np.interp(at, sizes, factors)))

    def spread_of(self, size: float) -> float | None:
        """The spread on `size` bytes; None where it is not known, and far from the points."""
        near = self.points[0][0] / _BEYOND <= size <= self.points[-1][0] * _BEYOND
        return self.spread[band(size)] if near and self.spread is not None else None


@lru_cache
def _logarithms(points: tuple[tuple[float, float], ...]) -> Floats:
    """The logarithms of sizes and of factors [2, n_points]."""
    return np.log(points).T


def curve_of(curves: Iterable[Curve], op: str, *, gpus: int, servers: int, gpus_per_process: int = 1) -> Curve | None:
    """The curve of an op on a shape, or None."""
    shape = (op, gpus, servers, gpus_per_process)
    return next((curve for curve in curves if curve.shape == shape), None)
