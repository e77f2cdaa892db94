"""Collectives on a whole cluster: with and without folding, several at once, through switches that sum."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from dessim.cluster import Cluster
from dessim.collectives import ALGORITHMS, Layout, Options
from dessim.commands.collective import run_collective
from dessim.errors import UsageError
from dessim.sim.core.recorder import Record
from dessim.sim.engine import simulate
from dessim.sim.fluid.model import layout_of
from dessim.trace.schema import Collective
from dessim.workload.dag import RankClass, Task, Workload
from dessim.workload.one_collective import collective_task
from tests.cluster.small_clusters import build, link

SUMS: dict[str, Any] = {"ports": 64, "latency": "0.1 us", "source": "test", "reduces": True}
TRANSPORT = {
    "message_overhead": "1 us",
    "op_overhead": "5 us",
    "reduction_rate": "40 GB/s",
    "source": "test",
}


def pod(reduces: bool = True, **fabric: Any) -> Cluster:
    """6 nodes of 4 GPUs, two nodes per leaf, with every kind of cost: PCIe, overheads, sums that take time."""
    switch = {**SUMS, "reduces": reduces}
    node = {
        "count": 6,
        "gpus": 4,
        "nics": 4,
        "nic": link("25 GB/s"),
        "nvlink": link("200 GB/s", "0.3 us"),
        "nvswitch": switch,
        "pcie": link("30 GB/s", "0.4 us"),
    }
    shape = {"kind": "leaf_spine", "nodes_per_leaf": 2, "spines": 3, "uplink": link("40 GB/s"), "switch": switch}
    return build({"gpu": "h100-sxm", "transport": TRANSPORT, "node": node, "fabric": {**shape, **fabric}})


EVERY = [(op, name) for op, table in ALGORITHMS.items() for name in table]


@pytest.mark.parametrize(("op", "name"), EVERY)
@pytest.mark.parametrize("routing", ["split", "static"])
def test_folding_does_not_change_the_time(op: Collective, name: str, routing: str) -> None:
    cluster = pod(routing=routing)
    options = Options(chunks=3 if "chunks" in ALGORITHMS[op][name].takes else None)
    for gpus in (4, 8, 24):
        if ALGORITHMS[op][name].unfit(layout_of(cluster, np.arange(gpus))):
            continue
        folded, whole = (
            run_collective(cluster, op, gpus, 4e6, name, folding=on, options=options) for on in (True, False)
        )
        assert folded.time_s == pytest.approx(whole.time_s, rel=1e-9)
        assert folded.flow_colours <= whole.flow_colours


def together(cluster: Cluster, jobs: list[tuple[Collective, str, list[int]]], folding: bool = True) -> Record:
    """Collectives that start at once, each on its own stream and over its own group; rank r is on GPU r."""
    tasks: dict[int, list[Task]] = {}
    for number, (op, _, ranks) in enumerate(jobs):
        name = f"op{number}"
        task = collective_task(op, 8e6, name=name, group=name, stream=name)
        for rank in ranks:
            tasks.setdefault(rank, []).append(task)
    groups = {f"op{number}": ranks for number, (_, _, ranks) in enumerate(jobs)}
    classes = tuple(RankClass((rank,), tuple(mine)) for rank, mine in sorted(tasks.items()))
    workload = Workload("test", max(tasks) + 1, classes, groups, (0,))
    return simulate(cluster, workload, {op: name for op, name, _ in jobs}, folding=folding)


@pytest.mark.parametrize("folding", [True, False])
def test_trees_share_links_with_point_to_point_messages(folding: bool) -> None:
    cluster, world = pod(), list(range(24))
    reduce = (Collective.ALL_REDUCE, "sharp", world)
    exchange = (Collective.ALL_TO_ALL, "direct", world)
    alone = [together(cluster, [job], folding).end for job in (reduce, exchange)]
    both = together(cluster, [reduce, exchange], folding)
    assert max(alone) < both.end < sum(alone)
    carried = [together(cluster, [job], folding).bytes_by_kind for job in (reduce, exchange)]
    for kind, value in both.bytes_by_kind.items():
        assert value == pytest.approx(carried[0][kind] + carried[1][kind], rel=1e-9)


def test_shared_trees_fold_to_the_same_times() -> None:
    jobs = [(Collective.ALL_REDUCE, "nvls_sharp", list(range(24))), (Collective.ALL_GATHER, "ring", list(range(8)))]
    folded, whole = (together(pod(), jobs, folding) for folding in (True, False))
    assert [s.end for s in folded.spans] == pytest.approx([s.end for s in whole.spans], rel=1e-9)


def test_bytes_of_trees_are_counted_once_per_link() -> None:
    world, size = list(range(24)), 8e6
    sharp = together(pod(), [(Collective.ALL_REDUCE, "sharp", world)]).bytes_by_kind
    assert sharp["nic_up"] == sharp["nic_down"] == sharp["pcie_up"] == pytest.approx(24 * size)
    assert sharp["leaf_up"] == sharp["leaf_down"] == pytest.approx(3 * size)
    nvls = together(pod(), [(Collective.ALL_REDUCE, "nvls", world[:4])]).bytes_by_kind
    assert nvls["nvlink_up"] == nvls["nvlink_down"] == pytest.approx(4 * size * (1 + 1 / 4))
    assert nvls["nic_up"] == 0


def test_switches_that_do_not_sum_refuse_algorithms_that_need_sums() -> None:
    plain = pod(reduces=False)
    assert layout_of(plain, np.arange(8)) == Layout(8, 4)
    assert layout_of(pod(), np.arange(8)) == Layout(8, 4, nvls=True, sharp=True)
    for gpus, name in ((4, "nvls"), (8, "sharp"), (8, "nvls_sharp")):
        with pytest.raises(UsageError, match="reduce"):
            run_collective(plain, Collective.ALL_REDUCE, gpus, 1e6, name)
        assert run_collective(pod(), Collective.ALL_REDUCE, gpus, 1e6, name).time_s > 0


def test_a_group_that_does_not_fill_nodes_is_laid_out_flat() -> None:
    """The switches of the fabric may still sum its data."""
    ragged = [0, 1, 2, 5, 9, 23]
    assert layout_of(pod(), np.array(ragged)).per_node == 1
    for name in ("ring", "double_tree", "halving_doubling", "sharp"):
        assert together(pod(), [(Collective.ALL_REDUCE, name, ragged)]).end > 0
