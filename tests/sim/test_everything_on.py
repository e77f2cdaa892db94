"""Folding changes no result with every feature of the simulator in use at once."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dessim.cluster import Cluster
from dessim.cluster.placement import place
from dessim.sim.engine import simulate
from dessim.sim.faults.faults import Fault, Faults
from dessim.sim.faults.stragglers import Stragglers
from dessim.trace.schema import Collective, Kind, Phase
from dessim.workload.dag import RankClass, Task, Workload
from tests.cluster.small_clusters import build, hosts, link

N = 8
FIXED = {Collective.ALL_TO_ALL: "direct", Collective.ALL_REDUCE: "ring", Collective.ALL_GATHER: "ring"}


def cluster_with_everything(routing: str) -> Cluster:
    """Two kinds of node, shared NICs, NVLink in one kind, uneven cables, fan-in, a flow cap and a reduction rate."""
    ecmp = {"routing_seed": 3, "flows_per_pair": 2} if routing == "ecmp" else {}
    data = hosts(kind="leaf_spine", nodes_per_leaf=2, spines=3, uplink=link("3 GB/s"), routing=routing, **ecmp)
    big = {"count": 3, "gpus": 2, "nics": 1, "nic": link("4 GB/s"), "pcie": link("6 GB/s"), "nvlink": link("9 GB/s")}
    small = {"count": 4, "gpus": 1, "nics": 1, "nic": link("3.5 GB/s"), "pcie": link("6 GB/s")}
    data["node"] = [big, small]
    data["transport"] = {
        "message_overhead": "2 us",
        "op_overhead": "5 us",
        "reduction_rate": "20 GB/s",
        "fan_in": [[1, 1.0], [3, 0.8], [6, 0.6]],
        "flow_rate": "2.5 GB/s",
        "source": "test",
    }
    data["override"] = [{"links": ["leaf0 <-> spine1"], "cable": link("1.5 GB/s")}]
    cluster = build(data)
    return replace(cluster, gpu=replace(cluster.gpu, comm_sm_share=0.15))


def step() -> Workload:
    """Compute and communication on two streams, which overlap."""

    def communicate(name: str, op: Collective, size: float, *deps: int) -> Task:
        return Task(name, 0, Phase.FORWARD, Kind.COLLECTIVE, "comm", deps, collective=op, group="w", size=size)

    def compute(name: str, seconds: float, *deps: int) -> Task:
        return Task(name, 0, Phase.FORWARD, Kind.COMPUTE, "compute", deps, duration=seconds)

    tasks = (
        compute("split", 1e-3),
        communicate("ids", Collective.ALL_TO_ALL, 8e6, 0),
        compute("other", 4e-3, 0),
        communicate("partials", Collective.ALL_REDUCE, 2e7, 1),
        compute("tail", 6e-3, 1),
        communicate("grads", Collective.ALL_GATHER, 1e7, 4),
        compute("update", 1e-3, 3, 5),
    )
    return Workload("step", N, (RankClass(range(N), tasks),), {"w": range(N)}, (0,))


FAULTS = st.lists(
    st.builds(
        lambda which, start, length, share: Fault(which, start * 1e-3, (start + length) * 1e-3, share),
        st.sampled_from(["spine0", "leaf0 -> spine2", "leaf1 <-> spine1"]),
        st.integers(0, 30),
        st.integers(1, 20),
        st.sampled_from([0.0, 0.5]),
    ),
    max_size=3,
)


@settings(max_examples=40, deadline=None)
@given(
    routing=st.sampled_from(["split", "static", "ecmp", "adaptive"]),
    policy=st.sampled_from(["packed", "spread", "random"]),
    faults=FAULTS,
    slow=st.dictionaries(st.integers(0, N - 1), st.sampled_from([1.5, 2.0]), max_size=3),
)
def test_folded_equals_unfolded_with_every_feature_in_use(
    routing: str, policy: str, faults: list[Fault], slow: dict[int, float]
) -> None:
    cluster = cluster_with_everything(routing)
    placed = place(cluster, np.arange(cluster.n_gpus), N, policy, seed=5)
    assert placed is not None
    gpus = placed.tolist()
    workload = Stragglers(slow).slowed(step())
    # Different factors put each rank into its own class.
    one_by_one = Stragglers({rank: 1 + 1e-13 * rank for rank in range(N)}).slowed(workload)
    folded = simulate(cluster, workload, FIXED, gpus=gpus, faults=Faults(tuple(faults)))
    whole = simulate(cluster, one_by_one, FIXED, folding=False, gpus=gpus, faults=Faults(tuple(faults)))
    assert len(whole.classes) == N
    assert folded.end == pytest.approx(whole.end, rel=1e-9)
    assert folded.bytes_by_kind == pytest.approx(whole.bytes_by_kind, rel=1e-9)
