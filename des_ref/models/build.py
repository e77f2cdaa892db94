"""A model as the trainer runs it: substituted operators below, a dense tail above, one [B, K] buffer between.

    rows --partials--> buffer [B, K] --(summed over workers)--> tail --> logits [B]
    bags --from_bags--> the same sums [b, K], for strategies that move pooled field vectors instead
    dense features [b, d] --bottom mlp--> one more vector, which the tail's operators over the operand read first

The K columns are the pooled operand, if an operator needs it, and the operators' partials in the order of
dessim.workload.operators.KINDS. Replicated weights that work below the sum, such as W1 of an mlp, are the
`shared_parameters`; under hash placement their gradient is a partial sum.

All initial values are drawn from `seed` in float64 on the CPU, so they are the same for every worker, device and dtype.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

import torch
from torch import Tensor, nn

from des_ref.data.batch import Batch
from des_ref.embedding.by_width import ColumnRange, SpiltTable, TablesByWidth
from des_ref.embedding.hash_table import RowTable
from des_ref.embedding.init import normal_rows
from des_ref.embedding.lifetime import Lifetime
from des_ref.embedding.optim import RowOptimizer
from des_ref.embedding.spilt_rows import SpiltRows
from des_ref.embedding.widths import widths_of
from des_ref.hashing import GOLDEN, mix64, mix64_int
from des_ref.models.objective import objective_of
from des_ref.models.operators import build_bottom, build_operand, build_operator, build_pool
from des_ref.substitution.base import Bags, Local, Operator, columns_of_concatenation, identity
from des_ref.substitution.owned import OwnedOccurrences
from des_ref.substitution.sums import Groups
from dessim.errors import UsageError
from dessim.workload.model import Model


@dataclass(slots=True)
class OwnedColumns:
    """A parameter whose columns are placed with their fields: `mine` [.., own columns] is trained here.

    `whole` [.., columns] is empty until `settle` gathers it; `places` int64 are those of `mine` among its columns.
    """

    whole: nn.Parameter
    mine: nn.Parameter
    columns: int
    places: Tensor


class Network:
    """The operators and all replicated parameters of one model.

    Operators call `sum_fields` for the sum of a tensor over workers with other fields (`Bags`) and `max_over_workers`
    for its element-wise maximum; a strategy sets both.
    """

    def __init__(self, model: Model, seed: int, dtype: torch.dtype, device: torch.device | str) -> None:
        if not model.precision.is_default:
            raise UsageError(
                f"{model.name} states [precision] {model.precision}, and des_ref trains in float32 only; leave out "
                "[precision], and use --codec for what is sent"
            )
        self.model = model
        self.seed = seed
        self.dtype = dtype
        self.device = torch.device(device)
        self.fields = model.input.fields
        self.width = max(model.widths)
        self.row_widths = model.row_widths
        # The widths of a sample's vectors where they differ; these vectors are then concatenated.
        self.uneven = None if model.has_one_width else model.widths
        self.objective = objective_of(model)
        # Models with another output than a logit have no bias.
        self.bias = nn.Parameter(torch.zeros((), dtype=dtype, device=self.device)) if model.output is None else None
        generator = torch.Generator().manual_seed(seed)
        self.operators = nn.ModuleDict({s.kind: build_operator(s, model, generator) for s in model.operators})
        self.operators.to(self.device, dtype)
        self.operand = build_operand(model, generator)
        self.pool = build_pool(model, generator)
        self.bottom = build_bottom(model, generator)
        self._name_parameters()
        self.owned_columns: list[OwnedColumns] = []
        self.own_fields = range(self.fields)
        self.sum_fields: Callable[[Tensor], Tensor] = identity
        self.max_over_workers: Callable[[Tensor], Tensor] = identity
        self._below = [operator for operator in self.operators.values() if operator.wire]
        self._bag_squares = max(c.bag_floats for c in model.costs)
        self._bag_sizes = int(model.pools_mean)
        self._widths = widths_of(model, self._bag_squares + self._bag_sizes, self.device)
        self._concatenated = self._columns_of_concatenation(self.own_fields)

    def _name_parameters(self) -> None:
        """List the replicated parameters: first those that partials read, then those that only the tail reads."""
        shared: dict[str, nn.Parameter] = {}
        tail = {} if self.bias is None else {"bias": self.bias}
        others = (("pooling", self.pool), ("pooling", self.operand), ("bottom", self.bottom))
        beside = [(kind, module.to(self.device, self.dtype)) for kind, module in others if module is not None]
        for kind, module in [*beside, *self.operators.items()]:
            for name, parameter in module.named_parameters():
                (shared if name in module.shared else tail)[f"{kind}.{name}"] = parameter
        self.dense_names = (*shared, *tail)
        self.shared_parameters = list(shared.values())
        self.tail_parameters = list(tail.values())
        self.dense_parameters = [*self.shared_parameters, *self.tail_parameters]

    # -- placement and rows ---------------------------------------------------------------------------------------

    def keep_fields(self, fields: range) -> None:
        """Field placement: of the weights placed with the rows of a field, keep the columns of `fields` only."""
        self.own_fields = fields
        self._own_concatenated = self._columns_of_concatenation(fields)
        for operator in self.operators.values():
            for name in operator.by_field:
                whole = operator.get_parameter(name)
                places = self._columns_of_own_fields(whole.shape[-1])
                mine = nn.Parameter(whole.detach().index_select(-1, places))
                module, _, leaf = name.rpartition(".")
                setattr(operator.get_submodule(module), leaf, mine)
                self.owned_columns.append(OwnedColumns(whole, mine, whole.shape[-1], places))
        replaced = {id(owned.whole) for owned in self.owned_columns}
        self.shared_parameters = [p for p in self.shared_parameters if id(p) not in replaced]
        for owned in self.owned_columns:
            owned.whole.data = owned.whole.new_empty(0)

    def _columns_of_own_fields(self, columns: int) -> Tensor:
        """int64: which of a parameter's `columns` belong to own fields: as many for a field as its vectors are wide, or
        the same number for every field."""
        per_field = columns // self.fields
        widths = (per_field,) * self.fields if self.uneven is None or columns == self.fields else self.uneven
        starts = [0, *accumulate(widths)]
        own = [place for field in self.own_fields for place in range(starts[field], starts[field + 1])]
        return torch.tensor(own, dtype=torch.int64, device=self.device)

    def _columns_of_concatenation(self, fields: range) -> Tensor | None:
        """Where the columns of `fields` are among those of vectors of the largest width; None where all have it."""
        if self.uneven is None:
            return None
        return columns_of_concatenation([self.uneven[field] for field in fields], self.width).to(self.device)

    def _own_fields(self, device: torch.device) -> Tensor:
        own = self.own_fields
        return torch.arange(own.start, own.stop, own.step, device=device)

    @property
    def trained_parameters(self) -> list[nn.Parameter]:
        """The parameters that this worker's dense optimizer trains."""
        return [*self.shared_parameters, *self.tail_parameters, *(owned.mine for owned in self.owned_columns)]

    @property
    def pools(self) -> bool:
        """Whether some operator's partial works on (sample, field) pairs."""
        return self.pool is not None or any(o.pairs and not self._has_owned_columns(o) for o in self._below)

    def _has_owned_columns(self, operator: Operator) -> bool:
        return bool(self.owned_columns and operator.by_field)

    def new_table(
        self,
        optimizer: RowOptimizer,
        init_std: float,
        extra_columns: Mapping[str, int] | None = None,
        *,
        lifetime: Lifetime | None = None,
        device: torch.device | str | None = None,
        ranges: Sequence[ColumnRange] = (),
        spilt: Sequence[SpiltTable] = (),
    ) -> RowTable | TablesByWidth:
        """An empty table of this model's rows, with columns for the optimizer's state and `extra_columns` (widths).

        Initial values depend on (seed, id) and the column only. The table is on the network's device unless `device` is
        given. `ranges`: the columns of split tables that it stores beside whole rows. `spilt`: tables whose rows are in
        the host's memory.
        """

        def of_widths(widths: Mapping[str, int], own: Mapping[str, slice], cached_rows: int = 0) -> RowTable:
            def initial(ids: Tensor) -> Mapping[str, Tensor]:
                whole = normal_rows(ids, sum(widths.values()), self.seed, init_std, self.dtype)
                by_column = zip(widths, whole.split(list(widths.values()), dim=1), strict=True)
                return {name: values[:, own[name]] for name, values in by_column}

            kept = {name: len(range(width)[own[name]]) for name, width in widths.items()}
            state = optimizer.state(kept)
            columns = {**kept, **state, **(extra_columns or {})}
            if cached_rows:
                state_floats = sum(state.values())
                return SpiltRows(
                    columns, initial, self.dtype, device=self.device, cached_rows=cached_rows, state_floats=state_floats
                )
            return RowTable(columns, initial, self.dtype, device=device or self.device, lifetime=lifetime)

        if self._widths is None and not ranges and not spilt:
            return of_widths(self.row_widths, dict.fromkeys(self.row_widths, slice(None)))
        distinct = self._widths.distinct if self._widths is not None else [self.width]
        whole_rows = {table: self.model.row_widths_of(table.columns.width) for table in spilt}
        return TablesByWidth([self.model.row_widths_of(width) for width in distinct], of_widths, ranges, whole_rows)

    # -- tables of different widths (des_ref/embedding/widths.py) -------------------------------------------------

    def keyed(self, batch: Batch) -> Batch:
        """The batch with ids that name the widths of their tables, where these differ."""
        return batch if self._widths is None else replace(batch, ids=self._widths.keyed(batch.ids, batch.field))

    def has_columns(self, ids: Tensor) -> Tensor | None:
        """bool [n, W]: the columns that the row of each id [n] has; None where all rows have all."""
        return None if self._widths is None else self._widths.of_rows(ids)

    def bags_have_columns(self, field: Tensor) -> Tensor | None:
        """bool [n, W + E]: the columns that a pooled vector of each `field` [n] has; None where all have all."""
        return None if self._widths is None else self._widths.of_bags(field)

    def floats(self, ids: Tensor) -> int:
        """Floats of the rows of `ids` [n] together; 0 where tables have one width, whose rows need no count."""
        has = self.has_columns(ids)
        return 0 if has is None else int(has.sum())

    def embedding_widths(self, ids: Tensor) -> list[int]:
        """The embedding width of the row of each id [n]."""
        return [self.width] * len(ids) if self._widths is None else self._widths.width(ids)

    # -- below the sums -------------------------------------------------------------------------------------------

    def partials(self, values: Mapping[str, Tensor], owned: OwnedOccurrences) -> Tensor:
        """[B, K] from the `values` [u, width] of the u distinct ids that this worker owns."""
        local = Local(owned, values, self.uneven, self._concatenated)
        pooled = local if self.pool is None else self.pool(local)
        parts = [self.operand.partial(pooled, self.max_over_workers)] if self.operand is not None else []
        if self.owned_columns:
            bags = self._own_bags(pooled)
        sums_of_terms = self._sums_of_terms(local)
        for operator in self._below:
            if operator in sums_of_terms:
                parts.append(sums_of_terms[operator])
            elif self._has_owned_columns(operator):
                parts.append(operator.from_bags(bags))
            else:
                parts.append(operator.partial(pooled if operator.pairs else local))
        return torch.cat(parts, dim=1)

    def _sums_of_terms(self, local: Local) -> dict[Operator, Tensor]:
        """Partials [B, wire] of the operators that only add up terms of ids, from a single sum for all of them."""
        terms: dict[Operator, list[Tensor]] = {}
        for operator in self._below:
            operator_terms = operator.terms(local)
            if operator_terms is not None:
                terms[operator] = operator_terms
        if not terms:
            return {}
        sums = local.by_sample([term for operator_terms in terms.values() for term in operator_terms])
        return dict(zip(terms, sums.split([operator.wire for operator in terms], dim=1), strict=True))

    def _own_bags(self, local: Local) -> Bags:
        """`Bags.x` of this worker's own fields; field f of n workers is the (f // n)-th field of its owner."""
        owned = local.owned
        fields = len(self.own_fields)
        stride = self.own_fields.step
        place = torch.arange(self.fields, device=owned.field.device) // stride  # [F]
        bag = owned.sample * fields + place.index_select(0, owned.field)
        pooled = local.pooled_by(Groups.of(bag, owned.samples * fields)).view(owned.samples, fields, self.width)
        unused = pooled[:, :, :0]  # operators with owned columns read `x` only
        if self._own_concatenated is not None:
            pooled = pooled.flatten(1)[:, self._own_concatenated]
        own_fields = self._own_fields(pooled.device)
        return Bags(
            w=unused,
            v=unused,
            x=pooled,
            squares=unused,
            sum_fields=self.sum_fields,
            own_fields=own_fields,
            fields=self.fields,
        )

    @property
    def bag_width(self) -> int:
        """W + E, the floats of a bag."""
        return sum(self.row_widths.values()) + self._bag_squares + self._bag_sizes

    def bag_rows(self, values: Mapping[str, Tensor]) -> Tensor:
        """[u, W + E]: what each id adds to its bag, from its `values` [u, width]."""
        columns = [values[name] for name in self.row_widths]
        if self._bag_squares:
            squares = values["v"].square()
            columns.append(squares.sum(dim=1, keepdim=True) if self._bag_squares == 1 else squares)
        if self._bag_sizes:
            columns.append(torch.ones_like(columns[0][:, :1]))
        return torch.cat(columns, dim=1)

    def from_bags(self, bags: Tensor) -> Tensor:
        """[b, K], the sums of all partials, from `bags` [b, F, W + E], the sums of `bag_rows` over each bag."""
        widths = [self.row_widths.get("w", 0), self.row_widths.get("v", 0), self._bag_squares, self._bag_sizes]
        w, v, squares, sizes = bags.split(widths, dim=2)
        x = v / sizes.clamp_min(1) if self._bag_sizes else v
        if self._concatenated is not None and self.row_widths.get("v"):
            x = x.flatten(1).index_select(1, self._concatenated)
        whole = Bags(w=w, v=v, x=x, squares=squares)
        parts = [self.operand.from_bags(whole)] if self.operand is not None else []
        return torch.cat(parts + [operator.from_bags(whole) for operator in self._below], dim=1)

    # -- above the sums -------------------------------------------------------------------------------------------

    def tail(self, sums: Tensor, masks: list[Tensor] | None = None, dense: Tensor | None = None) -> Tensor:
        """Logits [b], or the objective's other output, from `sums` [b, K].

        `masks` and the `dense` features [b, d], which only models with a bottom mlp have, are those of these b samples.
        """
        operand_width = self.operand.wire if self.operand is not None else 0
        pooled, *parts = sums.split([operand_width, *(operator.wire for operator in self._below)], dim=1)
        pooled = self.operand.finish(pooled) if self.operand is not None else pooled
        if self.bottom is not None:
            assert dense is not None, "the model has dense features"
            below = self.bottom(dense.to(self.dtype))
            pooled = torch.cat([below if self.uneven is not None else below[:, None], pooled], dim=1)
        next_sums = iter(parts)
        next_masks = iter(masks or ())
        out = self.bias.expand(len(sums)) if self.bias is not None else sums.new_zeros(())
        for operator in self.operators.values():
            own_masks = [next(next_masks) for _ in operator.hidden] if masks is not None else None
            out = out + operator.finish(next(next_sums) if operator.wire else pooled, own_masks)
        return out

    def masks(self, places: Tensor, step: int) -> list[Tensor] | None:
        """The random draws of a training step, such as dropout masks: one [b, width] for each of the operators'
        `hidden` layers; None if no operator draws.

        `places` int64 [b] are the samples' indices in the global batch. A draw depends on (seed, step, layer, place)
        only: a worker draws for its own samples, and replicated tails drop the same units.
        """
        if not any(operator.is_random for operator in self.operators.values()):
            return None
        hidden = [(operator, width) for operator in self.operators.values() for width in operator.hidden]
        of_step = mix64_int(mix64_int(self.seed) + step)
        return [
            operator.draw(mix64(places * GOLDEN + mix64_int(of_step + layer)), width, self.dtype)
            for layer, (operator, width) in enumerate(hidden)
        ]
