"""Magnitudes as log-normal values: ln |x| is normal with mean mu and deviation sigma.

Gradients are nearly log-normal over many layers and steps (Chmiel et al., "Neural gradients are near-lognormal", ICLR
2021, arXiv 2006.08173), so mu and sigma determine the spread of a tensor's values and the effect of a threshold.
"""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import NamedTuple

import torch
from torch import Tensor

_NORMAL = NormalDist()


class LogNormalFit(NamedTuple):
    """mu, sigma, the largest value and the number of values."""

    mu: float
    sigma: float
    largest: float
    count: int


def fit(magnitudes: Tensor) -> LogNormalFit:
    """Fit the magnitudes that are finite and not zero; all zeros if there are none."""
    positive = magnitudes[(magnitudes > 0) & (magnitudes < torch.inf)]
    if not len(positive):
        return LogNormalFit(0.0, 0.0, 0.0, 0)
    deviation, mean = torch.std_mean(positive.log(), correction=0)
    return LogNormalFit(float(mean), float(deviation), float(positive.max()), len(positive))


def expected_largest(mu: float, sigma: float, count: int) -> float:
    """Approximate expected largest of `count` log-normal values: the quantile that one in count + 1 exceeds."""
    return math.exp(mu + sigma * _NORMAL.inv_cdf(1 - 1 / (count + 1)))


def sparsity(z: float, sigma: float) -> float:
    """The share of log-normal values that pruning at threshold a = e^(mu + sigma z) sets to 0.

        P(zero) = E[1 - |x| / a; |x| < a] = Phi(z) - e^(mu + sigma^2 / 2) / a * Phi(z - sigma)

    with z = (ln a - mu) / sigma; mu cancels.
    """
    y = sigma - z
    if y < 0:
        return _cdf(z) - math.exp(sigma * (sigma / 2 - z)) * _cdf(-y)
    # Same value as phi(z) Phi(-y) / phi(y): above, the first factor could overflow while the second underflows.
    return _cdf(z) - _NORMAL.pdf(z) * _mills(y)


def _cdf(x: float) -> float:
    """Phi, accurate far below 0 too, where NormalDist.cdf is not."""
    return math.erfc(-x / math.sqrt(2)) / 2


def _mills(y: float) -> float:
    """The Mills ratio Phi(-y) / phi(y); from y = 25 on by its series, whose next term is below 1e-9."""
    return _cdf(-y) / _NORMAL.pdf(y) if y < 25 else (1 - 1 / y**2 + 3 / y**4) / y


def threshold(share: float, mu: float, sigma: float) -> float:
    """The threshold a that sets `share` of the values to 0.

    With sigma = 0 all values are equal, and a is that value / (1 - share).
    """
    if sigma < 1e-3:
        return math.exp(mu) / (1 - share)
    # Bisect: sparsity rises with z from 0 to 1 and is 1 - e^(sigma^2/2 - sigma z) for large z.
    low = -40.0
    high = (sigma * sigma / 2 - math.log(1 - share)) / sigma + 40.0
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if sparsity(middle, sigma) < share else (low, middle)
    return math.exp(mu + sigma * low)
