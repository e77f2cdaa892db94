"""Several jobs on one fabric: queueing for GPUs, sharing links, and repeated steps that are not simulated again."""

from __future__ import annotations

import dataclasses
import itertools
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dessim.cluster import Cluster, load_cluster
from dessim.errors import CapacityError, DeadlockError, OutOfTime, UsageError
from dessim.results.metrics import breakdown
from dessim.sim.engine import simulate
from dessim.sim.fluid.route_cache import RouteCache
from dessim.sim.jobs.job import JobResult, Tenant
from dessim.sim.jobs.tenants import simulate_tenants
from dessim.sim.progress import Progress
from dessim.trace.schema import Collective
from dessim.workload.dag import Workload
from tests.cluster.small_clusters import build, clusters, hosts, link
from tests.sim.test_engine import RING, compute, job, reduce

RATE = 50e9  # bytes/s
HOP = 1e-6  # s
CLUSTER = build(hosts(kind="leaf_spine", nodes_per_leaf=4, spines=2, uplink=link(), routing="split"))
"""8 hosts on two leaf switches. The four hosts of a leaf can send 200 GB/s, its uplinks carry 100 GB/s."""


def step(size: float, n: int = 4, before: float = 1e-3, after: float = 0.5e-3) -> Workload:
    return job([(range(n), [compute("a", before), reduce("x", size, 0), compute("b", after, 1)])])


def run(
    *tenants: Tenant, cluster: Cluster = CLUSTER, folding: bool = True, steady_state: bool = True
) -> list[JobResult]:
    return simulate_tenants(RouteCache(cluster, folding), tenants, RING, steady_state=steady_state)


def simulated(result: JobResult) -> int:
    """The number of steps that were simulated, not counted in the steady state."""
    return len(result.records)


def assert_same(results: list[JobResult], expected: list[JobResult], rel: float = 1e-9, bounds: bool = True) -> None:
    for one, other in zip(results, expected, strict=True):
        assert one.gpus.tolist() == other.gpus.tolist()
        assert sum(count for _, count in one.records) == one.steps == other.steps
        for name in ("start", "end", "wait_s", "step_time_s", "alone_s", "slowdown"):
            assert getattr(one, name) == pytest.approx(getattr(other, name), rel=rel, abs=1e-12), name
        for kind, size in bytes_of(other).items():
            assert bytes_of(one)[kind] == pytest.approx(size, rel=rel)
        for part, seconds in parts_of(other, bounds).items():
            assert parts_of(one, bounds)[part] == pytest.approx(seconds, rel=rel, abs=1e-12), part


def parts_of(result: JobResult, bounds: bool) -> dict[str, float]:
    """Seconds of the whole job by activity of the GPUs and, with `bounds`, by bound on the critical path."""
    total: dict[str, float] = {}
    for record, count in result.records:
        step_parts = breakdown(record)
        parts = [
            ("compute_s", step_parts.compute_s),
            ("exposed_s", step_parts.exposed_comm_s),
            ("idle_s", step_parts.idle_s),
        ]
        parts += [pair for op in step_parts.critical_path if bounds for pair in op.parts.items()]
        for part, seconds in parts:
            total[part] = total.get(part, 0.0) + count * seconds
    return total


def bytes_of(result: JobResult) -> dict[str, float]:
    kinds = result.records[0][0].bytes_by_kind
    return {kind: sum(count * record.bytes_by_kind[kind] for record, count in result.records) for kind in kinds}


def test_two_jobs_on_oversubscribed_uplinks_get_max_min_fair_shares() -> None:
    # With spread placement all four messages of a stage cross between the leaves, two from each leaf. A lone job uses
    # the 100 GB/s of the uplinks; two jobs need 200 GB/s, so each message gets half the rate of its NIC.
    size, stages = 100e6, 6
    alone = 1.5e-3 + stages * (size / 4 / RATE + 4 * HOP)
    both = 1.5e-3 + stages * (size / 4 / (RATE / 2) + 4 * HOP)
    for result in run(Tenant("a", step(size), 0, 5, "spread"), Tenant("b", step(size), 0, 5, "spread")):
        assert result.alone_s == pytest.approx(alone, rel=1e-12)
        assert result.step_time_s == pytest.approx(both, rel=1e-12)
        assert result.slowdown == pytest.approx(both / alone, rel=1e-12)
        assert {breakdown(record).bound_by for record, _ in result.records} == {"leaf_up"}


def test_packed_jobs_share_no_link() -> None:
    for result in run(Tenant("a", step(100e6), 0, 5), Tenant("b", step(100e6), 0, 5)):
        assert result.slowdown == pytest.approx(1.0, rel=1e-12)
        assert "leaf_up" not in bytes_of(result) and bytes_of(result)["nic_up"] > 0


def test_a_lone_tenant_equals_the_job_simulated_by_itself() -> None:
    record = simulate(CLUSTER, step(100e6, 8), RING)
    [result] = run(Tenant("a", step(100e6, 8), 0, 3))
    assert result.step_time_s == pytest.approx(record.end, rel=1e-12) and result.slowdown == pytest.approx(1, rel=1e-12)
    carried = {kind: 3 * size for kind, size in record.bytes_by_kind.items() if size > 0}
    assert bytes_of(result) == pytest.approx(carried, rel=1e-12)


def test_equal_steps_of_a_lone_job_are_simulated_once() -> None:
    [few] = run(Tenant("a", step(100e6), 0, 7, "spread"), steady_state=False)
    [many] = run(Tenant("a", step(100e6), 0, 7_000_000, "spread"))
    assert simulated(few) == 7 and simulated(many) == 1
    assert many.step_time_s == pytest.approx(few.step_time_s, rel=1e-12)
    assert many.end == pytest.approx(1e6 * few.end, rel=1e-12)


def test_jobs_that_share_no_link_repeat_independently() -> None:
    jobs = [Tenant("a", step(100e6), 0, 60), Tenant("b", step(70e6), 1.1e-3, 60)]
    short = run(*jobs)
    assert [simulated(result) for result in short] == [1, 1]  # the arrival of b does not affect a
    assert_same(short, run(*jobs, steady_state=False))


def test_jobs_out_of_phase_repeat_when_no_job_communicates() -> None:
    # Each job ends its steps while the other computes, so the state recurs every step.
    jobs = [
        Tenant("a", step(40e6, before=8e-3), 0, 90, "spread"),
        Tenant("b", step(40e6, before=8e-3), 0.5e-3, 80, "spread"),
    ]
    short = run(*jobs)
    full = run(*jobs, steady_state=False)
    assert_same(short, full)
    assert all(result.slowdown > 1.01 for result in short)
    assert all(simulated(result) < 10 for result in short) and [simulated(result) for result in full] == [90, 80]


def test_jobs_repeat_if_communication_slows_compute() -> None:
    slowed = dataclasses.replace(CLUSTER, gpu=dataclasses.replace(CLUSTER.gpu, comm_sm_share=0.3))
    tasks = [compute("a", 3e-3), reduce("x", 40e6), compute("c", 9e-3, stream="side"), compute("b", 4e-3, 1)]
    jobs = [Tenant(n, job([(range(4), tasks)]), t, 50, "spread") for n, t in (("a", 0.0), ("b", 2.1e-3))]
    short = run(*jobs, cluster=slowed)
    assert_same(short, run(*jobs, cluster=slowed, steady_state=False))
    assert all(simulated(result) < 20 for result in short)


def test_three_steps_of_one_job_during_two_of_another_repeat() -> None:
    # A step communicates for c seconds, then computes for 2 s - c, or 3 s - c. About every 6 s both jobs communicate.
    c = 6 * (1e8 / 4 / RATE + 4 * HOP)
    jobs = [
        Tenant(name, job([(range(4), [reduce("x", 1e8), compute("b", seconds - c, 0)])]), 0, steps, "spread")
        for name, seconds, steps in (("a", 2.0, 90), ("b", 3.0, 70))
    ]
    short = run(*jobs)
    assert_same(short, run(*jobs, steady_state=False))
    assert [simulated(result) for result in short] == [3, 4]  # b is alone at the end


def test_jobs_wait_for_gpus_in_order_of_arrival() -> None:
    jobs = [
        Tenant("a", step(100e6, 6), 0.0, 10),
        Tenant("big", step(100e6, 4), 1e-3, 10),
        Tenant("small", step(100e6, 2), 2e-3, 10),  # two GPUs are free, but "big" arrived first
    ]
    short = run(*jobs)
    a, big, small = short
    assert a.wait_s == 0 and big.start == small.start == a.end
    assert big.gpus.tolist() == [0, 1, 2, 3] and small.gpus.tolist() == [4, 5]
    assert sum(map(simulated, short)) < 10
    assert_same(short, run(*jobs, steady_state=False))


def test_a_job_may_list_its_gpus() -> None:
    first, second = run(
        Tenant("a", step(1e6, 2), 0, 2, (7, 0)), Tenant("b", step(1e6, 2), 0, 1, (0, 1)), cluster=CLUSTER
    )
    assert first.gpus.tolist() == [7, 0]
    assert second.start == first.end  # GPU 0 was taken


def test_random_placement_depends_on_its_seed() -> None:
    def gpus(seed: int) -> list[int]:
        return run(Tenant("a", step(1e6), 0, 1, "random", seed))[0].gpus.tolist()

    assert gpus(1) == gpus(1) and len({tuple(gpus(seed)) for seed in range(6)}) > 3


def test_impossible_jobs_are_refused() -> None:
    with pytest.raises(UsageError, match="two jobs are called 'a'"):
        run(Tenant("a", step(1e6)), Tenant("a", step(1e6)))
    with pytest.raises(CapacityError, match="has 8 GPUs, too few for 9 ranks"):
        run(Tenant("a", step(1e6, 9)))
    with pytest.raises(CapacityError, match="GPU 3 is listed twice"):
        run(Tenant("a", step(1e6, 2), placement=(3, 3)))
    with pytest.raises(CapacityError, match="GPU 8 is not one of cluster"):
        run(Tenant("a", step(1e6, 2), placement=(3, 8)))
    with pytest.raises(CapacityError, match="1 GPUs are listed for 2 ranks"):
        run(Tenant("a", step(1e6, 2), placement=(3,)))
    stuck = job([((0,), [reduce("x", 1e6), reduce("y", 1e6)]), ((1,), [reduce("y", 1e6), reduce("x", 1e6)])])
    with pytest.raises(DeadlockError, match="job a: deadlock: x of step 0"):
        run(Tenant("a", stuck))


def test_a_time_budget_ends_the_run_with_the_progress_so_far() -> None:
    ticks = itertools.count()
    progress = Progress(budget_s=200, clock=lambda: float(next(ticks)))
    jobs = [Tenant("a", step(100e6), 0, 100, "spread"), Tenant("b", step(90e6), 1e-3, 100, "spread")]
    with pytest.raises(OutOfTime) as cut:
        simulate_tenants(RouteCache(CLUSTER), jobs, RING, progress)
    assert cut.value.so_far["jobs"] == 2 and 0 < cut.value.so_far["steps_done"] < 200
    json.dumps(cut.value.so_far)


@st.composite
def pairs(draw: st.DrawFn) -> tuple[Cluster, list[Tenant]]:
    """A small cluster of any kind, and two jobs that may share links."""
    cluster = draw(clusters().filter(lambda cluster: cluster.n_gpus >= 2))
    jobs = []
    for name in ("a", "b"):
        n = draw(st.integers(1, max(1, cluster.n_gpus // 2)))
        op = draw(st.sampled_from([Collective.ALL_REDUCE, Collective.ALL_TO_ALL]))
        tasks = [
            compute("a", draw(st.sampled_from([0.0, 1e-4, 5e-4]))),
            reduce("x", draw(st.sampled_from([1e5, 1e6])), 0, collective=op),
            compute("b", draw(st.sampled_from([1e-4, 4e-4])), 1),
        ]
        policy = draw(st.sampled_from(["packed", "spread", "random"]))
        arrival = draw(st.sampled_from([0.0, 1e-4, 7e-4]))
        jobs.append(Tenant(name, job([(range(n), tasks)]), arrival, draw(st.integers(1, 6)), policy, 3))
    return cluster, jobs


@settings(max_examples=25, deadline=None)
@given(pairs())
def test_folded_and_repeated_equal_every_flow_of_every_step(case: tuple[Cluster, list[Tenant]]) -> None:
    cluster, jobs = case
    full = simulate_tenants(RouteCache(cluster, folding=False), jobs, steady_state=False)
    # If several links of a path fill together, folding may name another one as the bound.
    assert_same(simulate_tenants(RouteCache(cluster), jobs), full, bounds=False)
    assert_same(simulate_tenants(RouteCache(cluster, folding=False), jobs), full)


def test_the_order_of_nodes_in_a_group_changes_nothing() -> None:
    # With the second node first, the step and the chosen algorithm are the same.
    cluster = load_cluster("h100-8x_rail_128")
    workload = job([(range(16), [reduce("x", 1e8)])])
    first, second = (simulate(cluster, workload, gpus=gpus) for gpus in (range(16), [*range(8, 16), *range(8)]))
    assert first.spans[0].algorithm == second.spans[0].algorithm
    assert first.end == pytest.approx(second.end, rel=1e-12)
