"""Stragglers: the cost of a slow rank, and rank classes compared with one class per rank, also with faults."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dessim.cluster import Cluster
from dessim.results.metrics import breakdown
from dessim.sim.engine import simulate
from dessim.sim.faults.faults import Fault, Faults
from dessim.sim.faults.stragglers import Stragglers
from dessim.trace.schema import Collective, Kind, Phase
from dessim.workload.dag import RankClass, Task, Workload
from tests.cluster.small_clusters import build, hosts, link

N = 8
FIXED = {Collective.ALL_TO_ALL: "direct", Collective.ALL_REDUCE: "ring"}


def bed(routing: str) -> Cluster:
    data = hosts(kind="leaf_spine", nodes_per_leaf=2, spines=3, uplink=link("2 GB/s"), routing=routing)
    data["node"].update(count=N, nic=link("4 GB/s"))
    return build(data)


BEDS = {routing: bed(routing) for routing in ("split", "static", "ecmp")}


def step() -> Workload:
    """A step of about 10 ms: compute, an all_to_all concurrent with compute, an all_reduce."""

    def compute(name: str, seconds: float, *deps: int) -> Task:
        return Task(name, 0, Phase.FORWARD, Kind.COMPUTE, "compute", deps, 0.0, seconds)

    def communicate(name: str, op: Collective, *deps: int) -> Task:
        return Task(name, 0, Phase.FORWARD, Kind.COLLECTIVE, "comm", deps, collective=op, group="w", size=20e6)

    tasks = (
        compute("a", 5e-3),
        communicate("x", Collective.ALL_TO_ALL, 0),
        compute("b", 4e-3, 0),
        communicate("y", Collective.ALL_REDUCE, 2),
        compute("c", 1e-3, 1, 3),
    )
    return Workload("step", N, (RankClass(range(N), tasks),), {"w": range(N)}, (0,))


def one_by_one(workload: Workload) -> Workload:
    classes = [RankClass((rank,), c.tasks) for c in workload.classes for rank in c.ranks]
    return replace(workload, classes=tuple(classes))


def test_all_ranks_wait_for_the_slow_gpu() -> None:
    cluster = BEDS["split"]
    slow = Stragglers({3: 1.5}).slowed(step())
    assert [(list(c.ranks), [t.duration for t in c.tasks]) for c in slow.classes] == [
        ([0, 1, 2, 4, 5, 6, 7], [5e-3, 0, 4e-3, 0, 1e-3]),
        ([3], [7.5e-3, 0, 6e-3, 0, 1.5e-3]),
    ]
    record = simulate(cluster, slow, FIXED)
    plain = simulate(cluster, step(), FIXED)
    moving_since = {span.name: span.moving_since for span in record.spans}
    assert moving_since["x"] == pytest.approx(7.5e-3, rel=1e-12)
    assert record.end > plain.end + 2.5e-3


def test_factors_are_lognormal_and_depend_on_seed_and_rank_only() -> None:
    drawn = Stragglers(sigma=0.2, seed=5)
    factors = drawn.factors(20_000)
    assert np.median(factors) == pytest.approx(1, abs=0.01)
    assert np.std(np.log(factors)) == pytest.approx(0.2, rel=0.02)
    assert drawn.factors(100).tolist() == factors[:100].tolist()
    assert drawn.factors(10).tolist() != Stragglers(sigma=0.2, seed=6).factors(10).tolist()
    both = Stragglers({2: 3.0, 99: 9.0}, 0.2, 5).factors(10)
    assert both[2] == 3 * factors[2] and both[1] == factors[1]
    assert len(Stragglers(sigma=0.2, seed=5).slowed(step()).classes) == N


FAULTS = st.lists(
    st.builds(
        lambda which, start, length, share: Fault(which, start * 1e-3, (start + length) * 1e-3, share),
        st.sampled_from(["spine0", "leaf0 -> spine2", "leaf1 <-> spine1", "gpu2"]),
        st.integers(0, 30),
        st.integers(1, 20),
        st.sampled_from([0.0, 0.5]),
    ),
    max_size=3,
)
STRAGGLERS = st.builds(
    Stragglers,
    st.dictionaries(st.integers(0, N - 1), st.sampled_from([1.5, 2.0, 3.0]), max_size=4),
    st.sampled_from([0.0, 0.0, 0.3]),
    st.integers(0, 99),
)


@settings(max_examples=50, deadline=None)
@given(routing=st.sampled_from(sorted(BEDS)), faults=FAULTS, stragglers=STRAGGLERS)
def test_folded_equals_unfolded(routing: str, faults: list[Fault], stragglers: Stragglers) -> None:
    """Folded flows and rank classes, compared with every flow and every rank simulated separately."""
    slowed = stragglers.slowed(step())
    during_run = Faults(tuple(faults))
    folded = simulate(BEDS[routing], slowed, FIXED, faults=during_run)
    whole = simulate(BEDS[routing], one_by_one(slowed), FIXED, folding=False, faults=during_run)
    assert folded.end == pytest.approx(whole.end, rel=1e-9)
    ends = {(rank, s.name): s.end for s in whole.spans for rank in whole.classes[s.rank_class]}
    assert len(ends) == N * 5
    for span in folded.spans:
        for rank in folded.classes[span.rank_class]:
            assert span.end == pytest.approx(ends[rank, span.name], rel=1e-9)
    for kind, size in folded.bytes_by_kind.items():
        assert size == pytest.approx(whole.bytes_by_kind[kind], rel=1e-9)
    assert breakdown(folded).exposed_comm_s == pytest.approx(breakdown(whole).exposed_comm_s, rel=1e-9)
