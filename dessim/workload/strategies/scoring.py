"""A softmax a field over the ids of the global batch, where DES keeps their rows (des_ref/substitution/softmax.py).

Between tail_forward and tail_backward: every worker scores the codes of all B samples against the outputs of the ids
that it owns, U/N of them, and log-softmax needs of the others a maximum and a sum, for each sample and field:

    tail_forward -> (codes) -> scores -> scores_max -> exponentials -> scores_sum -> scores_backward -> codes_grad

`codes` brings all codes to everyone where each worker has those of its own samples (DES-RS); where tails are replicated
(DES-AR) everyone has them. Loss and gradient of the sums are replicated, so these send nothing back. A code feeds other
scores on each worker, so its gradient is a partial sum: AllReduced, or ReduceScattered where codes were gathered.
Floats a sample, there and back as an AllReduce counts them: F + 2F + L.
"""

from __future__ import annotations

from dessim.trace.schema import Collective, Phase
from dessim.workload.model import Model
from dessim.workload.operators import Output
from dessim.workload.plan import PlannedOp, Traffic, collective, compute


def scoring(model: Model, output: Output, scatter: bool) -> list[PlannedOp]:
    """The ops; `scatter`: each worker has the codes of its own samples only."""
    all_reduce, fields = Collective.ALL_REDUCE, model.input.fields
    codes, outputs, scores = f"B*{output.code}", f"(U/N)*{output.row}", "B*(U/N)"
    ops = []
    if scatter:
        ops.append(
            collective("codes", Phase.FORWARD, Collective.ALL_GATHER, Traffic.SPARSE, f"{codes}*s", "tail_forward")
        )
    return [
        *ops,
        compute(
            "scores",
            Phase.FORWARD,
            "codes" if scatter else "tail_forward",
            flops=f"{scores}*{2 * output.code + 1}",
            mem=f"(2*{scores} + {outputs} + {codes})*s + 6*(B*m/N)*k",
            kernels=16 + fields,
            keeps=f"({scores} + {outputs} + B*F)*s + 3*(B*m/N)*k",
        ),
        collective("scores_max", Phase.FORWARD, all_reduce, Traffic.SPARSE, "B*F*s", "scores"),
        compute(
            "exponentials",
            Phase.FORWARD,
            "scores_max",
            flops=f"3*{scores}",
            mem=f"5*{scores}*s",
            kernels=6 + 3 * fields,
            keeps="2*B*F*s",
        ),
        collective("scores_sum", Phase.FORWARD, all_reduce, Traffic.SPARSE, "2*B*F*s", "exponentials"),
        compute(
            "scores_backward",
            Phase.BACKWARD,
            "scores_sum",
            "labels",
            flops=f"{scores}*{4 * output.code + 1}",
            mem=f"(5*{scores} + 2*{outputs} + 2*{codes})*s + 4*(B*m/N)*k",
            kernels=20 + fields,
            keeps=f"(2*{outputs} + {codes})*s",
        ),
        collective(
            "codes_grad",
            Phase.BACKWARD,
            Collective.REDUCE_SCATTER if scatter else all_reduce,
            Traffic.SPARSE,
            f"{codes}*s",
            "scores_backward",
        ),
    ]
