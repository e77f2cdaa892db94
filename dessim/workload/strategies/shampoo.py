"""Shampoo, a second-order optimizer of the replicated weights: what it adds to a plan (des_ref/models/shampoo.py).

    ... gradients (all_reduce) -> precondition -> directions (all_gather) -> update_dense

Every worker already has the gradients. It computes the search directions of its share of the weights' blocks, and an
AllGather distributes them: (N-1)/N P s bytes sent beyond Adam's. The blocks count as evenly shared, Y = P/N weights a
worker.

FLOPs assume square blocks of `SHAMPOO_BLOCK` rows as dense products: G G^T, G^T G and two more products in each step,
8 b FLOPs a weight for blocks of b rows; and every `SHAMPOO_EVERY` steps two eigendecompositions of about 9 b^3 each,
with 2 b^3 each to form the roots.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from dessim.trace.schema import Collective, Phase
from dessim.workload.formula import ZERO, Formula, number
from dessim.workload.options import SHAMPOO_BLOCK, SHAMPOO_EVERY
from dessim.workload.plan import Plan, PlannedOp, Traffic, collective, compute
from dessim.workload.symbols import N, Y, s, so

_CAVEAT = "eigendecompositions count as dense FLOPs at the GPU's full rate, which real ones do not reach"
# FLOPs a weight, to the digits that formulas print.
_FLOPS_A_WEIGHT = number(float(f"{SHAMPOO_BLOCK * (8 + 2 * (9 + 2) / SHAMPOO_EVERY):g}"))

SymbolValues = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class _EvenShare:
    """The value of Y, beside the symbols that the plan had before."""

    weights: Formula
    before: Callable[[SymbolValues], SymbolValues] | None

    def __call__(self, job: SymbolValues) -> dict[str, float]:
        symbols = dict(self.before(job)) if self.before is not None else {}
        return symbols | {"Y": self.weights.evaluate({**job, **symbols}) / job["N"]}


def with_shampoo(plan: Plan) -> Plan:
    """The plan with Shampoo in place of Adam."""
    ops: list[PlannedOp] = []
    weights = ZERO
    for op in plan.ops:
        if op.name != "update_dense":
            ops.append(op)
            continue
        weights = op.width
        ops += [
            compute(
                "precondition",
                Phase.OPTIMIZER,
                *op.deps,
                flops=_FLOPS_A_WEIGHT * Y,
                mem=12 * Y * so,
                kernels=40,
                keeps=4 * Y * so,
            ),
            collective("directions", Phase.OPTIMIZER, Collective.ALL_GATHER, Traffic.DENSE, N * Y * s, "precondition"),
            compute(
                "update_dense",
                Phase.OPTIMIZER,
                "directions",
                flops=2 * weights,
                mem=3 * weights * so,
                kernels=4,
                keeps=weights * so,
            ),
        ]
    return replace(
        plan,
        strategy=plan.strategy + "+shampoo",
        ops=tuple(ops),
        own_symbols=_EvenShare(weights, plan.own_symbols),
        caveat="; ".join(filter(None, (plan.caveat, _CAVEAT))),
    )
