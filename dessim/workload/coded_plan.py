"""A plan whose values travel encoded: each collective that a codec is for becomes a few ops (codecs.py).

    x  ->  x_encode -> x -> x_decode                             AllGather, AllToAll; sums that collectives make
           x_encode -> x_scatter -> x_sum -> x -> x_decode       AllReduce by owners of rows: AllToAll, AllGather
           x_encode -> x_sizes -> x -> x_decode                  messages whose sizes depend on their values
           x_wide beside x                                       columns that stay as they are

The last one is for sums whose difference is what counts: |S|^2 - q of fm and its like cancels, so S and q travel as
they are whatever the rest does. So do sums that are divided by one another (attention pooling), and the one float of
lr, which is a part of the logit. Where pooled vectors travel and such an operator will square them, or they bring the
sizes of bags for a mean, they all stay. Gradients of all of these may be encoded.

Sums in the middle of local partials (rounds), the softmax over ids and parameters that servers give out are never
encoded, and neither are ids.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from dessim.errors import UsageError
from dessim.trace.schema import Collective
from dessim.workload.codecs import Buffer, CodecConfig, CodecSpec, Sum, factor, product
from dessim.workload.model import Model
from dessim.workload.operators import Costs, total
from dessim.workload.plan import Plan, PlannedOp, Traffic, collective, compute

CANCELLING = ("fm", "fm_fields", "nfm")  # operators that subtract sums which are nearly equal
STAYING = ("lr", *CANCELLING)  # whose part of the buffer of partials is never encoded

_BUFFERS = {
    "partials": Buffer.ACTIVATIONS,
    "pooled": Buffer.ACTIVATIONS,
    "rows": Buffer.ACTIVATIONS,
    "pull_rows": Buffer.ACTIVATIONS,
    "partials_grad": Buffer.GRADIENTS,
    "pooled_grad": Buffer.GRADIENTS,
    "rows_grad": Buffer.GRADIENTS,
    "push_rows": Buffer.GRADIENTS,
    "row_grads": Buffer.GRADIENTS,
    "shared_grad": Buffer.DENSE,
    "tail_grad": Buffer.DENSE,
    "dense_grad": Buffer.DENSE,
    "push_dense": Buffer.DENSE,
}
_DENSITY = {Buffer.ACTIVATIONS: "za", Buffer.GRADIENTS: "zg", Buffer.DENSE: "zd"}  # symbols: the share that is not zero


@dataclass(frozen=True, slots=True)
class CodedOp:
    """A collective of a plan whose values travel in a form. Formulas, a worker: `rows` of `width` values that it
    brings, `wide` more of each that stay as they are. `flat`: a vector, cut in equal shares where it is shared out."""

    name: str
    form: CodecSpec
    buffer: Buffer
    rows: str
    width: str
    wide: str = "0"
    flat: bool = False

    @property
    def density(self) -> str:
        """The symbol for the share of its values that is not zero."""
        return _DENSITY[self.buffer]


def coded_ops(plan: Plan, model: Model, codes: CodecConfig) -> dict[str, CodedOp]:
    """What of a plan's ops travels encoded, by name. Raises UsageError where a form was asked for and nothing does."""
    found = {}
    for op in plan.collectives:
        buffer = _BUFFERS.get(op.name)
        form = codes.by_buffer.get(buffer) if buffer is not None else None
        if buffer is None or form is None or (form.of_samples and not op.name.startswith("partials")):
            continue
        rows, width, wide = _shape(op, model)
        if width != "0":
            found[op.name] = CodedOp(op.name, form, buffer, rows, width, wide, buffer is Buffer.DENSE)
    idle = [str(b) for b in codes.by_buffer if not any(c.buffer is b for c in found.values())]
    if idle and (codes.strict or not found):
        what = " or ".join("gradients of dense weights" if b == Buffer.DENSE else b for b in idle)
        raise UsageError(f"codecs {codes}: {plan.strategy} of {model.name} sends no {what} that can be encoded so")
    return found


def buffer_parts(model: Model) -> list[tuple[Costs, bool]]:
    """The parts of the buffer of partials in their order, and whether each stays as it is."""
    divided = model.needs_operand and model.embedding.pooling == "attention" and not model.by_field
    return [(c, c.kind in STAYING or (divided and c.kind == "operand")) for c in model.costs if c.wire != "0"]


def _shape(op: PlannedOp, model: Model) -> tuple[str, str, str]:
    """Rows, columns that are encoded, columns that are not."""
    samples, stays = "B", model.pools_mean or any(kind in CANCELLING for kind in model.kinds)
    match op.name:
        case "partials":
            narrow, wide = (total((c for c, stays in buffer_parts(model) if stays is x), "wire") for x in (False, True))
            return samples, narrow if narrow == "0" else factor(narrow), wide
        case "partials_grad":
            return "(B/N)", factor(total(model.costs, "wire")), "0"
        case "pooled" | "pooled_grad":
            if op.name == "pooled" and op.collective is not Collective.ALL_TO_ALL:
                bags = "(B*F)"
            else:
                bags = "((B/N)*F)"
            return bags, "0" if stays and op.name == "pooled" else "(W+E)", "0"
        case "rows" | "pull_rows" | "rows_grad" | "push_rows" | "row_grads":
            rows = op.size.removesuffix("*W*s")
            if op.collective is Collective.ALL_GATHER:  # of all workers
                rows = rows.removeprefix("N*") if rows.startswith("N*") else f"({rows}/N)"
            return rows, "W", "0"
        case "push_dense":
            weights = op.size.removeprefix("N*").removesuffix("*s")
            return "N", weights, "0"
    return "1", op.size.removesuffix("*s"), "0"


def coded(plan: Plan, model: Model, codes: CodecConfig) -> Plan:
    """`plan` with `codes` on its wire. Raises UsageError as `coded_ops` does."""
    if not codes:
        return plan
    found = coded_ops(plan, model, codes)
    ops: list[PlannedOp] = []
    waiting: dict[str, list[PlannedOp]] = {}  # what follows the wait for an op, not yet in `ops`
    for op in plan.ops:
        for dep in op.deps:
            ops += waiting.pop(dep, [])
        deps = tuple(f"{dep}_decode" if dep in found else dep for dep in op.deps)
        op = replace(op, deps=deps)
        if op.name in found:
            before, waiting[op.name] = _exchange(op, found[op.name])
            ops += before
        else:
            ops.append(op)
    for rest in waiting.values():
        ops += rest
    expects = {c.density: c.form.density for c in found.values() if c.form.varies}
    told = f"codecs {codes}: not equivalent"
    return replace(plan, ops=tuple(ops), expects=expects, caveat=f"{plan.caveat}; {told}" if plan.caveat else told)


def _exchange(op: PlannedOp, c: CodedOp) -> tuple[list[PlannedOp], list[PlannedOp]]:
    """What is launched in place of `op`, and what follows once it is waited for."""
    form, name, rows, width = c.form, op.name, c.rows, c.width
    all_reduce = op.collective is Collective.ALL_REDUCE
    scattered = all_reduce and form.sums is Sum.SCATTER
    if c.flat and scattered:
        rows, width = "N", f"ceil({factor(width)}/N)"
    brought = _work(form, "encode", rows, width, c.density)
    if c.wide != "0":  # columns are told apart first
        whole = product(rows, f"{width} + {c.wide}", "s")
        brought = (brought[0] + 2, brought[1], f"{brought[2]} + 2*{whole}")
    encode = _compute(op, f"{name}_encode", op.deps, brought, form.size("1", rows, width, c.density))
    before, last = [encode], f"{name}_encode"
    if form.varies:
        one_by_one = op.collective in (Collective.ALL_TO_ALL, Collective.REDUCE_SCATTER)
        to_all = Collective.ALL_TO_ALL if one_by_one else Collective.ALL_GATHER
        before.append(
            replace(collective(f"{name}_sizes", op.phase, to_all, Traffic.CONTROL, "N*8", last), part_of=name)
        )
        last = f"{name}_sizes"
    made = form.size("N", rows, width, c.density)  # a message for each worker
    everyones = form.size("N", f"N*{rows}", width, c.density)  # one message of each worker, everywhere
    after: list[PlannedOp] = []
    match op.collective, form.sums:
        case Collective.ALL_REDUCE, Sum.SCATTER:
            before.append(_collective(op, f"{name}_scatter", Collective.ALL_TO_ALL, made, last))
            summed = _work(form, "decode", rows, width, c.density)
            again = _work(form, "encode", f"({rows}/N)", width, c.density)
            both = (summed[0] + again[0] + 2, f"{summed[1]} + {again[1]}", f"{summed[2]} + {again[2]}")
            keeps = form.size("1", f"({rows}/N)", width, c.density)
            after.append(_compute(op, f"{name}_sum", (f"{name}_scatter",), both, keeps))
            after.append(_collective(op, name, Collective.ALL_GATHER, made, f"{name}_sum"))
            arrives = (rows, width)
        case Collective.ALL_REDUCE, Sum.GATHER:
            before.append(_collective(op, name, Collective.ALL_GATHER, everyones, last))
            arrives = (f"N*{rows}", width)
        case ((Collective.ALL_REDUCE | Collective.REDUCE_SCATTER), Sum.REDUCE):
            before.append(_collective(op, name, op.collective, form.size("1", rows, width, c.density), last))
            arrives = (rows if all_reduce else f"({rows}/N)", width)
        case Collective.REDUCE_SCATTER, _:
            before.append(_collective(op, name, Collective.ALL_TO_ALL, made, last))
            arrives = (rows, width)
        case Collective.ALL_GATHER, _:
            before.append(_collective(op, name, Collective.ALL_GATHER, everyones, last))
            arrives = (f"N*{rows}", width)
        case Collective.ALL_TO_ALL, _:
            before.append(_collective(op, name, Collective.ALL_TO_ALL, made, last))
            arrives = (rows, width)
        case _:
            raise AssertionError(f"{op.collective} of {form}")
    ready = [name]
    if c.wide != "0":
        assert op.collective is not None
        before.append(replace(_collective(op, f"{name}_wide", op.collective, product(rows, c.wide, "s")), deps=op.deps))
        ready.append(f"{name}_wide")
    decode = _work(form, "decode", *arrives, c.density)
    after.append(_compute(op, f"{name}_decode", tuple(ready), decode, product(*arrives, "s")))
    return before, after


def _work(form: CodecSpec, which: str, rows: str, width: str, density: str) -> tuple[int, str, str]:
    """Kernels, FLOPs and bytes of memory traffic of encoding or decoding so many rows."""
    work = form.encode if which == "encode" else form.decode
    values = product(rows, width)
    return work.kernels, f"{work.flops}*{values}", f"{work.touches}*{values}*s + {form.size('1', rows, width, density)}"


def _compute(op: PlannedOp, name: str, deps: tuple[str, ...], work: tuple[int, str, str], keeps: str) -> PlannedOp:
    kernels, flops, mem = work
    return replace(compute(name, op.phase, *deps, flops=flops, mem=mem, kernels=kernels, keeps=keeps), part_of=op.name)


def _collective(op: PlannedOp, name: str, kind: Collective, size: str, *deps: str) -> PlannedOp:
    return replace(op, name=name, collective=kind, size=size, deps=deps, part_of=op.name)
