"""Collisions of hashed flows (ECMP) against balls in bins and Monte Carlo simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest

from dessim.cluster.routing.policy import Routing
from dessim.sim.fluid.flows import incidence
from dessim.sim.fluid.maxmin import max_min_rates
from tests.cluster.routing.test_policy import HOSTS, bed, loads


def most_in_a_bin(balls: int, bins: int) -> np.ndarray:
    """The probability that the fullest bin holds at most c balls, for c = 0..balls, when balls fall at random.

    It is balls! / bins**balls times the coefficient of x**balls in (sum of x**i / i! up to i = c)**bins.
    """
    result = np.zeros(balls + 1)
    for c in range(1, balls + 1):
        term = np.array([1 / math.factorial(i) for i in range(c + 1)])
        power = np.ones(1)
        for _ in range(bins):
            power = np.convolve(power, term)[: balls + 1]
        if len(power) > balls:
            result[c] = power[balls] * math.exp(math.lgamma(balls + 1) - balls * math.log(bins))
    return result


def test_the_balls_in_bins_formula_agrees_with_counting() -> None:
    assert most_in_a_bin(2, 2) == pytest.approx([0, 0.5, 1])
    assert most_in_a_bin(3, 3) == pytest.approx([0, 6 / 27, 24 / 27, 1])


@pytest.mark.parametrize("per_pair", [1, 4])
def test_hash_collisions_cost_what_balls_in_bins_predicts(per_pair: int) -> None:
    """Each leaf sends its 16 flows to one other leaf, over 16 spines: a shift by 17 leaves.

    The busiest uplink of a leaf has as many flows as the fullest of 16 bins with 16 balls has on average. The exchange
    takes as long as the busiest of all 64 leaves needs, relative to one without collisions. The exact formula is
    compared with 100 seeds. With 4 flows per pair there are 64 balls of a quarter each.
    """
    src, dst = HOSTS, (HOSTS + 17 * 16) % 1024
    below = most_in_a_bin(16 * per_pair, 16)
    one_leaf, all_leaves = (1 - below).sum() / per_pair, (1 - below**64).sum() / per_pair
    busiest = []
    for seed in range(100):
        cluster = bed(Routing("ecmp", seed, per_pair))
        busiest.append(loads(cluster, src, dst, "leaf_up").reshape(64, 16).max(axis=1))
        if seed < 3:  # the busiest link bounds its flows from start to end
            slowest = max_min_rates(incidence(cluster, src, dst)[0])[0].min()
            assert 50e9 / slowest == pytest.approx(busiest[-1].max(), rel=1e-9)
    assert np.mean(busiest) == pytest.approx(one_leaf, rel=0.01)
    assert np.mean(np.max(busiest, axis=1)) == pytest.approx(all_leaves, rel=0.05)


def test_hash_collisions_on_permutations_equal_those_of_random_routes() -> None:
    """The busiest of all uplinks and downlinks under random permutations, against a Monte Carlo without the hash."""
    rng, hashed, random = np.random.default_rng(3), [], []
    for seed in range(200):
        dst = rng.permutation(1024)
        dst[dst == HOSTS] = (dst[dst == HOSTS] + 1) % 1024
        cluster = bed(Routing("ecmp", seed))
        hashed.append(max(loads(cluster, HOSTS, dst, kind).max() for kind in ("leaf_up", "leaf_down")))
        dst, spine = rng.permutation(1024), rng.integers(16, size=1024)
        cross = dst // 16 != HOSTS // 16
        ends = [np.bincount(leaf[cross] * 16 + spine[cross]).max() for leaf in (HOSTS // 16, dst // 16)]
        random.append(max(ends))
    assert np.mean(hashed) == pytest.approx(np.mean(random), rel=0.05)


def test_hashes_are_even_and_independent_between_seeds() -> None:
    """Each spine gets a 16th of all pairs of 256 hosts on different leaves.

    It also gets a 16th of the pairs that another seed puts on any one spine.
    """
    src, dst = np.divmod(np.arange(256 * 256), 256)
    src, dst = src[src // 16 != dst // 16], dst[src // 16 != dst // 16]
    spines = []
    for seed in (0, 1):
        cluster = bed(Routing("ecmp", seed))
        routes = cluster.routes(src, dst)
        spines.append((routes.link[routes.link < cluster.wiring.first_server_link][::2] - cluster.fabric.up) % 16)  # type: ignore[attr-defined]
    both = np.bincount(spines[0] * 16 + spines[1], minlength=256)
    assert both.sum() == len(src) == 240 * 256
    expected = len(src) / 256
    assert ((both - expected) ** 2 / expected).sum() < 330  # chi-square, 255 degrees of freedom, p = 0.001
