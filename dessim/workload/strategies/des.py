"""DES: distributed equivalent substitution (Rong et al., SIGIR 2020).

Rows never move. Each lives on the worker that h(id) names (hash placement) or that owns its field (field placement).
A worker turns the rows it owns into partials, K floats for every sample of the *global* batch, and one collective sums
the partials over the workers.

    des_all_reduce      The paper's strategy: an AllReduce of [B, K]. The dense tail runs replicated on the whole batch.
                        The backward of the AllReduce is the identity, so no gradient of the buffer is sent.
    des_reduce_scatter  A ReduceScatter of [B, K]. Each worker runs the tail on its B/N samples and AllGathers the
                        buffer's gradient. The tail's gradients are AllReduced.

Both send the same sparse bytes. Replicated weights that local partials read (W1 of an mlp) have a gradient that is a
partial sum, so both strategies AllReduce it. Some operators need *rounds*: AllReduces in the middle of their partials,
which cut the local work into *legs*. The gradients of rounds are AllReduced in the backward pass. A model that ends in
a softmax over ids has a second exchange above the tail (scoring.py).
"""

from __future__ import annotations

from dataclasses import dataclass

from dessim.compute import Access
from dessim.trace.schema import Collective, Phase
from dessim.workload.formula import Formula, add_up, as_factor, group, tight_sum
from dessim.workload.model import Model
from dessim.workload.operators import Round, largest, terms, total
from dessim.workload.options import Options
from dessim.workload.plan import OwnerRole, Placement, Plan, PlannedOp, Traffic, collective, compute
from dessim.workload.strategies.parts import (
    dense_inputs,
    dense_layers,
    ids_to_owners,
    products,
    update_dense,
    update_rows,
    weight_gradients,
)
from dessim.workload.strategies.scoring import scoring
from dessim.workload.strategies.spec import StrategySpec
from dessim.workload.symbols import LOCAL_SAMPLES, OWNED_IDS, OWNED_ROWS, WU, B, F, N, P, U, Wm, Z, k, q, s, sd, so, sr


def des_all_reduce(model: Model) -> Plan:
    """Plan of DES-AR."""
    return _plan("des_all_reduce", model, scatter=False)


def des_reduce_scatter(model: Model) -> Plan:
    """Plan of DES-RS."""
    return _plan("des_reduce_scatter", model, scatter=True)


@dataclass(frozen=True, slots=True)
class _Sizes:
    """Sizes that several ops of a plan share.

    `wire`: K, floats a sample in the buffer of partials; `buffer`: the bytes of it for the global batch.
    `samples`: the samples whose logits a worker computes.
    `per_id`, `per_pair`: FLOPs of local partials for each id and each (sample, field) pair.
    `finish`: FLOPs a sample above the summed partials.
    `read`, `read_rows`: floats of a row that local partials read, mean over ids and over distinct rows.
    `weights`: weights that local partials read on one worker, replicated and owned ones.
    """

    wire: Formula
    buffer: Formula
    samples: Formula
    per_id: Formula
    per_pair: Formula
    finish: Formula
    read: Formula
    read_rows: Formula
    weights: Formula

    @classmethod
    def of(cls, model: Model, scatter: bool) -> _Sizes:
        costs = model.costs
        wire = group(total(costs, "wire"))
        weights = terms(costs, "shared_weights")
        if owned := total(costs, "owned_weights"):
            weights.append(group(owned) / N)
        # An output row only scores codes, so local partials do not read it.
        output = model.output.row if model.output is not None else 0
        return cls(
            wire=wire,
            buffer=B * wire * s,
            samples=LOCAL_SAMPLES if scatter else B,
            per_id=group(total(costs, "id_flops")),
            per_pair=group(total(costs, "pair_flops")),
            finish=group(total(costs, "finish_flops")),
            read=group(Wm - output) if output else Wm,
            read_rows=group(WU - output) if output else WU,
            weights=add_up(weights),
        )


def _plan(name: str, model: Model, scatter: bool) -> Plan:
    sizes = _Sizes.of(model, scatter)
    rounds = [r for c in model.costs for r in c.rounds]
    output = model.output
    shared = total(model.costs, "shared_weights")

    ops: list[PlannedOp] = []
    if not scatter or output is not None:
        # Every worker computes every sample's loss, so it needs every label. A softmax over ids needs bag sizes.
        labels = B * 4 if output is None else B * F * 4
        ops.append(collective("labels", Phase.INPUT, Collective.ALL_GATHER, Traffic.CONTROL, labels))
    if not scatter:
        ops += dense_inputs(model)
    ops += ids_to_owners(bag_sizes=model.pools_mean and not model.by_field)
    ops += _local_forward(model, sizes)
    ops += _rounds_forward(rounds)
    ops.append(_partials(model, sizes, scatter, _leg("local_partials", len(rounds))))
    ops += _tail(model, sizes, scatter)
    ops.append(_local_backward(model, sizes, scatter))
    ops += _rounds_backward(rounds)
    local_backward = _leg("local_backward", 1 if any(r.returns for r in rounds) else 0)
    if shared:
        in_place = len(terms(model.costs, "shared_weights")) == 1
        ops.append(weight_gradients("shared_grad", group(shared), local_backward, in_place=in_place))
    ops.append(update_rows(model, U / N, local_backward))
    gradients = (*(("tail_grad",) if scatter else ()), *(("shared_grad",) if shared else ()))
    ops.append(update_dense(group(P + sizes.weights), "update_rows", *gradients))
    if not model.by_field:
        return Plan(name, tuple(ops))
    return Plan(name, tuple(ops), placement=Placement.TABLES, owned=("V", "m", "q", "u", "U"))


def _local_forward(model: Model, sizes: _Sizes) -> tuple[PlannedOp, ...]:
    """Owners look up the rows of the ids they received and compute partials from them."""
    lookup = compute(
        "lookup",
        Phase.FORWARD,
        "ids",
        mem=4 * OWNED_IDS * k + OWNED_ROWS * 2 * (k + WU * sr),
        kernels=24,
        keeps=4 * OWNED_IDS * k + OWNED_ROWS * (k + WU * sr),
        table_rows=U / N,
        access=Access.GATHER,
        row_bytes=WU * sr,
        role=OwnerRole.WORKS,
    )
    id_floats = group(total(model.costs, "id_floats"))
    pair_floats = group(total(model.costs, "pair_floats"))
    partials = compute(
        "local_partials",
        Phase.FORWARD,
        "lookup",
        flops=OWNED_IDS * sizes.per_id + B * q * sizes.per_pair,
        mem=2 * OWNED_IDS * sizes.read * sr + sizes.buffer + group(sizes.weights) * sd,
        kernels=12,
        keeps=OWNED_IDS * id_floats * sd + B * q * pair_floats * sd + sizes.buffer,
        access=Access.POOL,
        row_bytes=sizes.read * sr,
        role=OwnerRole.WORKS,
    )
    return lookup, partials


def _partials(model: Model, sizes: _Sizes, scatter: bool, last_leg: str) -> PlannedOp:
    """The collective that sums the buffer of partials."""
    return collective(
        "partials",
        Phase.FORWARD,
        Collective.REDUCE_SCATTER if scatter else Collective.ALL_REDUCE,
        Traffic.SPARSE,
        sizes.buffer,
        last_leg,
        rows=B,
        width=as_factor(total((part for part, exact in model.partials if not exact), "wire")),
        exact_width=total((part for part, exact in model.partials if exact), "wire"),
    )


def _tail(model: Model, sizes: _Sizes, scatter: bool) -> list[PlannedOp]:
    """The dense tail, forward and backward, with what it sends."""
    output = model.output
    samples = sizes.samples
    values = tight_sum(sizes.wire, 2 * Z)  # floats a sample that the tail reads and writes
    ops = [
        compute(
            "tail_forward",
            Phase.FORWARD,
            "partials",
            *(() if scatter or output is not None else ("labels",)),
            *(() if scatter else (op.name for op in dense_inputs(model))),
            flops=samples * sizes.finish,
            mem=(samples * values + P) * sd,
            kernels=16,
            keeps=samples * Z * sd,
            products=products(dense_layers(model), samples),
        ),
        *(scoring(model, output, scatter) if output is not None else ()),
        compute(
            "tail_backward",
            Phase.BACKWARD,
            "codes_grad" if output is not None else "tail_forward",
            flops=2 * samples * sizes.finish,
            mem=(2 * samples * values + 2 * P) * sd,
            kernels=28,
            keeps=(samples * sizes.wire + P) * sd,
            products=products(dense_layers(model), samples, backward=True),
        ),
    ]
    if scatter:
        ops += [
            collective(
                "partials_grad",
                Phase.BACKWARD,
                Collective.ALL_GATHER,
                Traffic.SPARSE,
                sizes.buffer,
                "tail_backward",
                rows=LOCAL_SAMPLES,
                width=as_factor(total(model.costs, "wire")),
            ),
            weight_gradients("tail_grad", P, "tail_backward"),
        ]
    return ops


def _local_backward(model: Model, sizes: _Sizes, scatter: bool) -> PlannedOp:
    """Gradients of the rows a worker owns, from those of its partials."""
    weights = group(sizes.weights)
    id_grads = largest(model.costs, "id_grads")
    row_grads = largest(model.costs, "row_grads")
    return compute(
        "local_backward",
        Phase.BACKWARD,
        "partials_grad" if scatter else "tail_backward",
        flops=2 * OWNED_IDS * sizes.per_id + 2 * B * q * sizes.per_pair,
        mem=3 * OWNED_IDS * sizes.read * sr + sizes.buffer + OWNED_ROWS * sizes.read_rows * so + 2 * weights * sd,
        kernels=20,
        # The occurrences of each id, found by sorting, and gradients.
        keeps=OWNED_IDS * (3 * k + id_grads * sd) + OWNED_ROWS * (sizes.read_rows + row_grads) * so + weights * sd,
        access=Access.SCATTER,
        row_bytes=sizes.read * sr,
        role=OwnerRole.WORKS,
    )


def _leg(name: str, number: int) -> str:
    """The name of the leg after round `number`; 0 is the leg before any round."""
    return f"{name}_{number}" if number else name


def _rounds_forward(rounds: list[Round]) -> list[PlannedOp]:
    """Each round and the leg after it."""
    ops: list[PlannedOp] = []
    for i, r in enumerate(rounds, start=1):
        before = _leg("local_partials", i - 1)
        kept = group(q * group(r.pair_floats) + r.sample_floats)
        ops.append(_round(f"round_{i}", Phase.FORWARD, r, before))
        ops.append(
            compute(
                f"local_partials_{i}",
                Phase.FORWARD,
                f"round_{i}",
                flops=B * q * group(r.pair_flops),
                mem=2 * B * kept * sd,
                kernels=6,
                keeps=B * kept * sd,
                role=OwnerRole.WORKS,
            )
        )
    return ops


def _rounds_backward(rounds: list[Round]) -> list[PlannedOp]:
    """From the last round to the first: the AllReduce of its gradient, and the backward of the leg before it."""
    ops: list[PlannedOp] = []
    for i, r in reversed(list(enumerate(rounds, start=1))):
        if not r.returns:
            continue
        before = "local_backward" if i == len(rounds) else f"local_backward_{i + 1}"
        kept = group(q * group(r.pair_floats) + r.sample_floats)
        ops.append(_round(f"round_{i}_grad", Phase.BACKWARD, r, before))
        ops.append(
            compute(
                f"local_backward_{i}",
                Phase.BACKWARD,
                f"round_{i}_grad",
                flops=2 * B * q * group(r.pair_flops),
                mem=4 * B * kept * sd,
                kernels=12,
                role=OwnerRole.WORKS,
            )
        )
    return ops


def _round(name: str, phase: Phase, r: Round, before: str) -> PlannedOp:
    size = B * group(r.wire) * s
    return collective(name, phase, Collective.ALL_REDUCE, Traffic.SPARSE, size, before)


def _refuses(model: Model, options: Options) -> str:
    if options.shampoo and total(model.costs, "owned_weights"):
        return f"cannot train {model.name}: some of its weights live with their fields, and shampoo needs all of them"
    return ""


DES_ALL_REDUCE = StrategySpec(
    "des_all_reduce",
    build=lambda model, options: des_all_reduce(model),
    options=("shampoo",),
    refuses=_refuses,
    substitutes=True,
)
DES_REDUCE_SCATTER = StrategySpec(
    "des_reduce_scatter",
    build=lambda model, options: des_reduce_scatter(model),
    options=("shampoo",),
    refuses=_refuses,
    substitutes=True,
)
