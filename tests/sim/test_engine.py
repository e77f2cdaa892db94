"""The event loop: streams keep order, collectives wait for their last member, deadlocks are explained."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from dessim.cluster import load_cluster
from dessim.errors import CapacityError, DeadlockError, SimulationError
from dessim.results.metrics import breakdown, step_times
from dessim.sim.core.device import roofline
from dessim.sim.engine import simulate
from dessim.trace.schema import Collective, Kind, Phase
from dessim.workload.dag import RankClass, Task, Workload

CLUSTER = load_cluster("one-switch_16")  # 50 GB/s per host; a message crosses two links of 1 us
LATENCY = 2e-6
RATE = 50e9
RING = {Collective.ALL_REDUCE: "ring"}


def compute(name: str, seconds: float, *deps: int, stream: str = "compute", delay: float = 0.0) -> Task:
    return Task(name, 0, Phase.FORWARD, Kind.COMPUTE, stream, deps, delay, seconds)


def reduce(name: str, size: float, *deps: int, group: str = "world", stream: str = "comm", **rest: Any) -> Task:
    rest = {"collective": Collective.ALL_REDUCE, **rest}
    return Task(name, 0, Phase.FORWARD, Kind.COLLECTIVE, stream, deps, group=group, size=size, **rest)


def job(classes: Sequence[tuple[Sequence[int], Sequence[Task]]], **groups: Sequence[int]) -> Workload:
    ranks = [r for members, _ in classes for r in members]
    rank_classes = tuple(RankClass(members, tuple(tasks)) for members, tasks in classes)
    return Workload("test", len(ranks), rank_classes, groups or {"world": ranks}, (0,))


def ring(n: int, size: float) -> float:
    """Seconds of a ring all_reduce of `size` bytes over n ranks."""
    return 2 * (n - 1) * (size / n / RATE + LATENCY)


def test_communication_overlaps_compute_exactly_as_the_graph_allows() -> None:
    size = 50e6
    tasks = [
        compute("a", 1e-3),
        reduce("all", size, 0),
        compute("beside", 4e-3, 0),  # does not wait for the collective
        compute("after", 1e-3, 1, 2),
    ]
    record = simulate(CLUSTER, job([(range(2), tasks)]), RING)
    communication = ring(2, size)
    assert communication < 4e-3
    assert record.end == pytest.approx(1e-3 + 4e-3 + 1e-3)
    parts = breakdown(record)
    assert parts.exposed_comm_s == pytest.approx(0.0, abs=1e-12)
    assert parts.compute_s == pytest.approx(6e-3)
    # Without the concurrent op the same collective is exposed.
    record = simulate(CLUSTER, job([(range(2), [tasks[0], tasks[1], compute("after", 1e-3, 1)])]), RING)
    assert record.end == pytest.approx(2e-3 + communication)
    assert breakdown(record).exposed_comm_s == pytest.approx(communication)


def test_ops_of_a_stream_run_in_issue_order() -> None:
    # "second" is ready immediately, but was issued after "first", which waits.
    tasks = [compute("slow", 3e-3, stream="copy"), compute("first", 1e-3, 0), compute("second", 1e-3)]
    record = simulate(CLUSTER, job([((0,), tasks)]))
    starts = {s.name: s.start for s in record.spans}
    assert starts == {"slow": 0.0, "first": pytest.approx(3e-3), "second": pytest.approx(4e-3)}


def test_a_collective_waits_for_its_last_member_and_names_the_late_rank_as_bound() -> None:
    early = [compute("work", 1e-3), reduce("all", 8.0, 0)]
    late = [compute("work", 9e-3), reduce("all", 8.0, 0)]
    record = simulate(CLUSTER, job([((0, 1), early), ((2,), late)]), RING)
    spans = {(s.rank_class, s.name): s for s in record.spans}
    assert spans[0, "all"].moving_since == spans[1, "all"].moving_since == pytest.approx(9e-3)
    assert spans[0, "all"].bound_by == "late rank"
    assert spans[1, "all"].bound_by == "latency"
    assert record.end == pytest.approx(9e-3 + ring(3, 8.0))


def test_a_class_of_identical_ranks_equals_ranks_in_classes_of_one() -> None:
    tasks = [compute("a", 1e-3), reduce("x", 1e6, 0), compute("b", 2e-3, 1), reduce("y", 3e6, 2)]
    one_class = simulate(CLUSTER, job([(range(8), tasks)]))
    eight_classes = simulate(CLUSTER, job([((r,), tasks) for r in range(8)]))
    assert one_class.end == pytest.approx(eight_classes.end, rel=1e-12)
    assert breakdown(one_class).exposed_comm_s == pytest.approx(breakdown(eight_classes).exposed_comm_s, rel=1e-9)


def test_groups_that_share_a_link_slow_each_other_down() -> None:
    size = 400e6
    halves = {"a": (0, 1), "b": (0, 2)}
    tasks_0 = [reduce("x", size, group="a"), reduce("y", size, group="b", stream="comm 2")]
    other = {r: [reduce("x" if r == 1 else "y", size, group=g)] for r, g in ((1, "a"), (2, "b"))}
    both = simulate(CLUSTER, job([((0,), tasks_0), ((1,), other[1]), ((2,), other[2])], **halves), RING)
    alone = ring(2, size)
    # The link of rank 0 carries both rings, so each gets half its rate.
    assert both.end == pytest.approx(2 * 2 * (size / 2 / (RATE / 2) + LATENCY) / 2, rel=1e-9)
    assert both.end > 1.9 * alone


def test_an_uneven_all_to_all_moves_the_bytes_of_its_splits() -> None:
    # Rank 0 sends 30 MB to rank 1 and 10 MB to rank 2; the others send 5 MB to each.
    rows = ((0, 30_000_000, 10_000_000), (5_000_000, 0, 5_000_000), (5_000_000, 5_000_000, 0))
    exchange = Collective.ALL_TO_ALL
    classes = [((r,), [reduce("ids", float(sum(rows[r])), collective=exchange, splits=rows[r])]) for r in range(3)]
    record = simulate(CLUSTER, job(classes), {Collective.ALL_TO_ALL: "direct"})
    # The link of rank 0 is the busiest, with 40 MB.
    assert record.end == pytest.approx(40e6 / RATE + LATENCY, rel=1e-9)
    assert record.bytes_by_kind["nic_up"] == pytest.approx(60e6)
    pairwise = simulate(CLUSTER, job(classes), {Collective.ALL_TO_ALL: "pairwise"})
    assert pairwise.end == pytest.approx(30e6 / RATE + 10e6 / RATE + 2 * LATENCY, rel=1e-9)


def test_a_deadlock_names_the_collective_and_the_missing_ranks() -> None:
    # Rank 1 calls the collectives in the other order.
    first = [reduce("x", 1e6), reduce("y", 1e6)]
    with pytest.raises(DeadlockError, match=r"x of step 0 over 'world' has 1 of 2 ranks and waits for 1"):
        simulate(CLUSTER, job([((0,), first), ((1,), first[::-1])]))
    with pytest.raises(DeadlockError, match=r"waits for 2, 3"):
        simulate(CLUSTER, job([((0, 1), [reduce("x", 1e6)]), ((2, 3), [compute("a", 1.0)])]))


def test_the_ranks_of_a_collective_must_agree_on_the_op() -> None:
    all_reduce = [reduce("x", 1e6)]
    all_gather = [reduce("x", 1e6, collective=Collective.ALL_GATHER)]
    with pytest.raises(SimulationError, match=r"all_gather on one rank, all_reduce on another|all_reduce on one rank"):
        simulate(CLUSTER, job([((0,), all_reduce), ((1,), all_gather)]))
    with pytest.raises(SimulationError, match="'missing', which is not declared"):
        simulate(CLUSTER, job([((0,), [reduce("x", 1e6, group="missing")])]))


def test_a_job_that_does_not_fit_is_refused() -> None:
    with pytest.raises(CapacityError, match="has 16 GPUs"):
        simulate(CLUSTER, job([(range(17), [compute("a", 1.0)])]))


def test_a_host_delay_counts_and_a_collective_of_one_rank_takes_no_time() -> None:
    record = simulate(CLUSTER, job([((0,), [compute("a", 1e-3, delay=2e-3), reduce("x", 1e9, 0)])]))
    assert record.end == pytest.approx(3e-3)  # a group of one rank moves nothing
    assert step_times(record) == pytest.approx([1e-3])


def test_roofline_is_the_slower_of_arithmetic_and_memory_traffic() -> None:
    gpu = CLUSTER.gpu
    flops, rate = gpu.flops * gpu.efficiency_flops, gpu.memory_bandwidth * gpu.efficiency_memory
    assert roofline(gpu, flops, 0.0, 0) == pytest.approx(1.0)
    assert roofline(gpu, 0.0, rate, 0) == pytest.approx(1.0)
    assert roofline(gpu, flops, rate / 2, 3) == pytest.approx(1.0 + 3 * gpu.launch_overhead)
