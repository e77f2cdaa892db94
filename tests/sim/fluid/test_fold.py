"""Folding is exact: the quotient has the same rates and finish times as the whole network."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dessim.cluster import load_cluster
from dessim.sim.fluid.drain import drain
from dessim.sim.fluid.fold import fold
from dessim.sim.fluid.incidence import incidence
from dessim.sim.fluid.maxmin import Incidence, max_min_rates
from tests.sim import naive
from tests.sim.fluid.test_maxmin import networks


@st.composite
def symmetric_networks(draw: st.DrawFn) -> tuple[Incidence, np.ndarray]:
    """Copies of a random network that share some links: many flows can be folded, many others must not be."""
    paths, capacity = draw(networks())
    copies = draw(st.integers(1, 5))
    shared = draw(st.integers(0, len(capacity)))
    all_paths = [
        {(link if link < shared else link + c * len(capacity)): w for link, w in path.items()}
        for c in range(copies)
        for path in paths
    ]
    net = naive.incidence(all_paths, capacity * copies)
    size = np.array(draw(st.lists(st.integers(1, 3), min_size=len(paths), max_size=len(paths))) * copies, dtype=float)
    if draw(st.booleans()):
        size[draw(st.integers(0, len(size) - 1))] += 1  # one flow breaks the symmetry
    return net, size


@settings(max_examples=300, deadline=None)
@given(symmetric_networks())
def test_folded_equals_unfolded(case: tuple[Incidence, np.ndarray]) -> None:
    net, size = case
    folded = fold(net, size.astype(np.int64))
    rate, _ = max_min_rates(folded.net)
    whole, _ = max_min_rates(net)
    np.testing.assert_allclose(rate[folded.colour], whole, rtol=1e-9, atol=0)
    finish = drain(folded.net, size[folded.flow_of]).finish
    np.testing.assert_allclose(finish[folded.colour], drain(net, size).finish, rtol=1e-9, atol=0)
    assert folded.count.sum() == net.n_flows


@settings(max_examples=100, deadline=None)
@given(networks())
def test_drain_equals_exact_rational_simulation(network: tuple[list[dict[int, Fraction]], list[Fraction]]) -> None:
    paths, capacity = network
    sizes = [Fraction(1 + (7 * i) % 5) for i in range(len(paths))]
    flows = [naive.Flow(Fraction(0), size, path) for size, path in zip(sizes, paths, strict=True)]
    expected = [float(t) for t in naive.finish_times(flows, capacity)]
    finish = drain(naive.incidence(paths, capacity), np.array([float(s) for s in sizes])).finish
    np.testing.assert_allclose(finish, expected, rtol=1e-9, atol=0)


def test_a_ring_over_1024_hosts_folds_to_a_handful_of_colours() -> None:
    cluster = load_cluster("bench/two_level_1024")
    ranks = np.arange(1024)
    net, _, _ = incidence(cluster, ranks, (ranks + 1) % 1024)
    folded = fold(net, np.zeros(1024, dtype=np.int64))
    assert len(folded.count) <= 16
    assert max_min_rates(folded.net)[0][folded.colour] == pytest.approx(max_min_rates(net)[0], rel=1e-12)


def test_flows_of_different_kinds_are_not_folded() -> None:
    net = Incidence(2, np.array([0, 1]), np.array([0, 1]), np.ones(2), np.ones(2))
    assert len(fold(net, np.array([0, 0])).count) == 1
    assert len(fold(net, np.array([0, 1])).count) == 2
    assert len(fold(net, np.array([0, 0]), enabled=False).count) == 2


def test_colours_are_numbered_by_their_first_members() -> None:
    """If several links fill together, the first is named as the bound, with or without folding."""
    net = Incidence(4, np.arange(4), np.array([0, 1, 0, 2]), np.ones(4), np.array([2.0, 1.0, 4.0]))
    folded = fold(net, np.zeros(4, dtype=np.int64))
    assert folded.colour.tolist() == [0, 1, 0, 2]
    assert folded.flow_of.tolist() == [0, 1, 3]
    assert folded.count.tolist() == [2, 1, 1]
    assert folded.link_of.tolist() == folded.links.tolist() == [0, 1, 2]


@pytest.mark.parametrize("shift", [1, 37, 64, 99])
def test_colours_spread_from_the_ends_of_a_shift(shift: int) -> None:
    """Refinement takes many rounds, on a graph that shrinks after the first, to separate hosts that look identical."""
    cluster = load_cluster("bench/two_level_1024_4to1")
    ranks = np.arange(200)
    net, _, _ = incidence(cluster, ranks, (ranks + shift) % 200)
    folded = fold(net, np.zeros(200, dtype=np.int64))
    assert 1 < len(folded.count) < 200
    assert drain(folded.net, np.ones(len(folded.count))).finish[folded.colour] == pytest.approx(
        drain(net, np.ones(200)).finish, rel=1e-12
    )
