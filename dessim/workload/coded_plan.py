"""Plans whose values are sent encoded: each collective that has a codec becomes a few ops (codecs.py).

    x  ->  x_encode -> x -> x_decode                             AllGather, AllToAll; sums made by the collective
           x_encode -> x_scatter -> x_sum -> x -> x_decode       AllReduce by owners of rows: AllToAll, then AllGather
           x_encode -> x_sizes -> x -> x_decode                  messages whose sizes depend on their values
           x_wide beside x                                       columns that are sent as floats

`x_wide` carries what a lossy codec would ruin. |S|^2 - q of fm and its relatives cancels, so S and q are never encoded.
Nor are sums that are divided by one another (attention pooling), nor lr's one float, which is a term of the logit. If
pooled vectors are sent and such an operator will square them, or they carry the sizes of bags for a mean, none of them
is encoded. The gradients of all of these may be. Operators state this (`cancels`, `exact_partials`), and plans give it
as `PlannedOp.width` and `PlannedOp.exact_width`.

Never encoded: sums in the middle of local partials (rounds), the softmax over ids, parameters that servers send, ids.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from dessim.compute import Precision
from dessim.errors import UsageError
from dessim.trace.schema import Collective
from dessim.workload.codecs import Buffer, CodecConfig, CodecSpec, Sum, Work
from dessim.workload.formula import ONE, Formula, as_factor, ceil, group, product_of, symbol
from dessim.workload.model import Model
from dessim.workload.plan import OwnerRole, Plan, PlannedOp, Traffic, collective, compute
from dessim.workload.symbols import COUNTS, N, s

BUFFERS = {
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
# Symbols of the share of values that is not zero.
_DENSITY = {Buffer.ACTIVATIONS: "za", Buffer.GRADIENTS: "zg", Buffer.DENSE: "zd"}


@dataclass(frozen=True, slots=True)
class CodedOp:
    """A collective of a plan that sends its values encoded.

    A worker contributes `rows` rows of `width` values, and `exact_width` more of each that are not encoded.
    `flat`: the values are one vector, which is cut into equal shares if owners sum it.
    """

    name: str
    codec: CodecSpec
    buffer: Buffer
    rows: Formula
    width: Formula
    exact_width: Formula
    flat: bool = False

    @property
    def density(self) -> str:
        """The symbol of the share of its values that is not zero."""
        return _DENSITY[self.buffer]

    def size(self, rows: Formula, width: Formula, messages: Formula = ONE) -> Formula:
        """Bytes of `messages` messages that hold `rows` rows of `width` values together."""
        return self.codec.size(messages, rows, width, symbol(self.density))


def coded_ops(plan: Plan, model: Model, codecs: CodecConfig) -> dict[str, CodedOp]:
    """The ops of a plan that send their values encoded, by name.

    Raises UsageError if a codec was requested and the plan sends nothing that it could encode.
    """
    coded: dict[str, CodedOp] = {}
    for op in plan.collectives:
        buffer = BUFFERS.get(op.name.partition(".")[0])  # composed plans name the group of tables behind it
        codec = codecs.by_buffer.get(buffer) if buffer is not None else None
        if buffer is None or codec is None or not op.width:
            continue
        if buffer is not Buffer.DENSE and not op.name.startswith("partials") and not model.tables_have_one_width:
            raise UsageError(
                f"codecs {codecs}: codecs encode rows of one width, and {model.name} has tables of "
                f"{min(model.widths)} to {max(model.widths)} columns"
            )
        if buffer is not Buffer.DENSE and _splits_columns(plan, model):
            problem = f"codecs {codecs}: codecs encode rows of one width, and column_wise splits rows"
            otherwise = "or plan again with --without column_wise"
            raise UsageError(f"{problem}: encode gradients of dense weights only, {otherwise}")
        if buffer is not Buffer.DENSE and any(group.replicas > 1 for group in plan.groups):
            problem = f"codecs {codecs}: messages of replicas are sent as they are"
            raise UsageError(f"{problem}: encode gradients of dense weights only, or leave replicas out")
        if codec.of_samples and not op.name.startswith("partials"):
            continue
        is_vector = buffer is Buffer.DENSE
        coded[op.name] = CodedOp(op.name, codec, buffer, op.rows, op.width, op.exact_width, flat=is_vector)
    idle = [b for b in codecs.by_buffer if not any(op.buffer is b for op in coded.values())]
    if idle and (codecs.strict or not coded):
        what = " or ".join("gradients of dense weights" if b is Buffer.DENSE else str(b) for b in idle)
        raise UsageError(f"codecs {codecs}: {plan.strategy} of {model.name} sends no {what} that can be encoded so")
    return coded


def _splits_columns(plan: Plan, model: Model) -> bool:
    """Whether the columns of a table have several owners."""
    return any(shard.columns != model.widths[shard.table] for group in plan.groups for shard in group.shards)


def require_floats(model: Model, codecs: CodecConfig | None) -> None:
    """Raises UsageError where a job that sends other values than float32 is to be encoded."""
    wire = model.precision.wire
    if codecs and wire is not Precision.FP32:
        raise UsageError(f"--codec {codecs} encodes float32, and the model sends {wire}; leave one of them out")


def coded(plan: Plan, model: Model, codecs: CodecConfig) -> Plan:
    """`plan` with `codecs` applied to its collectives. Raises UsageError as `coded_ops` does."""
    if not codecs:
        return plan
    coded_by_name = coded_ops(plan, model, codecs)
    ops: list[PlannedOp] = []
    pending: dict[str, list[PlannedOp]] = {}  # ops that follow a collective and are not yet in `ops`
    for op in plan.ops:
        for dep in op.deps:
            ops += pending.pop(dep, [])
        deps = tuple(f"{dep}_decode" if dep in coded_by_name else dep for dep in op.deps)
        op = replace(op, deps=deps)
        if op.name in coded_by_name:
            launched, pending[op.name] = _exchange(op, coded_by_name[op.name])
            ops += launched
        else:
            ops.append(op)
    for rest in pending.values():
        ops += rest
    expects = {c.density: c.codec.density for c in coded_by_name.values() if c.codec.varies}
    caveat = "; ".join(filter(None, (plan.caveat, f"codecs {codecs}: not equivalent")))
    return replace(plan, ops=tuple(ops), expects=expects, caveat=caveat)


def encoded(plan: Plan, model: Model, codecs: CodecConfig) -> tuple[Plan, CodecConfig]:
    """`plan` with those of `codecs` that encode something in it, and these codecs. Raises UsageError if none does."""
    if not codecs:
        return plan, codecs
    ops = coded_ops(plan, model, CodecConfig(codecs.by_buffer, strict=False)).values()
    used = {op.buffer for op in ops}
    own = CodecConfig({buffer: codec for buffer, codec in codecs.by_buffer.items() if buffer in used})
    return coded(plan, model, own), own


def _exchange(op: PlannedOp, c: CodedOp) -> tuple[list[PlannedOp], list[PlannedOp]]:
    """The ops that are launched in place of `op`, and those that follow once it has finished."""
    name = op.name
    codec = c.codec
    rows = c.rows
    width = c.width
    all_reduce = op.collective is Collective.ALL_REDUCE
    if c.flat and all_reduce and codec.summing is Sum.SCATTER:
        # Each owner sums one share of the vector: N rows.
        rows = N
        width = ceil(as_factor(c.width) / N)
    encoding = _cost(c, codec.encode, rows, width)
    if c.exact_width:
        # Copies that separate the columns which are not encoded.
        whole = product_of(rows, width + c.exact_width, s)
        encoding = encoding.plus(kernels=2, mem=2 * whole)
    last = f"{name}_encode"
    by_owner = op.role is OwnerRole.SENDS
    for_owner = op.role is OwnerRole.RECEIVES
    before = [_compute(op, last, op.deps, cost=encoding, keeps=c.size(rows, width), owned=by_owner)]
    if codec.varies:
        one_by_one = op.collective in (Collective.ALL_TO_ALL, Collective.REDUCE_SCATTER)
        announce = Collective.ALL_TO_ALL if one_by_one else Collective.ALL_GATHER
        sizes = collective(f"{name}_sizes", op.phase, announce, Traffic.CONTROL, COUNTS, last)
        before.append(replace(sizes, part_of=name))
        last = sizes.name
    one_for_each = c.size(rows, width, messages=N)  # a message for each worker
    one_of_each = c.size(N * rows, width, messages=N)  # a message of each worker, on every worker
    after: list[PlannedOp] = []
    match op.collective, codec.summing:
        case Collective.ALL_REDUCE, Sum.SCATTER:
            before.append(_collective(op, f"{name}_scatter", Collective.ALL_TO_ALL, one_for_each, last))
            share = group(rows / N)
            summing = _cost(c, codec.decode, rows, width)
            again = _cost(c, codec.encode, share, width)
            both = summing.plus(kernels=again.kernels + 2, flops=again.flops, mem=again.mem)
            keeps = c.size(share, width)
            after.append(_compute(op, f"{name}_sum", (f"{name}_scatter",), cost=both, keeps=keeps))
            after.append(_collective(op, name, Collective.ALL_GATHER, one_for_each, f"{name}_sum"))
            arriving_rows = rows
        case Collective.ALL_REDUCE, Sum.GATHER:
            before.append(_collective(op, name, Collective.ALL_GATHER, one_of_each, last))
            arriving_rows = N * rows
        case ((Collective.ALL_REDUCE | Collective.REDUCE_SCATTER), Sum.REDUCE):
            before.append(_collective(op, name, op.collective, c.size(rows, width), last))
            arriving_rows = rows if all_reduce else group(rows / N)
        case Collective.ALL_GATHER, _:
            before.append(_collective(op, name, Collective.ALL_GATHER, one_of_each, last))
            arriving_rows = N * rows
        case ((Collective.ALL_TO_ALL | Collective.REDUCE_SCATTER), _):
            before.append(_collective(op, name, Collective.ALL_TO_ALL, one_for_each, last))
            arriving_rows = rows
        case _:
            raise AssertionError(f"{op.collective} of {codec}")
    ready = [name]
    if c.exact_width:
        assert op.collective is not None
        size = product_of(rows, c.exact_width, s)
        before.append(replace(_collective(op, f"{name}_wide", op.collective, size), deps=op.deps))
        ready.append(f"{name}_wide")
    decoding = _cost(c, codec.decode, arriving_rows, width)
    decoded = product_of(arriving_rows, width, s)
    after.append(_compute(op, f"{name}_decode", tuple(ready), cost=decoding, keeps=decoded, owned=for_owner))
    return before, after


@dataclass(frozen=True, slots=True)
class _Cost:
    """Costs of a compute op: kernels, FLOPs, bytes of memory traffic."""

    kernels: int
    flops: Formula
    mem: Formula

    def plus(self, kernels: int, mem: Formula, flops: Formula | None = None) -> _Cost:
        total_flops = self.flops if flops is None else self.flops + flops
        return _Cost(self.kernels + kernels, total_flops, self.mem + mem)


def _cost(c: CodedOp, work: Work, rows: Formula, width: Formula) -> _Cost:
    """Costs of encoding or decoding `rows` rows of `width` values: each value's, and the message's own bytes."""
    values = product_of(rows, width)
    return _Cost(work.kernels, work.flops * values, work.touches * values * s + c.size(rows, width))


def _compute(
    op: PlannedOp, name: str, deps: tuple[str, ...], *, cost: _Cost, keeps: Formula, owned: bool = False
) -> PlannedOp:
    """`owned`: whether the work is that of an owner."""
    planned = compute(name, op.phase, *deps, flops=cost.flops, mem=cost.mem, kernels=cost.kernels, keeps=keeps)
    return replace(planned, part_of=op.name, role=OwnerRole.WORKS if owned else OwnerRole.NONE)


def _collective(op: PlannedOp, name: str, kind: Collective, size: Formula, *deps: str) -> PlannedOp:
    return replace(op, name=name, collective=kind, size=size, deps=deps, part_of=op.name)
