"""A model as the trainer runs it: substituted operators below, a dense tail above, one [B, K] buffer between.

    rows --partials--> buffer [B, K] --(summed over workers)--> tail --> logits [B]
    bags --from_bags--> the same sums [b, K], where a strategy moves pooled field vectors instead

K's columns are the pooled operand, where an operator needs it, and the operators' partials in the order of
dessim.workload.operators.KINDS. Some replicated weights (W1 of an mlp) work below the sum; they are
`shared_parameters`, and their gradient is a partial sum under hash placement.

All starting values come from `seed` alone, drawn in float64 on the CPU, so every worker, device and dtype starts alike.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from des_ref.embedding.hash_table import RowTable
from des_ref.embedding.init import normal_rows
from des_ref.embedding.lifetime import Lifetime
from des_ref.embedding.optim import RowOptimizer
from des_ref.models.objective import objective_of
from des_ref.substitution.attention_pool import AttentionPool
from des_ref.substitution.base import Bags, Local, Operator, identity
from des_ref.substitution.cin import Cin, CinByField
from des_ref.substitution.cross import Cross
from des_ref.substitution.cross_v2 import CrossV2, CrossV2ByField
from des_ref.substitution.dot import Dot
from des_ref.substitution.fm import Fm
from des_ref.substitution.fm_fields import FmFields
from des_ref.substitution.fvae import Fvae
from des_ref.substitution.head import Head
from des_ref.substitution.lr import Lr
from des_ref.substitution.max_pool import MaxPool
from des_ref.substitution.mlp import Mlp, MlpOverOperand
from des_ref.substitution.nfm import Nfm
from des_ref.substitution.operand import Operand
from des_ref.substitution.owned import Groups, OwnedOccurrences
from des_ref.substitution.whole_pool import WholeAttention, WholeMax, WholePool
from dessim.workload import operators as specs
from dessim.workload.model import Model


def build_operator(spec: specs.AnySpec, model: Model, generator: torch.Generator) -> Operator:
    """The torch module of one operator of a model file."""
    fields, width = model.input.fields, model.embedding.width
    match spec:
        case specs.Lr():
            return Lr()
        case specs.Fm():
            return Fm(width)
        case specs.Mlp():
            mlp = MlpOverOperand if model.needs_operand else Mlp
            return mlp(fields, width, spec.widths, spec.dropout, generator)
        case specs.FmFields():
            return FmFields(width)
        case specs.Nfm():
            return Nfm(width, spec.widths, spec.dropout, generator)
        case specs.Cross():
            return Cross(fields, width, spec.layers, generator)
        case specs.CrossV2():
            cross = CrossV2 if spec.needs_operand(model.by_field) else CrossV2ByField
            return cross(fields, width, spec.layers, spec.rank, generator)
        case specs.Dot():
            return Dot(fields, width, spec.widths, spec.dropout, spec.kind == "inner", generator)
        case specs.Cin():
            cin = Cin if spec.needs_operand(model.by_field) else CinByField
            return cin(fields, spec.widths, generator)
        case specs.Fvae():
            return Fvae(fields, width, spec, generator)
        case specs.Head():
            return Head(spec.module, fields, width, spec.weights, generator)


def build_operand(model: Model, generator: torch.Generator) -> Operand | None:
    """What turns rows into the pooled vectors of all fields, where an operator needs them."""
    shape = model.input.fields, model.embedding.width
    if not model.needs_operand:
        return None
    match model.embedding.pooling if not model.by_field else "whole":
        case "max":
            return MaxPool(*shape)
        case "attention":
            return AttentionPool(*shape, generator)
    return Operand(*shape)


def build_pool(model: Model, generator: torch.Generator) -> WholePool | None:
    """What pools the ids of a bag before anything else reads them, where all of them are here and it is no sum."""
    match model.embedding.pooling if model.by_field else "":
        case "max":
            return WholeMax()
        case "attention":
            return WholeAttention(model.embedding.width, generator)
    return None


@dataclass(slots=True)
class Owned:
    """A parameter of which this worker trains the columns of its own fields only, `columns` of each: `whole` is empty
    until gathered."""

    whole: nn.Parameter
    mine: nn.Parameter
    columns: int


class Network:
    """The operators and all replicated parameters of one model.

    `sum_fields` is what operators call for the sum of a tensor over workers that have other fields (Bags), `largest`
    for its maximum over all of them.
    """

    def __init__(self, model: Model, seed: int, dtype: torch.dtype, device: torch.device | str) -> None:
        self.model, self.seed, self.dtype, self.device = model, seed, dtype, torch.device(device)
        self.fields, self.width = model.input.fields, model.embedding.width
        self.row_widths = model.row_widths
        generator = torch.Generator().manual_seed(seed)
        self.objective = objective_of(model)
        # Of the logit, where there is one.
        self.bias = nn.Parameter(torch.zeros((), dtype=dtype, device=self.device)) if model.output is None else None
        self.operators = nn.ModuleDict({s.kind: build_operator(s, model, generator) for s in model.operators})
        self.operators.to(self.device, dtype)
        self.operand, self.pool = build_operand(model, generator), build_pool(model, generator)
        pooling = [module.to(self.device, dtype) for module in (self.pool, self.operand) if module is not None]
        # Replicated parameters: those that local partials read, then those that only the tail reads.
        shared, tail = {}, {} if self.bias is None else {"bias": self.bias}
        parts = [*(("pooling", module) for module in pooling), *self.operators.items()]
        for kind, operator in parts:
            for name, p in operator.named_parameters():
                (shared if name in operator.shared else tail)[f"{kind}.{name}"] = p
        self.dense_names = (*shared, *tail)
        self.shared_parameters, self.tail_parameters = list(shared.values()), list(tail.values())
        self.dense_parameters = [*self.shared_parameters, *self.tail_parameters]
        self.owned: list[Owned] = []
        self.own_fields = range(self.fields)
        self.sum_fields: Callable[[Tensor], Tensor] = identity
        self.largest: Callable[[Tensor], Tensor] = identity
        self._below = [operator for operator in self.operators.values() if operator.wire]
        self._bag_squares = max(c.bag_floats for c in model.costs)
        self._bag_sizes = int(model.pools_mean)

    def keep_fields(self, fields: range) -> None:
        """Field placement: of the weights that live with the rows of a field, keep those of `fields`."""
        self.own_fields = fields
        for operator in self.operators.values():
            for name in operator.by_field:
                whole = operator.get_parameter(name)
                mine = nn.Parameter(self.columns_of(whole.detach()).clone())
                module, _, leaf = name.rpartition(".")
                setattr(operator.get_submodule(module), leaf, mine)
                self.owned.append(Owned(whole, mine, whole.shape[-1] // self.fields))
        gone = {id(o.whole) for o in self.owned}
        self.shared_parameters = [p for p in self.shared_parameters if id(p) not in gone]
        for o in self.owned:
            o.whole.data = o.whole.new_empty(0)

    def columns_of(self, whole: Tensor) -> Tensor:
        """[.., F * n] -> the columns of own fields, n of each."""
        return whole.unflatten(-1, (self.fields, -1)).index_select(-2, self._own(whole.device)).flatten(-2)

    def _own(self, device: torch.device) -> Tensor:
        return torch.tensor(self.own_fields, dtype=torch.int64, device=device)

    @property
    def trained_parameters(self) -> list[nn.Parameter]:
        """What this worker's dense optimizer trains."""
        return [*self.shared_parameters, *self.tail_parameters, *(o.mine for o in self.owned)]

    @property
    def pools(self) -> bool:
        """Whether some operator's partial works by (sample, field) pairs."""
        return self.pool is not None or any(o.pairs and not self._is_owned(o) for o in self._below)

    def _is_owned(self, operator: Operator) -> bool:
        return bool(self.owned and operator.by_field)

    def new_table(
        self,
        optimizer: RowOptimizer,
        init_std: float,
        more: Mapping[str, int] | None = None,
        lifetime: Lifetime | None = None,
        device: torch.device | str | None = None,
    ) -> RowTable:
        """An empty table whose rows start as (seed, id) says, with columns for the optimizer's state, and `more`.

        On the network's device unless another is named.
        """
        widths = self.row_widths
        total = sum(widths.values())

        def initial(ids: Tensor) -> Mapping[str, Tensor]:
            values = normal_rows(ids, total, self.seed, init_std, self.dtype)
            return dict(zip(widths, values.split(list(widths.values()), dim=1), strict=True))

        columns = widths | optimizer.state(widths) | dict(more or {})
        return RowTable(columns, initial, self.dtype, device or self.device, lifetime=lifetime)

    # -- below the sums -------------------------------------------------------------------------------------------

    def partials(self, values: Mapping[str, Tensor], held: OwnedOccurrences) -> Tensor:
        """[B, K] from values [u, width] of the u different ids this worker holds."""
        local = Local(held, values)
        whole = local if self.pool is None else self.pool(local)
        parts = [self.operand.partial(whole, self.largest)] if self.operand is not None else []
        if self.owned:
            bags = self._own_bags(whole)
        summed = self._sums_of_samples(local)
        for operator in self._below:
            if operator in summed:
                parts.append(summed[operator])
            else:
                read = whole if operator.pairs else local
                parts.append(operator.from_bags(bags) if self._is_owned(operator) else operator.partial(read))
        return torch.cat(parts, dim=1)

    def _sums_of_samples(self, local: Local) -> dict[Operator, Tensor]:
        """Partials [B, wire] of operators that only add up terms of ids: one sum for all of them."""
        terms = {operator: operator.terms(local) for operator in self._below}
        found = {operator: of for operator, of in terms.items() if of is not None}
        if not found:
            return {}
        sums = local.by_sample([term for of in found.values() for term in of]).split(
            [operator.wire for operator in found], dim=1
        )
        return dict(zip(found, sums, strict=True))

    def _own_bags(self, local: Local) -> Bags:
        """x of the bags of own fields, whole: field f of n workers is the f // n th of its owner."""
        held, fields, stride = local.held, len(self.own_fields), self.own_fields.step
        place = torch.arange(self.fields, device=held.field.device) // stride
        bag = held.sample * fields + place.index_select(0, held.field)
        pooled = local.pooled_by(Groups.of(bag, held.samples * fields)).view(held.samples, fields, self.width)
        nothing = pooled[:, :, :0]  # what lives with a field works on x alone
        return Bags(nothing, nothing, pooled, nothing, self.sum_fields, self._own(pooled.device), self.fields)

    @property
    def bag_width(self) -> int:
        """W + E, floats of a bag."""
        return sum(self.row_widths.values()) + self._bag_squares + self._bag_sizes

    def bag_rows(self, values: Mapping[str, Tensor]) -> Tensor:
        """[u, W + E]: what each id adds to its bag, from its values [u, width]."""
        columns = [values[name] for name in self.row_widths]
        if self._bag_squares:
            squares = values["v"].square()
            columns.append(squares.sum(dim=1, keepdim=True) if self._bag_squares == 1 else squares)
        if self._bag_sizes:
            columns.append(torch.ones_like(columns[0][:, :1]))
        return torch.cat(columns, dim=1)

    def from_bags(self, bags: Tensor) -> Tensor:
        """[b, K] from bags [b, F, W + E], sums of `bag_rows` over each (sample, field): the sums of all partials."""
        widths = self.row_widths
        parts = [widths.get("w", 0), widths.get("v", 0), self._bag_squares, self._bag_sizes]
        w, v, squares, sizes = bags.split(parts, dim=2)
        whole = Bags(w, v, v / sizes.clamp_min(1) if self._bag_sizes else v, squares)
        parts = [self.operand.from_bags(whole)] if self.operand is not None else []
        return torch.cat(parts + [operator.from_bags(whole) for operator in self._below], dim=1)

    # -- above ----------------------------------------------------------------------------------------------------

    def tail(self, sums: Tensor, masks: list[Tensor] | None = None) -> Tensor:
        """Logits [b], or what the objective has instead, from sums [b, K]; `masks` of these b samples."""
        first = self.operand.wire if self.operand is not None else 0
        pooled, *parts = sums.split([first, *(operator.wire for operator in self._below)], dim=1)
        pooled = self.operand.finish(pooled) if self.operand is not None else pooled
        own, left = iter(parts), iter(masks or ())
        out = self.bias.expand(len(sums)) if self.bias is not None else sums.new_zeros(())
        for operator in self.operators.values():
            drop = [next(left) for _ in operator.hidden] if masks is not None else None
            out = out + operator.finish(next(own) if operator.wire else pooled, drop)
        return out

    def masks(self, samples: int, step: int) -> list[Tensor] | None:
        """What operators draw for a training step, dropout masks, one [B, width] a layer of `hidden`; None if nothing.

        From (seed, step) alone, so that replicated tails drop the same units.
        """
        if not any(operator.is_random for operator in self.operators.values()):
            return None
        generator = torch.Generator(self.device).manual_seed(self.seed * 1_000_003 + step)
        return [
            operator.draw(samples, width, generator, self.dtype)
            for operator in self.operators.values()
            for width in operator.hidden
        ]
