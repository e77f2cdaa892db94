"""Few flows in plain numbers: the same rates, bounds and arrivals as with numpy."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import simpy
from hypothesis import given, settings
from hypothesis import strategies as st

from dessim.sim.fluid import fabric, singles
from dessim.sim.fluid.fabric import FlowFabric
from dessim.sim.fluid.few_flows import few_max_min_rates
from dessim.sim.fluid.flows import route_flows
from dessim.sim.fluid.maxmin import max_min_rates
from tests.sim import naive
from tests.sim.fluid.test_fan_in import CURVE, bed
from tests.sim.fluid.test_maxmin import networks


@settings(max_examples=200, deadline=None)
@given(networks(), st.lists(st.floats(0.01, 20) | st.just(np.inf), min_size=12, max_size=12))
def test_rates_and_bounds_equal_those_of_numpy(
    network: tuple[list[dict[int, Fraction]], list[Fraction]], caps: list[float]
) -> None:
    paths, capacity = network
    cap = caps[: len(paths)]
    rate, bound = max_min_rates(naive.incidence(paths, capacity), np.array(cap))
    plain = [sorted((link, float(weight)) for link, weight in path.items()) for path in paths]
    few = few_max_min_rates(plain, {link: float(c) for link, c in enumerate(capacity)}, cap)
    assert few[0] == pytest.approx(rate.tolist(), rel=1e-12)
    assert few[1] == bound.tolist()


MESSAGE = st.tuples(st.integers(0, 40), st.integers(0, 15), st.integers(0, 2), st.integers(1, 60))
LIMITED = bed(CURVE, "3 GB/s")
OPEN = bed()
FLOWS = {
    (cluster is LIMITED, src, dst): route_flows(cluster, np.array([src]), np.array([dst]), np.ones(1))
    for cluster in (LIMITED, OPEN)
    for src in range(16)
    for dst in range(3)
    if src != dst
}


@settings(max_examples=60, deadline=None)
@given(st.lists(MESSAGE.filter(lambda m: m[1] != m[2]), min_size=1, max_size=12), st.sampled_from([LIMITED, OPEN]))
def test_single_messages_arrive_as_among_many(messages: list[tuple[int, int, int, int]], cluster) -> None:
    """Single messages to three receivers arrive when `Shared` says so, bound by the same links, with the same bytes."""

    def run() -> tuple[list[object], list[float], int]:
        env = simpy.Environment()
        network = FlowFabric(env, cluster)

        def send(start: int, src: int, dst: int, size: int):  # type: ignore[no-untyped-def]
            yield env.timeout(start * 1e-9)
            parts = yield network.transfer(FLOWS[cluster is LIMITED, src, dst], size)
            return env.now, parts

        sent = [env.process(send(*message)) for message in messages]
        env.run(until=simpy.AllOf(env, sent))
        counters = network.counters
        carried = [counters.load(env.now).mean(kind) for kind in counters.load(env.now).rate]
        return [process.value for process in sent], carried, counters.solves

    as_singles = run()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fabric, "are_few_singles", lambda batches, cluster: False)
        expected = run()
    for (end, parts), (same_end, same_parts) in zip(as_singles[0], expected[0], strict=True):
        assert end == pytest.approx(same_end, rel=1e-12)
        assert parts == pytest.approx(same_parts, rel=1e-9, abs=1e-18)
    assert as_singles[1] == pytest.approx(expected[1], rel=1e-9)
    assert as_singles[2] == expected[2]


def test_many_messages_are_left_to_numpy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(singles, "_MOST_MESSAGES", 0)
    flows = route_flows(OPEN, np.array([1]), np.array([2]), np.ones(1))
    network = FlowFabric(simpy.Environment(), OPEN)
    network.transfer(flows)
    assert not singles.are_few_singles(network._arriving, OPEN)
