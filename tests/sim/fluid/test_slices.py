"""Draining in slices of time: every finish is within the reported error, and links are never needlessly idle."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dessim.errors import OutOfTime
from dessim.sim.fluid import levels
from dessim.sim.fluid.drain import Fluid, drain
from dessim.sim.fluid.maxmin import max_min_rates
from dessim.sim.fluid.slices import drain_in_slices, without_idle_links
from dessim.sim.progress import Progress
from tests.sim import naive
from tests.sim.fluid.test_maxmin import networks
from tests.sim.fluid.test_pivot import exchange, finishes

SIZES = st.lists(st.integers(0, 9), min_size=12, max_size=12)


@pytest.mark.parametrize("name", ["bench/two_level_1024", "bench/two_level_1024_4to1"])
@pytest.mark.parametrize("seed", range(3))
def test_every_finish_is_within_the_reported_error(name: str, seed: int) -> None:
    net, size = exchange(name, 24, seed)
    exact = drain(net, size)
    makespan = exact.finish.max()
    assert exact.error == 0.0
    for tolerance in (1e-3, 1e-2):
        approximate = drain(net, size, tolerance)
        assert approximate.error <= tolerance
        assert np.abs(approximate.finish - exact.finish).max() <= approximate.error * makespan
        assert (approximate.finish[size == 0] == 0).all() and (approximate.bound[size > 0] >= 0).all()


@settings(max_examples=200, deadline=None)
@given(networks(), SIZES)
def test_every_finish_in_random_networks_is_within_the_reported_error(
    network: tuple[list[dict[int, Fraction]], list[Fraction]], sizes: list[int]
) -> None:
    paths, capacity = network
    net = naive.incidence(paths, capacity)
    size = np.array(sizes[: len(paths)], dtype=float)
    exact = finishes(Fluid(net, size), len(paths))
    finish, _, _, error = drain_in_slices(net, size, 1e-2)
    assert error <= 1e-2
    assert np.abs(finish - exact).max(initial=0.0) <= error * exact.max(initial=0.0) + 1e-12


@settings(max_examples=200, deadline=None)
@given(networks())
def test_idle_links_bind_no_flow(network: tuple[list[dict[int, Fraction]], list[Fraction]]) -> None:
    net = naive.incidence(*network)
    fewer = without_idle_links(net)
    assert len(fewer.flow) <= len(net.flow)
    np.testing.assert_allclose(max_min_rates(fewer)[0], max_min_rates(net)[0], rtol=1e-9, atol=0)


def test_uplinks_without_oversubscription_are_idle_links() -> None:
    net, _ = exchange("bench/two_level_1024", 40)
    assert np.bincount(without_idle_links(net).flow).tolist() == [2] * net.n_flows
    net, _ = exchange("bench/two_level_1024_4to1", 40)
    assert len(without_idle_links(net).flow) == len(net.flow)


def test_policy_iteration_and_solving_from_scratch_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    net, size = exchange("bench/two_level_1024_4to1", 40)
    iterated = drain_in_slices(net, size, 1e-2)
    monkeypatch.setattr(levels, "_MAX_ITERATIONS", 0)
    scratch = drain_in_slices(net, size, 1e-2)
    assert iterated[2] == scratch[2]
    assert np.abs(iterated[0] - scratch[0]).max() <= 1e-4 * scratch[0].max()


def test_the_busiest_link_is_never_idle() -> None:
    net, size = exchange("bench/two_level_1024", 40)
    load = np.bincount(net.link, net.weight * size[net.flow], minlength=len(net.capacity))
    assert drain(net, size, 1e-2).finish.max() == pytest.approx((load / net.capacity).max(), rel=1e-9)


def test_there_are_fewer_solves_than_finishes() -> None:
    net, size = exchange("bench/two_level_1024", 48)
    assert drain(net, size, 1e-2).solves < np.count_nonzero(size) / 10


def test_a_time_budget_ends_the_drain() -> None:
    net, size = exchange("bench/two_level_1024", 40)
    times = iter(np.arange(0.0, 1e6, 0.5))
    with pytest.raises(OutOfTime):
        drain(net, size, 1e-3, Progress(budget_s=20.0, clock=lambda: float(next(times))))
