"""A second-order optimizer of the replicated weights: what it adds to a plan (des_ref/models/shampoo.py).

    ... gradients (all_reduce) -> precondition -> directions (all_gather) -> update_dense

Gradients are everyone's already. Each worker finds the search directions of its share of the blocks, and an AllGather
brings all to everyone: f P s bytes more than Adam. Blocks count as dealt out evenly, Y = P / N values a worker.

FLOPs are of square blocks with `SHAMPOO_BLOCK` rows, counted as dense ones: G G^T, G^T G and two products in each step,
8 b a weight; two eigendecompositions of about 9 b^3 and what makes roots of them, 2 b^3, each `SHAMPOO_EVERY` steps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from dessim.trace.schema import Collective, Phase
from dessim.workload import formula
from dessim.workload.options import SHAMPOO_BLOCK, SHAMPOO_EVERY
from dessim.workload.plan import Plan, PlannedOp, Traffic, collective, compute

_CAVEAT = "eigendecompositions count as dense FLOPs at the GPU's full rate, which real ones do not reach"
_FLOPS = SHAMPOO_BLOCK * (8 + 2 * (9 + 2) / SHAMPOO_EVERY)  # a weight


@dataclass(frozen=True, slots=True)
class _Evenly:
    """Y, beside what the plan has before."""

    weights: str
    before: Callable[[Mapping[str, float]], Mapping[str, float]] | None

    def __call__(self, job: Mapping[str, float]) -> dict[str, float]:
        found = dict(self.before(job)) if self.before is not None else {}
        return found | {"Y": formula.evaluate(self.weights, {**job, **found}) / job["N"]}


def with_shampoo(plan: Plan) -> Plan:
    """The plan with Shampoo in the place of Adam."""
    ops: list[PlannedOp] = []
    weights = ""
    for op in plan.ops:
        if op.name != "update_dense":
            ops.append(op)
            continue
        weights = op.flops.removeprefix("12*")
        ops += [
            compute(
                "precondition",
                Phase.OPTIMIZER,
                *op.deps,
                flops=f"{_FLOPS:g}*Y",
                mem="12*Y*s",
                kernels=40,
                keeps="4*Y*s",
            ),
            collective("directions", Phase.OPTIMIZER, Collective.ALL_GATHER, Traffic.DENSE, "N*Y*s", "precondition"),
            compute(
                "update_dense", Phase.OPTIMIZER, "directions", flops=f"2*{weights}", mem=f"3*{weights}*s", kernels=4,
                keeps=f"{weights}*s",
            ),
        ]  # fmt: skip
    name = plan.strategy + "+shampoo"
    caveat = "; ".join(filter(None, (plan.caveat, _CAVEAT)))
    own = _Evenly(weights, plan.own_symbols)
    return replace(plan, strategy=name, ops=tuple(ops), own_symbols=own, caveat=caveat)
