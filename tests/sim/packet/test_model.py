"""Collectives whose ranks arrive at different times: a rank waits only for the ranks whose data it needs."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dessim.cluster import Cluster, load_cluster
from dessim.errors import SimulationError
from dessim.sim.core.bounds import CORES, LATE, LATENCY
from dessim.sim.core.recorder import Span
from dessim.sim.engine import simulate
from dessim.sim.faults.faults import Fault, Faults
from dessim.sim.packet.gloo_ranks import PROGRAMS
from dessim.trace.schema import Collective
from dessim.workload.dag import Task, Workload
from tests.sim.packet.test_fabric import bed
from tests.sim.test_engine import CLUSTER, compute, job, reduce

SIZE = 1e6


def exchange(*deps: int, name: str = "rows") -> Task:
    return reduce(name, SIZE, *deps, collective=Collective.ALL_TO_ALL)


def ends(cluster: Cluster, late_s: list[float], cores: int = 8) -> list[float]:
    """When each rank leaves an exchange that it joins at `late_s[rank]`."""
    ranks = [((rank,), [compute("late", late), exchange(0)]) for rank, late in enumerate(late_s)]
    spans = simulate(cluster, job(ranks), cores=cores, network="packet").spans
    return [span.end for span in sorted(spans, key=lambda span: span.rank_class) if span.name == "rows"]


def test_two_ranks_exchange_one_after_the_other() -> None:
    cluster = bed(load_cluster("lab/switch_2"))
    message = SIZE / 2 / cluster.node.nic.capacity
    # The first rank is done when the other's message has arrived, since its own message has left by then.
    assert ends(cluster, [0.1, 0.2]) == pytest.approx([0.2 + message, 0.2 + 2 * message], rel=1e-2)
    window = 0.1 * SIZE / 2
    windowed = bed(load_cluster("lab/switch_2"), window=window)
    assert ends(windowed, [0.1, 0.2]) == pytest.approx([0.2 + 1.9 * message, 0.2 + 2 * message], rel=1e-2)


def test_a_late_rank_delays_other_ranks_only_by_its_own_messages() -> None:
    cluster = bed(load_cluster("lab/switch_4"))
    message = SIZE / 4 / cluster.node.nic.capacity
    late = 1.0
    assert 12 * message < late
    *early, last = ends(cluster, [1e-3, 2e-3, 3e-3, late])
    # Only the messages of the late rank are left, in both directions over its link; some wait for their counterpart.
    assert late + 3 * message <= last <= late + 6 * message + 1e-2
    assert all(late + message <= end <= last for end in early)


def test_a_rank_computes_while_the_other_communicates() -> None:
    """Two ranks share a core for three steps. The exchange takes as long as it would without compute."""
    cluster = bed(load_cluster("lab/switch_2"))
    message = SIZE / 2 / cluster.node.nic.capacity
    tasks = [compute("work", 1e-2), exchange(0)]
    steps = [
        replace(t, step=s, deps=tuple(d + 2 * s for d in t.deps) or ((2 * s - 1,) if s else ()))
        for s in range(3)
        for t in tasks
    ]
    record = simulate(cluster, job([((0,), steps), ((1,), steps)]), cores=1, network="packet")
    assert 3 * (1e-2 + 2 * message) < record.end < 3 * (2e-2 + 2 * message)


def test_packets_use_their_share_of_the_cores() -> None:
    """A thread computes while its rank sends for half a second, which keeps half of the only core busy."""
    size = (
        0.5 * 2 * load_cluster("lab/switch_2").node.nic.capacity
    )  # both directions at once, since both ranks start together
    beside = compute("beside", 0.2)
    tasks = [replace(exchange(), size=size), beside]

    def took(**transport: float) -> float:
        cluster = bed(load_cluster("lab/switch_2"), **transport)
        spans = simulate(cluster, job([((0,), tasks), ((1,), tasks[:1])]), cores=1, network="packet").spans
        return next(span.end for span in spans if span.name == "beside")

    rate = load_cluster("lab/switch_2").node.nic.capacity
    assert took() == pytest.approx(0.2, rel=1e-6)
    assert took(core_rate=4 * rate) == pytest.approx(0.4, rel=0.05)


def test_each_link_class_carries_the_same_bytes_as_in_the_fluid_model() -> None:
    """The fluid model runs the schedule of all ranks, once the last one has arrived."""
    cluster = bed(load_cluster("lab/switch_4"))
    tasks = [exchange()]
    fluid = simulate(cluster, job([(range(4), tasks)]))
    packet = simulate(cluster, job([((rank,), tasks) for rank in range(4)]), cores=4, network="packet")
    assert packet.bytes_by_kind == pytest.approx(fluid.bytes_by_kind, rel=1e-3)
    # Here all ranks are ready before any of them sends; in the schedule of the fluid model one rank is first.
    assert 3 * SIZE / 4 / cluster.node.nic.capacity < packet.end < fluid.end


def test_a_group_runs_two_collectives_at_a_time_and_delays_no_compute() -> None:
    cluster = bed(load_cluster("lab/switch_2"))
    rate = cluster.node.nic.capacity
    tasks = [reduce(f"sum {i}", rate / 10, stream="prefetch") for i in range(3)]
    tasks.append(compute("beside", 1e-3, stream="prefetch"))
    spans = {span.name: span for span in simulate(cluster, job([(range(2), tasks)]), cores=8, network="packet").spans}
    assert spans["sum 0"].start == spans["sum 1"].start == spans["beside"].start == 0
    assert spans["sum 2"].start == min(spans["sum 0"].end, spans["sum 1"].end) > 0.1
    assert spans["beside"].end == pytest.approx(1e-3, abs=2.0**-24)


def test_a_waiting_rank_continues_when_a_core_is_free() -> None:
    """Waking a rank takes time of the machine, and does not interrupt ranks that compute."""
    size = 1e3

    def took(cores: int, **transport: float) -> float:
        cluster = bed(load_cluster("lab/switch_4"), **transport)
        busy = [((rank,), [compute("work", 0.1)]) for rank in (2, 3)]
        communicating = [((rank,), [reduce("sum", size, group="pair")]) for rank in (0, 1)]
        spans = simulate(cluster, job([*communicating, *busy], pair=(0, 1)), cores=cores, network="packet").spans
        return max(span.end for span in spans if span.name == "sum")

    free = took(8)
    assert took(8, host_overhead=1e-4) > free + 1e-4
    assert took(2, host_overhead=1e-6) > free + 2e-3


def test_ops_and_options_that_gloo_lacks_are_refused() -> None:
    cluster = bed(load_cluster("lab/switch_4"))
    with pytest.raises(SimulationError, match="packet network has no gather"):
        simulate(cluster, job([(range(4), [reduce("odd", 1e3, collective=Collective.GATHER)])]), network="packet")
    faults = Faults((Fault("node0 -> switch", 0.0, 1.0),))
    with pytest.raises(SimulationError, match="packet network does not model faults"):
        simulate(cluster, job([(range(4), [reduce("sum", 1e3)])]), faults=faults, network="packet")
    barrier = job([(range(4), [reduce("all", 0.0, collective=Collective.BARRIER)])])
    assert simulate(cluster, barrier, cores=2, network="packet").end == 0
    with pytest.raises(SimulationError, match="runs gloo's algorithms, and transport"):
        simulate(CLUSTER, job([(range(4), [reduce("sum", 1e6)])]), network="packet")
    with pytest.raises(SimulationError, match="leave out algorithms"):
        simulate(cluster, job([(range(4), [reduce("sum", 1e6)])]), {Collective.ALL_REDUCE: "ring"}, network="packet")


def spans_of(workload: Workload, cores: int | None = None, **transport: float) -> list[Span]:
    """The collectives of a workload on four hosts at one switch, rank by rank."""
    cluster = bed(load_cluster("lab/switch_4"), **transport)
    spans = simulate(cluster, workload, cores=cores, network="packet").spans
    return [span for span in sorted(spans, key=lambda span: span.rank_class) if span.collective is not None]


@pytest.mark.parametrize("op", list(PROGRAMS))
@pytest.mark.parametrize("cores", [None, 2])
def test_parts_add_up_to_the_time_of_each_rank(op: Collective, cores: int | None) -> None:
    tasks = [compute("before", 1e-3), reduce("sum", SIZE, 0, collective=op)]
    spans = spans_of(job([((rank,), tasks) for rank in range(4)]), cores, op_overhead=1e-4, host_overhead=2e-5)
    assert len(spans) == 4
    for span in spans:
        assert sum(span.parts.values()) == pytest.approx(span.end - span.start, rel=1e-9)
        assert span.bound_by in span.parts


def test_large_messages_are_bound_by_a_nic_and_small_ones_by_latency() -> None:
    large = spans_of(job([(range(4), [exchange()])]))
    assert {span.bound_by for span in large} <= {"nic_up", "nic_down"}
    small = spans_of(job([(range(4), [reduce("sum", 4.0)])]), op_overhead=1e-2)
    assert {span.bound_by for span in small} == {LATENCY}


def test_ranks_that_wait_for_a_late_sender_are_bound_by_it() -> None:
    late = 1.0
    ranks = [((rank,), [compute("work", late * (rank == 3)), exchange(0)]) for rank in range(4)]
    *early, last = spans_of(job(ranks))
    assert all(span.bound_by == LATE and span.parts[LATE] == pytest.approx(late, rel=0.1) for span in early)
    assert last.bound_by != LATE


def test_a_rank_that_waits_for_a_core_is_bound_by_cores() -> None:
    busy = [((rank,), [compute("work", 0.5)]) for rank in (2, 3)]
    pair = [((rank,), [reduce("sum", 1e3, group="pair")]) for rank in (0, 1)]
    spans = spans_of(job([*pair, *busy], pair=(0, 1)), cores=2, host_overhead=1e-6)
    assert all(span.bound_by == CORES for span in spans)
