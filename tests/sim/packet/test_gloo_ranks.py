"""gloo rank by rank takes as long as its schedule for all ranks at once, if all ranks behave identically."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dessim.cluster import Cluster, load_cluster
from dessim.sim.engine import simulate
from dessim.sim.packet.gloo_ranks import PROGRAMS
from dessim.trace.schema import Collective, sent_factor
from dessim.workload.dag import Task, Workload
from tests.sim.packet.test_fabric import bed
from tests.sim.test_engine import job, reduce

BED = load_cluster("lab/switch_8")
OPS = sorted(PROGRAMS)


def alone(op: Collective, n: int, size: float) -> Workload:
    return job([(range(n), [reduce("op", size, collective=op)])])


def took(cluster: Cluster, work: Workload, cores: int | None) -> float:
    network = "fluid" if cores is None else "packet"
    return simulate(cluster, work, cores=cores, network=network).end


@pytest.mark.parametrize("op", sorted(set(PROGRAMS) - {Collective.ALL_TO_ALL}))
@pytest.mark.parametrize("n", [2, 3, 4, 8])
def test_an_op_takes_as_long_as_the_schedule_for_all_ranks(op: Collective, n: int) -> None:
    cluster, work = bed(BED), alone(op, n, 4e6)
    assert took(cluster, work, cores=8) == pytest.approx(took(cluster, work, cores=None), rel=0.03)


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(OPS), st.integers(2, 8), st.integers(1, 3_000_000))
def test_ranks_send_the_bytes_of_the_op_and_a_few_notifications(op: Collective, n: int, size: int) -> None:
    record = simulate(bed(BED), alone(op, n, float(size)), cores=8, network="packet")
    payload = sent_factor(op, n) * size * n
    if op is Collective.BROADCAST:
        payload = size * (n - 1)
    # Two notifications per message, of at most 8 messages per pair of ranks.
    notifications = 2 * 48.0 * n * (n - 1) * 8
    assert payload * (1 - 1e-9) <= record.bytes_by_kind["nic_up"] <= payload + notifications
    assert {span.collective for span in record.spans} == {op} and len(record.spans) == n


def test_the_time_of_long_tensors_is_proportional_to_their_size() -> None:
    short, long = (took(bed(BED), alone(Collective.ALL_REDUCE, 2, size), 8) for size in (1e6, 64e6))
    assert long == pytest.approx(64 * short, rel=0.02)


def test_reductions_take_time() -> None:
    rate = BED.node.nic.capacity / 2
    for op in (Collective.ALL_REDUCE, Collective.REDUCE_SCATTER):
        plain, slow = (took(bed(BED, reduction_rate=r), alone(op, 4, 4e6), 8) for r in (1e15, rate))
        assert slow > plain + 0.5 * 3e6 / rate


def test_an_uneven_exchange_moves_all_its_bytes() -> None:
    shares = [(0.0, 3e5, 1e3), (2e5, 0.0, 1e3), (0.0, 1e6, 0.0)]
    task = reduce("op", 0.0, collective=Collective.ALL_TO_ALL)
    ranks: list[tuple[tuple[int, ...], list[Task]]] = [((r,), [replace(task, splits=s)]) for r, s in enumerate(shares)]
    record = simulate(bed(BED), job(ranks), cores=8, network="packet")
    assert record.bytes_by_kind["nic_up"] == pytest.approx(sum(map(sum, shares)), rel=0.01)
