"""Expected numbers of distinct ids, against exact sums and against drawn ids."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dessim.workload.ids import HeapsLaw, ZipfLaw, expected_unique


def exact(draws: int, vocabulary: int, skew: float) -> float:
    weights = np.arange(1.0, vocabulary + 1) ** -skew
    return float((-np.expm1(draws * np.log1p(-weights / weights.sum()))).sum())


@pytest.mark.parametrize("skew", [0.0, 0.8, 1.05, 2.0])
@pytest.mark.parametrize("vocabulary", [2, 100, 4096, 4097, 50_000, 1_000_000])
@pytest.mark.parametrize("draws", [1, 1000, 300_000])
def test_the_binned_sum_equals_the_exact_one(draws, vocabulary, skew):
    assert expected_unique(draws, vocabulary, skew) == pytest.approx(exact(draws, vocabulary, skew), rel=1e-3)


@pytest.mark.parametrize("skew", [0.0, 1.05, 1.5])
def test_drawing_ids_gives_the_expected_count(skew):
    rng, vocabulary, draws, trials = np.random.default_rng(7), 20_000, 10_000, 40
    p = np.arange(1.0, vocabulary + 1) ** -skew
    p /= p.sum()
    counts = [len(np.unique(rng.choice(vocabulary, draws, p=p))) for _ in range(trials)]
    error = np.std(counts) / trials**0.5
    assert abs(np.mean(counts) - expected_unique(draws, vocabulary, skew)) < 5 * error


def test_uniform_ids_have_a_closed_form():
    assert expected_unique(1000, 1e6, 0.0) == pytest.approx(1e6 * -np.expm1(1000 * np.log1p(-1e-6)), rel=1e-6)


@given(st.floats(1, 1e9), st.floats(1, 1e10), st.floats(0, 4))
def test_distinct_ids_never_exceed_draws_or_vocabulary(draws, vocabulary, skew):
    unique = expected_unique(draws, vocabulary, skew)
    assert 0 < unique <= min(draws, vocabulary + 1) * (1 + 1e-3)
    assert expected_unique(2 * draws, vocabulary, skew) >= unique * (1 - 1e-12)


@pytest.mark.parametrize("skew", [0.0, 1.05, 2.0])
@pytest.mark.parametrize("beyond", [0, 7, 4096, 30_000, 50_000])
def test_ids_beyond_the_most_frequent_are_the_exact_tail(skew, beyond):
    weights = np.arange(1.0, 50_001) ** -skew
    tail = float((-np.expm1(10_000 * np.log1p(-weights / weights.sum())))[beyond:].sum())
    assert expected_unique(10_000, 50_000, skew, beyond) == pytest.approx(tail, rel=2e-3)


def test_no_draws_give_no_ids():
    assert expected_unique(0, 100, 1.0) == 0


@given(st.floats(1, 1e6), st.floats(0.3, 1.0), st.floats(1.5, 100))
def test_heaps_law_passes_through_its_points(draws, exponent, factor):
    unique_a, unique_b = 0.5 * draws**exponent, 0.5 * (draws * factor) ** exponent
    law = HeapsLaw.through(draws, unique_a, draws * factor, unique_b)
    assert law.exponent == pytest.approx(exponent, abs=1e-6)
    assert law.unique(draws) == pytest.approx(unique_a, rel=1e-6)
    assert law.unique(draws * factor) == pytest.approx(unique_b, rel=1e-6)


def test_heaps_law_bounds_what_its_points_do_not_determine():
    assert HeapsLaw.through(100, 50, 100, 50) == HeapsLaw(0.5, 1.0)
    assert HeapsLaw.through(0, 0, 10, 10).unique(100) == 0
    assert HeapsLaw.through(100, 50, 200, 150).exponent == 1.0  # faster than draws: not a law of ids
    assert HeapsLaw.through(100, 50, 200, 40).exponent == 0.0
    assert HeapsLaw(1.0, 1.0).unique(10) == 10


def test_stated_shares_replace_the_law():
    law = ZipfLaw(3, 9.0, shares=(0.7, 0.2, 0.1))
    exact = sum(1 - (1 - p) ** 5 for p in law.shares)
    assert law.unique(5) == pytest.approx(exact, rel=1e-12)
    assert law.unique(5, beyond=1) == pytest.approx(exact - (1 - 0.3**5), rel=1e-12)
    assert law.bins.single == 3 and law.unique(1e9) == pytest.approx(3)
    ((own, share, hot),) = law.tables(2.0)
    assert own.shares == law.shares and (share, hot) == (1, 2.0)
