"""Ops that several strategies share, each stated once."""

from __future__ import annotations

from dataclasses import replace

from dessim.compute import Access
from dessim.trace.schema import Collective, Phase
from dessim.workload.formula import ONE, Formula, add_up, group, number, tight_sum
from dessim.workload.model import Model
from dessim.workload.operators import Layer, stack, terms, total
from dessim.workload.plan import OwnerRole, PlannedOp, PlannedProduct, Traffic, collective, compute
from dessim.workload.symbols import (
    BAG,
    BAG_TERM,
    COUNTS,
    EVEN_SHARE,
    LOCAL_SAMPLES,
    OU,
    WU,
    B,
    F,
    N,
    P,
    U,
    Wm,
    Wu,
    Z,
    c,
    k,
    m,
    s,
    sd,
    so,
    sr,
    u,
)

POOLED = F * BAG * s  # bytes of one sample's pooled field vectors on the wire, with what their bags carry beside
DENSE_POOLED = F * BAG * sd  # the same as the dense layers read them
LOCAL_IDS = LOCAL_SAMPLES * m  # ids of one worker's samples


def ids_to_owners(bag_sizes: bool = False) -> tuple[PlannedOp, ...]:
    """Each worker sends every id of its B/N samples, with its coordinate, to the worker that owns its row.

    With `bag_sizes` the size of the id's bag travels too, since the owner of only some of a bag's ids cannot know it.
    The sender need not keep what it sent.
    """
    id_bytes = tight_sum(k, 2 * c if bag_sizes else c)
    return (
        compute("split_ids", Phase.INPUT, mem=4 * LOCAL_IDS * k, kernels=10, keeps=LOCAL_IDS * k),
        _id_counts(),
        collective(
            "ids",
            Phase.INPUT,
            Collective.ALL_TO_ALL,
            Traffic.IDS,
            LOCAL_IDS * id_bytes,
            "id_counts",
            role=OwnerRole.RECEIVES,
        ),
    )


def keys_to_owners(name: str, requested: Formula = u, local_share: Formula = EVEN_SHARE) -> tuple[PlannedOp, ...]:
    """Each worker sends the distinct ids of its B/N samples to the workers that own their rows, as op `name`.

    `requested`: how many of them it sends, all u by default; `local_share`: the share of them that it owns itself.
    """
    a2a = Collective.ALL_TO_ALL
    return (
        compute("split_ids", Phase.INPUT, mem=8 * LOCAL_IDS * k, kernels=24, keeps=2 * LOCAL_IDS * k + u * k),
        _id_counts(),
        collective(
            name,
            Phase.INPUT,
            a2a,
            Traffic.IDS,
            requested * k,
            "id_counts",
            local_share=local_share,
            role=OwnerRole.RECEIVES,
        ),
    )


def _id_counts() -> PlannedOp:
    """How many ids each worker is about to receive."""
    return collective("id_counts", Phase.INPUT, Collective.ALL_TO_ALL, Traffic.CONTROL, COUNTS, "split_ids")


def lookup_own(name: str, rows: Formula) -> PlannedOp:
    """A worker reads `rows` distinct rows of its own samples from its own table."""
    return compute(
        name,
        Phase.FORWARD,
        "split_ids",
        mem=rows * 2 * (k + Wu * sr),
        kernels=12,
        keeps=rows * Wu * sr,
        table_rows=rows,
        access=Access.GATHER,
        row_bytes=Wu * sr,
    )


def lookup_requested(dep: str, requested: Formula = u, rows: Formula = U / N) -> PlannedOp:
    """An owner receives `requested` keys, finds the distinct `rows` among them, and answers every key (means)."""
    return compute(
        "lookup",
        Phase.FORWARD,
        dep,
        mem=4 * requested * k + group(rows) * 2 * (k + WU * sr) + requested * Wu * s,
        kernels=28,
        keeps=2 * requested * k + group(rows) * (k + WU * sr),
        table_rows=rows,
        access=Access.GATHER,
        row_bytes=WU * sr,
        role=OwnerRole.WORKS,
    )


def sum_requested(*deps: str, requested: Formula = u, rows: Formula = U / N) -> PlannedOp:
    """An owner adds up the gradients that came back for these keys, for each distinct row."""
    summed = group(rows) * WU * so
    return compute(
        "sum_grad",
        Phase.BACKWARD,
        *deps,
        flops=requested * Wu,
        mem=2 * requested * Wu * s + summed,
        kernels=4,
        keeps=summed,
        access=Access.SCATTER,
        row_bytes=Wu * s,
        role=OwnerRole.WORKS,
    )


def pool_local(*deps: str) -> PlannedOp:
    """A worker pools the rows that it fetched for its B/N samples."""
    pooled = LOCAL_SAMPLES * DENSE_POOLED
    return compute(
        "pool",
        Phase.FORWARD,
        *deps,
        flops=LOCAL_IDS * BAG_TERM,
        mem=LOCAL_IDS * BAG_TERM * sr + pooled,
        kernels=6,
        keeps=3 * LOCAL_IDS * k + pooled,
        access=Access.POOL,
        row_bytes=Wm * sr,
    )


def scatter_local(more: Formula | None = None) -> PlannedOp:
    """The backward of `pool_local`: gradients of the u distinct rows of a worker's B/N samples.

    `more`: bytes of a larger buffer that the gradients are scattered into as well, if any.
    """
    rows = u * Wu * s
    mem = LOCAL_SAMPLES * DENSE_POOLED + LOCAL_IDS * BAG_TERM * sd + rows
    keeps = 3 * LOCAL_IDS * k + rows
    return compute(
        "scatter_grad",
        Phase.BACKWARD,
        "dense_backward",
        flops=LOCAL_IDS * BAG_TERM,
        mem=mem + more if more is not None else mem,
        kernels=8,
        keeps=keeps + more if more is not None else keeps,
        access=Access.SCATTER,
        row_bytes=Wu * s,
    )


def products(layers: tuple[Layer, ...], samples: Formula, backward: bool = False) -> tuple[PlannedProduct, ...]:
    """The products of matrices of `layers` for `samples` samples; `backward`: those of both gradients."""
    products: list[PlannedProduct] = []
    for layer in layers:
        inputs, outputs, rows = (number(size) for size in (layer.inputs, layer.outputs, layer.rows))
        count, m = (samples, rows) if layer.apart else (ONE, group(samples * layer.rows) if layer.rows > 1 else samples)
        if backward:
            products += [PlannedProduct(m, inputs, outputs, count), PlannedProduct(inputs, outputs, m, count)]
        else:
            products.append(PlannedProduct(m, outputs, inputs, count))
    return tuple(products)


def dense_layers(model: Model) -> tuple[Layer, ...]:
    """The products of matrices in the layers above the summed partials or pooled vectors."""
    layers = () if model.dense is None else stack(model.dense.features, *model.dense.widths)
    return sum((c.dense.layers for c in model.costs), layers)


def dense_part(model: Model, samples: Formula, *deps: str) -> tuple[PlannedOp, ...]:
    """All operators over the pooled vectors of `samples` samples, the first layer of an mlp included."""
    flops = group(total(model.costs, "pooled_flops"))
    weights = dense_weights(model) * sd
    layers = sum((c.pooled_layers for c in model.costs), dense_layers(model))
    return (
        compute(
            "dense_forward",
            Phase.FORWARD,
            *deps,
            flops=samples * flops,
            mem=samples * (DENSE_POOLED + 2 * Z * sd) + weights,
            kernels=18,
            keeps=samples * Z * sd,
            products=products(layers, samples),
        ),
        compute(
            "dense_backward",
            Phase.BACKWARD,
            "dense_forward",
            flops=2 * samples * flops,
            mem=2 * samples * (DENSE_POOLED + 2 * Z * sd) + 2 * weights,
            kernels=32,
            keeps=samples * DENSE_POOLED + weights,
            products=products(layers, samples, backward=True),
        ),
    )


def dense_inputs(model: Model) -> tuple[PlannedOp, ...]:
    """The dense features of the global batch, which every worker needs where the dense part is replicated.

    Like labels they are data, and have 4 bytes each whatever the type of the weights.
    """
    if model.dense is None:
        return ()
    size = B * model.dense.features * 4
    return (collective("dense_inputs", Phase.INPUT, Collective.ALL_GATHER, Traffic.CONTROL, size),)


def dense_weights(model: Model) -> Formula:
    """Replicated weights: the tail's, and those that local partials would read if operators were substituted."""
    return group(add_up([P, *terms(model.costs, "shared_weights"), *terms(model.costs, "owned_weights")]))


def dense_grad(model: Model) -> PlannedOp:
    """The AllReduce of the gradients of replicated weights, each worker's from its own samples."""
    return weight_gradients("dense_grad", dense_weights(model), "dense_backward")


def weight_gradients(name: str, weights: Formula, *deps: str, in_place: bool = False) -> PlannedOp:
    """The AllReduce of the gradients of `weights` replicated weights: one row as far as codecs are concerned.

    `in_place`: whether they are one matrix, which is summed where it is. Several are copied to one buffer.
    """
    op = collective(
        name,
        Phase.BACKWARD,
        Collective.ALL_REDUCE,
        Traffic.DENSE,
        weights * s,
        *deps,
        rows=ONE,
        width=weights,
    )
    return op if in_place else replace(op, keeps=weights * s)


def update_rows(model: Model, rows: Formula, *deps: str, role: OwnerRole = OwnerRole.WORKS) -> PlannedOp:
    """The sparse optimizer on `rows` rows: reads and writes each row and its state, and reads its gradient."""
    optimizer = model.row_optimizer
    return compute(
        "update_rows",
        Phase.OPTIMIZER,
        *deps,
        flops=optimizer.flops * group(rows) * WU,
        mem=group(rows) * group(2 * WU * sr + tight_sum(WU, 2 * OU) * so),
        kernels=optimizer.calls(model.row_widths.values()),
        table_rows=rows,
        access=Access.SCATTER,
        row_bytes=WU * sr,
        role=role,
    )


def update_dense(weights: Formula, *deps: str) -> PlannedOp:
    """Adam on `weights` replicated weights: reads weight, gradient and two moments, writes weight and moments."""
    op = compute(
        "update_dense",
        Phase.OPTIMIZER,
        *deps,
        flops=12 * weights,
        mem=7 * weights * so,
        kernels=14,
        keeps=3 * weights * so,
    )
    return replace(op, rows=ONE, width=weights)
