"""A scaled cluster: the links, parts and software that a knob names change, and no others."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from dessim.cluster import load_cluster
from dessim.cluster.scaled import KNOBS, has, scaled
from dessim.commands.support.projection import Projection
from dessim.workload.model import load_model
from dessim.workload.scale import Job
from tests.projecting import project

CLUSTER = load_cluster("a100-8x_leafspine_16")
RATES = {"nic_rate": "nic_", "nvlink_rate": "nvlink_", "pcie_rate": "pcie_", "uplink_rate": "leaf_"}


@pytest.mark.parametrize("knob", RATES)
def test_a_rate_changes_its_links_and_no_others(knob: str) -> None:
    before, after = CLUSTER.links, scaled(CLUSTER, knob, 3.0).links
    kinds = np.array(before.kinds)[before.kind]
    changed = np.char.startswith(kinds, RATES[knob]) | ((knob == "uplink_rate") & np.char.startswith(kinds, "spine_"))
    assert changed.any() and not changed.all()
    assert (after.capacity == np.where(changed, 3 * before.capacity, before.capacity)).all()
    assert (after.latency == before.latency).all()


@pytest.mark.parametrize("knob", KNOBS)
def test_a_factor_of_one_changes_nothing(knob: str) -> None:
    same = scaled(CLUSTER, knob, 1.0)
    assert (same.links.capacity == CLUSTER.links.capacity).all() and (same.links.latency == CLUSTER.links.latency).all()
    assert (same.gpu, same.transport, same.node) == (CLUSTER.gpu, CLUSTER.transport, CLUSTER.node)


def test_parts_and_overheads_are_scaled() -> None:
    assert scaled(CLUSTER, "gpu_flops", 2.0).gpu.flops == 2 * CLUSTER.gpu.flops
    assert scaled(CLUSTER, "gpu_memory", 2.0).gpu.memory_bandwidth == 2 * CLUSTER.gpu.memory_bandwidth
    assert scaled(CLUSTER, "nic_rate", 2.0).node.nic.capacity == 2 * CLUSTER.node.nic.capacity
    free = scaled(CLUSTER, "overhead", 0.0)
    assert (free.gpu.launch_overhead, free.transport.message_overhead, free.transport.op_overhead) == (0, 0, 0)
    assert not scaled(CLUSTER, "latency", 0.0).links.latency.any()


def test_knobs_that_a_cluster_does_not_have_are_reported() -> None:
    bare = load_cluster("one-switch_16")
    assert [knob for knob in KNOBS if not has(bare, knob)] == [
        "nvlink_rate",
        "pcie_rate",
        "uplink_rate",
        "flow_rate",
        "reduction_rate",
    ]


def test_a_step_with_everything_twice_as_fast_takes_half_the_time() -> None:
    """Every term of a step is bytes or FLOPs over a rate, or a latency, so all knobs together must scale all of it.

    NCCL is left out: its tuner chooses by tables of absolute rates and times. So is the number of NICs, which doubles
    the same rates once more.
    """
    textbook = replace(CLUSTER, transport=replace(CLUSTER.transport, nccl=None))
    fast = textbook
    for knob in KNOBS:
        if knob == "nics":
            continue
        fast = scaled(fast, knob, 0.5 if knob in ("latency", "overhead") else 2.0)

    def times(cluster):
        rows = project(Job.of_model(load_model("deepfm")), cluster, ["des_reduce_scatter", "table_wise"], [8, 64])
        return [row.breakdown.step_time_s for row in rows if isinstance(row, Projection)]

    assert times(fast) == pytest.approx([seconds / 2 for seconds in times(textbook)], rel=1e-9)
