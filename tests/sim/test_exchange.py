"""Exchanges of ranks that share cores: pairs begin when both are there, and a rank leaves when it has all."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from dessim.cluster import Cluster, load_cluster
from dessim.sim.engine import simulate
from dessim.trace.schema import Collective
from dessim.workload.dag import Task
from tests.sim.test_engine import compute, job, reduce

SIZE = 1e6


def bed(name: str = "lab/switch_4", **transport: float) -> Cluster:
    """A bed whose messages take bytes over rate, and nothing else that is worth a look."""
    made = load_cluster(name)
    costs = {"message_overhead": 0.0, "op_overhead": 0.0, "reduction_rate": np.inf, **transport}
    return replace(made, transport=replace(made.transport, **costs))  # type: ignore[arg-type]


def exchange(*deps: int, name: str = "rows") -> Task:
    return reduce(name, SIZE, *deps, collective=Collective.ALL_TO_ALL)


def ends(cluster: Cluster, late_s: list[float], cores: int = 8) -> list[float]:
    """When each rank leaves an exchange to which it comes so late."""
    ranks = [((rank,), [compute("late", late), exchange(0)]) for rank, late in enumerate(late_s)]
    spans = simulate(cluster, job(ranks), cores=cores).spans
    return [span.end for span in sorted(spans, key=lambda span: span.rank_class) if span.name == "rows"]


def test_two_ranks_exchange_one_after_the_other() -> None:
    cluster = bed("lab/switch_2")
    message = SIZE / 2 / cluster.node.nic.capacity
    assert ends(cluster, [0.1, 0.2]) == pytest.approx([0.2 + 2 * message] * 2, rel=1e-2)


def test_a_rank_that_comes_late_holds_nobody_up_who_has_no_business_with_it_yet() -> None:
    cluster = bed()
    message = SIZE / 4 / cluster.node.nic.capacity
    late = 1.0
    assert 12 * message < late
    *early, last = ends(cluster, [1e-3, 2e-3, 3e-3, late])
    # All that is left when it comes: its own messages, each way over its own link; some wait for their opposite.
    assert late + 3 * message <= last <= late + 6 * message + 1e-2
    assert all(late + message <= end <= last for end in early)


def test_who_comes_first_computes_while_others_communicate() -> None:
    """Two ranks on one core, three steps: the exchange takes as long as it would without the other's compute."""
    cluster = bed("lab/switch_2")
    message = SIZE / 2 / cluster.node.nic.capacity
    tasks = [compute("work", 1e-2), exchange(0)]
    steps = [
        replace(t, step=s, deps=tuple(d + 2 * s for d in t.deps) or ((2 * s - 1,) if s else ()))
        for s in range(3)
        for t in tasks
    ]
    record = simulate(cluster, job([((0,), steps), ((1,), steps)]), cores=1)
    assert record.end == pytest.approx(3 * (2e-2 + 2 * message), rel=2e-2)


def test_packets_take_their_part_of_the_cores() -> None:
    """A thread computes while its rank sends for half a second, with half of the one core busy carrying."""
    size = 0.5 * 2 * load_cluster("lab/switch_2").node.nic.capacity  # each way one after the other
    beside = compute("beside", 0.2)
    tasks = [replace(exchange(), size=size), beside]

    def took(**transport: float) -> float:
        cluster = bed("lab/switch_2", **transport)
        spans = simulate(cluster, job([((0,), tasks), ((1,), tasks[:1])]), cores=1).spans
        return next(span.end for span in spans if span.name == "beside")

    rate = load_cluster("lab/switch_2").node.nic.capacity
    assert took() == pytest.approx(0.2, rel=1e-6)
    # What is under way when a turn begins counts; one direction at a time.
    assert took(core_rate=2 * rate) == pytest.approx(0.4, rel=0.05)


def test_the_same_bytes_cross_each_link() -> None:
    """As many as by the schedule of the whole, which waits for the last rank."""
    cluster = bed()
    tasks = [exchange()]
    alone = simulate(cluster, job([(range(4), tasks)]))
    apart = simulate(cluster, job([((rank,), tasks) for rank in range(4)]), cores=4)
    assert apart.bytes_by_kind == pytest.approx(alone.bytes_by_kind)
    assert apart.end == pytest.approx(alone.end, rel=0.35)
