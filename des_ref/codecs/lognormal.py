"""Magnitudes as log-normal values: ln |x| normal with mean mu and deviation sigma.

Gradients are near that over many layers and steps (Chmiel et al., "Neural gradients are near-lognormal", ICLR 2021,
arXiv 2006.08173), so two numbers of a tensor say how its values spread and what a threshold will do to them.
"""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import NamedTuple

import torch
from torch import Tensor

_NORMAL = NormalDist()


class Fitted(NamedTuple):
    """mu, sigma, the largest and how many there are of some values."""

    mu: float
    sigma: float
    largest: float
    count: int


def fit(magnitudes: Tensor) -> Fitted:
    """Of those that are neither zero nor infinite nor NaN."""
    there = magnitudes[(magnitudes > 0) & (magnitudes < torch.inf)]
    if not len(there):
        return Fitted(0.0, 0.0, 0.0, 0)
    deviation, mean = torch.std_mean(there.log(), correction=0)
    return Fitted(float(mean), float(deviation), float(there.max()), len(there))


def expected_largest(mu: float, sigma: float, count: int) -> float:
    """About the largest of `count` log-normal values: the quantile that one of count + 1 exceeds."""
    return math.exp(mu + sigma * _NORMAL.inv_cdf(1 - 1 / (count + 1)))


def sparsity(z: float, sigma: float) -> float:
    """The share of log-normal values that pruning at a = e^(mu + sigma z) makes 0.

        P(zero) = E[1 - |x| / a; |x| < a] = Phi(z) - e^(mu + sigma^2 / 2) / a * Phi(z - sigma)

    with z = (ln a - mu) / sigma; mu cancels.
    """
    y = sigma - z
    if y < 0:
        return _cdf(z) - math.exp(sigma * (sigma / 2 - z)) * _cdf(-y)
    # The same, where the first factor may be too large for a float and the second too small: phi(z) Phi(-y) / phi(y).
    return _cdf(z) - _NORMAL.pdf(z) * _mills(y)


def _cdf(x: float) -> float:
    """Phi, exact far below 0, too; NormalDist's is not."""
    return math.erfc(-x / math.sqrt(2)) / 2


def _mills(y: float) -> float:
    """Phi(-y) / phi(y); from 25 on by its series, the next term of which is below 1e-9."""
    return _cdf(-y) / _NORMAL.pdf(y) if y < 25 else (1 - 1 / y**2 + 3 / y**4) / y


def threshold(share: float, mu: float, sigma: float) -> float:
    """The a that makes `share` of the values 0. With sigma = 0, all values alike, it is their size / (1 - share)."""
    if sigma < 1e-3:
        return math.exp(mu) / (1 - share)
    # sparsity rises with z from 0 to 1; it is 1 - e^(sigma^2/2 - sigma z) for large z.
    low, high = -40.0, (sigma * sigma / 2 - math.log(1 - share)) / sigma + 40.0
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if sparsity(middle, sigma) < share else (low, middle)
    return math.exp(mu + sigma * low)
