"""The solver, compared with exact rational filling and with the definition of max-min fairness."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dessim.sim.fluid.maxmin import Incidence, max_min_rates
from tests.sim import naive

WEIGHTS = st.sampled_from([Fraction(1), Fraction(1, 2), Fraction(1, 3), Fraction(1, 16)])


@st.composite
def networks(draw: st.DrawFn) -> tuple[list[dict[int, Fraction]], list[Fraction]]:
    n_links = draw(st.integers(1, 8))
    capacity = [Fraction(draw(st.integers(1, 12))) for _ in range(n_links)]
    path = st.dictionaries(st.integers(0, n_links - 1), WEIGHTS, min_size=1, max_size=4)
    return draw(st.lists(path, min_size=1, max_size=12)), capacity


@settings(max_examples=300, deadline=None)
@given(networks())
def test_rates_equal_exact_rational_filling(network: tuple[list[dict[int, Fraction]], list[Fraction]]) -> None:
    paths, capacity = network
    rate, _ = max_min_rates(naive.incidence(paths, capacity))
    assert rate == pytest.approx([float(r) for r in naive.rates(paths, capacity)], rel=1e-9)


@settings(max_examples=200, deadline=None)
@given(networks(), st.lists(st.floats(0.01, 20), min_size=12, max_size=12))
def test_caps_hold_and_a_full_link_or_a_cap_bounds_every_flow(
    network: tuple[list[dict[int, Fraction]], list[Fraction]], caps: list[float]
) -> None:
    paths, capacity = network
    net = naive.incidence(paths, capacity)
    cap = np.array(caps[: len(paths)])
    rate, bound = max_min_rates(net, cap)
    load = np.bincount(net.link, net.weight * rate[net.flow], minlength=len(capacity))
    assert (load <= net.capacity * (1 + 1e-9)).all()
    assert (rate <= cap * (1 + 1e-12)).all()
    for flow, link in enumerate(bound.tolist()):
        if link < 0:
            assert rate[flow] == pytest.approx(cap[flow])
        else:
            # The link that bounds a flow is full, and no other flow on it is faster.
            assert load[link] == pytest.approx(net.capacity[link], rel=1e-9)
            assert rate[net.flow[net.link == link]].max() <= rate[flow] * (1 + 1e-9)


def test_textbook_example() -> None:
    # The shape of figure 6.11 of Bertsekas and Gallager: a flow over two links, which have one and two more flows.
    net = Incidence(4, np.array([0, 0, 1, 2, 3]), np.array([0, 1, 0, 1, 1]), np.ones(5), np.array([1.0, 1.0]))
    rate, bound = max_min_rates(net)
    assert rate == pytest.approx([1 / 3, 2 / 3, 1 / 3, 1 / 3])
    assert bound.tolist() == [1, 0, 1, 1]


def test_a_flow_that_crosses_no_link_runs_at_its_cap() -> None:
    empty = np.zeros(0, dtype=np.int64)
    rate, bound = max_min_rates(Incidence(1, empty, empty, np.zeros(0), np.ones(1)), np.array([7.0]))
    assert rate.tolist() == [7.0]
    assert bound.tolist() == [-1]
