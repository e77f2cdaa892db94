"""Pivoting is exact: compared with solving from scratch at every finish."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dessim.cluster import load_cluster
from dessim.sim.fluid.drain import Fluid, start_draining
from dessim.sim.fluid.fold import fold
from dessim.sim.fluid.incidence import incidence
from dessim.sim.fluid.maxmin import Incidence
from dessim.sim.fluid.pivot import PivotFluid
from tests.sim import naive
from tests.sim.fluid.test_maxmin import networks


def finishes(fluid: Fluid | PivotFluid, n: int) -> np.ndarray:
    """When each of n flows finishes, in seconds."""
    finish = np.zeros(n)
    now = 0.0
    while not fluid.empty:
        step = fluid.next_finish()
        done = fluid.advance(step)
        now += step
        finish[done] = now
    return finish


def exchange(name: str, n: int, seed: int = 7) -> tuple[Incidence, np.ndarray]:
    """A direct all_to_all with a random size for each pair; some messages are empty."""
    cluster = load_cluster(name)
    src, dst = np.divmod(np.arange(n * n), n)
    src, dst = src[src != dst], dst[src != dst]
    net, _, _ = incidence(cluster, src, dst)
    size = np.random.default_rng(seed).uniform(0, 2e6, len(src))
    size[::17] = 0.0
    return fold(net, np.arange(len(src)), enabled=False).net, size


@settings(max_examples=300, deadline=None)
@given(networks(), st.lists(st.integers(0, 9), min_size=12, max_size=12))
def test_finishes_in_random_networks_equal_those_of_the_plain_solver(
    network: tuple[list[dict[int, Fraction]], list[Fraction]], sizes: list[int]
) -> None:
    paths, capacity = network
    net = naive.incidence(paths, capacity)
    size = np.array(sizes[: len(paths)], dtype=float)
    expected = finishes(Fluid(net, size), len(paths))
    np.testing.assert_allclose(finishes(PivotFluid(net, size), len(paths)), expected, rtol=1e-9, atol=0)


@pytest.mark.parametrize(
    ("name", "n"), [("bench/two_level_1024", 24), ("bench/two_level_1024_4to1", 40), ("h100-8x_rail_128", 24)]
)
def test_finishes_of_an_uneven_exchange_equal_those_of_the_plain_solver(name: str, n: int) -> None:
    net, size = exchange(name, n)
    fluid = PivotFluid(net, size)
    np.testing.assert_allclose(finishes(fluid, len(size)), finishes(Fluid(net, size), len(size)), rtol=1e-9, atol=0)
    assert fluid.solves < len(size) / 20  # most finishes were pivoted


def test_rates_and_remaining_bytes_agree_between_finishes() -> None:
    net, size = exchange("bench/two_level_1024_4to1", 24)
    pivot = PivotFluid(net, size)
    plain = Fluid(net, size)
    for _ in range(200):
        step = plain.next_finish()
        assert pivot.next_finish() == pytest.approx(step, rel=1e-7)
        assert pivot.advance(step * 0.4).tolist() == plain.advance(step * 0.4).tolist()
        rest = plain.next_finish()
        pivot.advance(rest)
        plain.advance(rest)
        np.testing.assert_allclose(pivot.rate, plain.rate, rtol=1e-9, atol=0)
        np.testing.assert_allclose(pivot.remaining, plain.remaining, rtol=5e-10, atol=5e-6)


def test_small_networks_are_not_pivoted() -> None:
    net, size = exchange("bench/two_level_1024", 8)
    assert isinstance(start_draining(net, size), Fluid)
    assert isinstance(start_draining(*exchange("bench/two_level_1024", 16)), PivotFluid)
