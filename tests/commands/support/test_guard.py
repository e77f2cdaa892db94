"""The guard: no simulated step is below its bounds, NICs and GPUs come near them, and a faster step is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dessim.cluster import load_cluster
from dessim.commands import project as project_module
from dessim.commands.support.projection import Projection
from dessim.errors import PhysicsError
from dessim.workload.formula import number
from dessim.workload.model import load_model
from dessim.workload.owners import MEAN, Owner
from dessim.workload.plan import OwnerRole, Plan
from dessim.workload.scale import Job
from dessim.workload.strategies import STRATEGIES
from tests.projecting import project

JOB = Job.of_model(load_model("deepfm"))
CLUSTER = load_cluster("h100-8x_rail_128")


def only(strategy: str, gpus: int) -> Projection:
    (row,) = project(JOB, CLUSTER, [strategy], [gpus], servers=None)
    assert isinstance(row, Projection)
    return row


@pytest.mark.parametrize("strategy", sorted(set(STRATEGIES) - {"ps_async"}))
@pytest.mark.parametrize("gpus", [1, 8, 12, 64])
def test_no_step_is_below_its_bounds(strategy: str, gpus: int) -> None:
    row = only(strategy, gpus)
    assert row.least is not None
    assert 0 < row.least.gpu_s <= row.breakdown.step_time_s
    assert row.least.nic_s <= row.breakdown.step_time_s and (row.least.nic_s > 0) == (gpus > 8)


def test_the_nics_of_the_owners_determine_a_step_of_few_tables_on_many_gpus() -> None:
    row = only("table_wise", 1024)
    assert row.least is not None and row.busiest_bytes is not None
    # An owner of one table sends a vector for every sample of the global batch, except those of its own node.
    wire = 4096 * 1016 * (17 + 1) * 4 / CLUSTER.node.nic.capacity
    assert row.least.nic_s > wire
    assert 2 * wire < row.breakdown.step_time_s < 2.7 * wire
    assert row.busiest_bytes > 4096 * 1023 * 18 * 4


def evenly(plan: Plan) -> Plan:
    """Tables divided evenly over all workers, as in 0.1.0."""
    return replace(plan, ops=tuple(replace(op, role=OwnerRole.NONE) for op in plan.ops))


def without_pooled_vectors(plan: Plan) -> Plan:
    """Pooled vectors and their gradients carry nothing."""
    nothing = ("pooled", "pooled_grad")
    return replace(plan, ops=tuple(replace(op, size=number(1)) if op.name in nothing else op for op in plan.ops))


def without_compute(plan: Plan) -> Plan:
    """Dense layers cost nothing."""
    free = {"flops": number(0), "mem": number(0), "kernels": 0, "products": ()}
    return replace(plan, ops=tuple(replace(op, **free) if op.collective is None else op for op in plan.ops))


@pytest.mark.parametrize(
    ("plant", "gpus", "batch"),
    [(evenly, 1024, 4096), (without_pooled_vectors, 1024, 4096), (without_compute, 8, 65536)],
)
def test_an_impossible_plan_is_an_internal_error_with_both_bounds(plant, gpus, batch, monkeypatch) -> None:
    step_of = project_module.step_of

    def planted(job, cluster, plan, symbols, owners: tuple[Owner, ...], spill, steps):
        return step_of(job, cluster, plant(plan), symbols, owners, spill=spill, steps=steps)

    monkeypatch.setattr(project_module, "step_of", planted)
    with pytest.raises(
        PhysicsError, match=r"internal error: table_wise of deepfm on .* NICs need .* busiest GPU .* for"
    ):
        project(JOB, CLUSTER, ["table_wise"], [gpus], batch)


def test_equal_shares_are_those_of_the_mean() -> None:
    symbols = {"N": 4.0, "m": 3.0, "u": 7.0}
    assert MEAN.symbols(symbols) == symbols
