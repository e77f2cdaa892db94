"""A softmax for each field over the ids of the global batch, under DES (des_ref/substitution/softmax.py).

It runs between tail_forward and tail_backward. Every worker scores the codes of all B samples against the output rows
of the U/N ids that it owns. Log-softmax then needs a maximum and a sum over all workers, for each sample and field:

    tail_forward -> (codes) -> scores -> scores_max -> exponentials -> scores_sum -> scores_backward -> codes_grad

Under DES-RS a worker has only the codes of its own samples, so `codes` gathers them on every worker. Under DES-AR the
tails are replicated and every worker has all codes. Loss and the gradient of the sums are replicated, so these
AllReduces have none in the backward pass. A code feeds different scores on each worker, so its gradient is a partial
sum: it is AllReduced, or ReduceScattered if codes were gathered. In floats a sample of AllReduce, all of this sends
F + 2F + L, for codes of L floats.
"""

from __future__ import annotations

from dessim.trace.schema import Collective, Phase
from dessim.workload.model import Model
from dessim.workload.operators import Output
from dessim.workload.plan import OwnerRole, PlannedOp, Traffic, collective, compute
from dessim.workload.symbols import OWNED_IDS, OWNED_ROWS, B, F, k, s, sd


def scoring(model: Model, output: Output, scatter: bool) -> list[PlannedOp]:
    """The ops of the softmax. `scatter`: whether each worker has the codes of its own samples only."""
    all_reduce = Collective.ALL_REDUCE
    fields = model.input.fields
    codes = B * output.code  # floats of all codes
    outputs = OWNED_ROWS * output.row  # floats of a worker's output rows
    scores = B * OWNED_ROWS
    ops = []
    if scatter:
        ops.append(collective("codes", Phase.FORWARD, Collective.ALL_GATHER, Traffic.SPARSE, codes * s, "tail_forward"))
    return [
        *ops,
        compute(
            "scores",
            Phase.FORWARD,
            "codes" if scatter else "tail_forward",
            flops=scores * (2 * output.code + 1),
            mem=(2 * scores + outputs + codes) * sd + 6 * OWNED_IDS * k,
            kernels=16 + fields,
            keeps=(scores + outputs + B * F) * sd + 3 * OWNED_IDS * k,
            role=OwnerRole.WORKS,
        ),
        collective("scores_max", Phase.FORWARD, all_reduce, Traffic.SPARSE, B * F * s, "scores"),
        compute(
            "exponentials",
            Phase.FORWARD,
            "scores_max",
            flops=3 * scores,
            mem=5 * scores * sd,
            kernels=6 + 3 * fields,
            keeps=2 * B * F * sd,
            role=OwnerRole.WORKS,
        ),
        collective("scores_sum", Phase.FORWARD, all_reduce, Traffic.SPARSE, 2 * B * F * s, "exponentials"),
        compute(
            "scores_backward",
            Phase.BACKWARD,
            "scores_sum",
            "labels",
            flops=scores * (4 * output.code + 1),
            mem=(5 * scores + 2 * outputs + 2 * codes) * sd + 4 * OWNED_IDS * k,
            kernels=20 + fields,
            keeps=(2 * outputs + codes) * sd,
            role=OwnerRole.WORKS,
        ),
        collective(
            "codes_grad",
            Phase.BACKWARD,
            Collective.REDUCE_SCATTER if scatter else all_reduce,
            Traffic.SPARSE,
            codes * s,
            "scores_backward",
        ),
    ]
