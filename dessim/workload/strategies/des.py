"""DES: distributed equivalent substitution (Rong et al., SIGIR 2020).

Rows live with the worker that h(id) names (hash placement), or that has their field (field placement), and never move.
Each worker turns the rows it owns into partials, K floats for every sample of the *global* batch, and one collective
sums them.

    des_all_reduce      the paper's: AllReduce of [B, K]; the dense tail runs replicated on the whole batch, and the
                        backward of the AllReduce is the identity, so nothing is sent back
    des_reduce_scatter  ReduceScatter of [B, K]; each worker runs the tail on its B/N samples, AllGathers the buffer's
                        gradient, and the tail's gradients are AllReduced

Both send the same sparse bytes. Weights that are replicated and feed on local partials (W1 of an mlp) have a gradient
that is a partial sum: it is AllReduced in both. Some operators need rounds: AllReduces in the middle of their partials,
which cut local work into legs, and whose gradients are AllReduced on the way back. A model that ends in a softmax over
ids has a second exchange above the tail (scoring.py).
"""

from __future__ import annotations

from dessim.trace.schema import Collective, Phase
from dessim.workload.model import Model
from dessim.workload.operators import Round, largest, total
from dessim.workload.plan import Plan, PlannedOp, Traffic, collective, compute
from dessim.workload.strategies.parts import ids_to_owners, update_dense, update_rows
from dessim.workload.strategies.scoring import scoring


def des_all_reduce(model: Model) -> Plan:
    """Plan of DES-AR."""
    return _plan("des_all_reduce", model, scatter=False)


def des_reduce_scatter(model: Model) -> Plan:
    """Plan of DES-RS."""
    return _plan("des_reduce_scatter", model, scatter=True)


def _plan(name: str, model: Model, scatter: bool) -> Plan:
    costs = model.costs
    wire = f"({total(costs, 'wire')})"
    buffer = f"B*{wire}*s"
    samples = "(B/N)" if scatter else "B"  # whose logits this worker computes
    finish = total(costs, "finish_flops")
    per_id, per_pair = total(costs, "id_flops"), total(costs, "pair_flops")
    shared, owned = total(costs, "shared_weights"), total(costs, "owned_weights")
    below = shared if owned == "0" else f"{shared} + ({owned})/N"  # weights that local partials read here
    rounds, output = [r for c in costs for r in c.rounds], model.output
    # What local partials read of a row: all but what only scores a code.
    read = f"(W-{output.row})" if output is not None else "W"

    ops: list[PlannedOp] = []
    if not scatter or output is not None:
        # Every worker computes every sample's loss, so it needs every label; of ids, how many each bag has.
        labels = "B*F*4" if output is not None else "B*4"
        ops.append(collective("labels", Phase.INPUT, Collective.ALL_GATHER, Traffic.CONTROL, labels))
    ops += ids_to_owners(bag_sizes=model.pools_mean and not model.by_field)
    ops += [
        compute(
            "lookup",
            Phase.FORWARD,
            "ids",
            mem="4*(B*m/N)*k + (U/N)*2*(k + W*s)",
            kernels=24,
            keeps="4*(B*m/N)*k + (U/N)*(k + W*s)",
            rows="U/N",
        ),
        compute(
            "local_partials",
            Phase.FORWARD,
            "lookup",
            flops=f"(B*m/N)*({per_id}) + B*q*({per_pair})",
            mem=f"2*(B*m/N)*{read}*s + {buffer} + ({below})*s",
            kernels=12,
            keeps=f"(B*m/N)*({total(costs, 'id_floats')})*s + B*q*({total(costs, 'pair_floats')})*s + {buffer}",
        ),
        *_rounds_forward(rounds),
        collective(
            "partials",
            Phase.FORWARD,
            Collective.REDUCE_SCATTER if scatter else Collective.ALL_REDUCE,
            Traffic.SPARSE,
            buffer,
            _leg("local_partials", len(rounds)),
        ),
        compute(
            "tail_forward",
            Phase.FORWARD,
            "partials",
            *(() if scatter or output is not None else ("labels",)),
            flops=f"{samples}*({finish})",
            mem=f"({samples}*({wire}+2*Z) + P)*s",
            kernels=16,
            keeps=f"{samples}*Z*s",
        ),
        *(scoring(model, output, scatter) if output is not None else ()),
        compute(
            "tail_backward",
            Phase.BACKWARD,
            "codes_grad" if output is not None else "tail_forward",
            flops=f"2*{samples}*({finish})",
            mem=f"(2*{samples}*({wire}+2*Z) + 2*P)*s",
            kernels=28,
            keeps=f"({samples}*{wire} + P)*s",
        ),
    ]
    if scatter:
        ops += [
            collective("partials_grad", Phase.BACKWARD, Collective.ALL_GATHER, Traffic.SPARSE, buffer, "tail_backward"),
            collective("tail_grad", Phase.BACKWARD, Collective.ALL_REDUCE, Traffic.DENSE, "P*s", "tail_backward"),
        ]
    ops.append(
        compute(
            "local_backward",
            Phase.BACKWARD,
            "partials_grad" if scatter else "tail_backward",
            flops=f"2*(B*m/N)*({per_id}) + 2*B*q*({per_pair})",
            mem=f"3*(B*m/N)*{read}*s + {buffer} + (U/N)*{read}*s + 2*({below})*s",
            kernels=20,
            # Which occurrences an id has, found by sorting them, and gradients.
            keeps=f"(B*m/N)*(3*k + {largest(costs, 'id_grads')}*s) + (U/N)*({read} + {largest(costs, 'row_grads')})*s "
            f"+ ({below})*s",
        )
    )
    ops += _rounds_backward(rounds)
    local_backward = _leg("local_backward", 1 if any(r.returns for r in rounds) else 0)
    if shared != "0":
        grad = f"({shared})*s"
        ops.append(
            collective("shared_grad", Phase.BACKWARD, Collective.ALL_REDUCE, Traffic.DENSE, grad, local_backward)
        )
    ops.append(update_rows(model, "U/N", local_backward))
    ops.append(
        update_dense(
            f"(P + {below})",
            "update_rows",
            *(("tail_grad",) if scatter else ()),
            *(("shared_grad",) if shared != "0" else ()),
        )
    )
    return Plan(name, tuple(ops))


def _leg(name: str, number: int) -> str:
    """What comes after round `number`; 0: before any."""
    return f"{name}_{number}" if number else name


def _rounds_forward(rounds: list[Round]) -> list[PlannedOp]:
    """Round i and the leg after it."""
    ops: list[PlannedOp] = []
    for i, r in enumerate(rounds, start=1):
        size, before = f"B*({r.wire})*s", _leg("local_partials", i - 1)
        ops.append(collective(f"round_{i}", Phase.FORWARD, Collective.ALL_REDUCE, Traffic.SPARSE, size, before))
        ops.append(
            compute(
                f"local_partials_{i}",
                Phase.FORWARD,
                f"round_{i}",
                flops=f"B*q*({r.pair_flops})",
                mem=f"2*B*(q*({r.pair_floats}) + {r.sample_floats})*s",
                kernels=6,
                keeps=f"B*(q*({r.pair_floats}) + {r.sample_floats})*s",
            )
        )
    return ops


def _rounds_backward(rounds: list[Round]) -> list[PlannedOp]:
    """From the last round to the first: its gradient's AllReduce, and the leg that this sets free."""
    ops: list[PlannedOp] = []
    for i, r in reversed(list(enumerate(rounds, start=1))):
        if not r.returns:
            continue
        size, before = f"B*({r.wire})*s", "local_backward" if i == len(rounds) else f"local_backward_{i + 1}"
        ops.append(collective(f"round_{i}_grad", Phase.BACKWARD, Collective.ALL_REDUCE, Traffic.SPARSE, size, before))
        ops.append(
            compute(
                f"local_backward_{i}",
                Phase.BACKWARD,
                f"round_{i}_grad",
                flops=f"2*B*q*({r.pair_flops})",
                mem=f"4*B*(q*({r.pair_floats}) + {r.sample_floats})*s",
                kernels=12,
            )
        )
    return ops
