"""The interface of substituted operators, and the three forms of their input.

    Local   the occurrences of owned ids, over the global batch                      -> partial(local)    [B, K]
    Bags    whole pooled field vectors of some samples, where a strategy moves them  -> from_bags(bags)   [b, K]
    Plain   all rows and a whole batch on one process, for the reference             -> reference(plain)  logits [B]

The workers' `partial`s add up to what `from_bags` computes from whole bags, and `finish` turns either into the
operator's part of the logit. So every strategy trains the same model, whatever it sends.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from des_ref.hashing import words
from des_ref.substitution.owned import OwnedOccurrences, stable_order
from des_ref.substitution.sums import Groups

# Share of occupied (sample, field) pairs from which one dense GEMM is faster than one GEMM a field; measured on a CPU.
_DENSE_FROM = 0.4


@dataclass(frozen=True)
class Local:
    """Owned occurrences and the `values` [u, width] of their u distinct ids: w [u, 1], v [u, D], ...

    `uneven`: the widths of the fields' vectors where they differ. D is then the largest, with zeros behind the others;
    `columns`, int64, are the places of the vectors in [F * D] (`columns_of_concatenation`).
    """

    owned: OwnedOccurrences
    values: Mapping[str, Tensor]
    uneven: tuple[int, ...] | None = None
    columns: Tensor | None = None

    @cached_property
    def v(self) -> Tensor:
        """[n, D]: the vector of each occurrence."""
        return self.owned.row_index.gather(self.values["v"])

    def by_sample(self, terms: Sequence[Tensor]) -> Tensor:
        """[B, r]: `terms` [u, ..] of the distinct ids, r columns together, summed over the occurrences of a sample."""
        return self.owned.sums(torch.cat(terms, dim=1) if len(terms) > 1 else terms[0], self.owned.by_sample)

    @cached_property
    def pooled(self) -> Tensor:
        """[P, D]: pooled vectors of the occupied (sample, field) pairs; for means, what the owned ids contribute."""
        return self.pooled_by(self.owned.by_pair)

    @cached_property
    def bags(self) -> Tensor:
        """[B, F, D]: the same for all pairs, zeros where no owned id occurs."""
        return self.pooled_by(self.owned.by_bag).view(self.owned.samples, self.owned.fields, -1)

    @property
    def concatenated(self) -> Tensor:
        """[B, F * D], or the sum of the fields' widths: `bags` of all fields side by side."""
        bags = self.bags.flatten(1)
        return bags if self.columns is None else bags.index_select(1, self.columns)

    def pooled_by(self, bags: Groups) -> Tensor:
        """[bags, D]: the same for the given grouping into bags."""
        sums = self.owned.sums(self.values["v"], bags)
        sizes = self.owned.bag_size
        if sizes is None:
            return sums
        return sums / sums.new_ones(len(sums)).index_copy(0, bags.group_of, sizes.to(sums.dtype))[:, None]


def identity(x: Tensor) -> Tensor:
    return x


def columns_of_concatenation(widths: Sequence[int], widest: int) -> Tensor:
    """int64 [sum of widths]: where the vectors of fields of these `widths` are in [F * widest]."""
    places = [field * widest + column for field, width in enumerate(widths) for column in range(width)]
    return torch.tensor(places, dtype=torch.int64)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bags:
    """Values pooled over each bag (the ids of one field of one sample), [b, F, ...].

    w           [.., 1], sums
    v           [.., D], sums
    x           [.., D], v pooled as the model says: sum or mean; [b, sum of widths] where fields differ in width
    squares     sums of v * v, element-wise (D) or over all elements (1), as the model's operators need; width 0 if none
    sum_fields  sums a [b, r] over the workers that hold the other fields of the samples; identity if these are all
    own_fields  int64, the numbers of this worker's fields, of `fields` on all workers; None: these are all
    """

    w: Tensor
    v: Tensor
    x: Tensor
    squares: Tensor
    sum_fields: Callable[[Tensor], Tensor] = identity
    own_fields: Tensor | None = None
    fields: int = 0

    def x_of_all_fields(self) -> Tensor:
        """[b, F, D] on every worker; one collective where fields are spread over workers."""
        if self.own_fields is None:
            return self.x
        whole = self.x.new_zeros(len(self.x), self.fields, self.x.shape[2]).index_copy(1, self.own_fields, self.x)
        return self.sum_fields(whole.flatten(1)).view_as(whole)


@dataclass(frozen=True, slots=True)
class Plain:
    """All rows w [V, 1], v [V, D], o [V, L + 1], and occurrences: index [n] into V, sample [n], field [n].

    bottom  [B, D], the output of the bottom mlp, where there is one
    widths  those of the fields' vectors, if vectors differ in width and are concatenated: D is then the largest
    """

    w: Tensor | None
    v: Tensor | None
    index: Tensor
    sample: Tensor
    field: Tensor
    samples: int
    fields: int
    pooling: str = "sum"
    attention: Tensor | None = None
    o: Tensor | None = None
    bottom: Tensor | None = None
    widths: tuple[int, ...] | None = None

    def vectors(self) -> list[Tensor]:
        """The vectors of each sample's ids, a list of B tensors [ids, D]."""
        order = torch.argsort(self.sample, stable=True)
        counts = torch.bincount(self.sample, minlength=self.samples).tolist()
        return list(self.v[self.index[order]].split(counts))

    def operand(self) -> Tensor:
        """[B, vectors, D]: the output of the bottom mlp, where there is one, and `pooled`; side by side, [B, floats],
        where vectors differ in width."""
        if self.bottom is None:
            return self.pooled()
        return torch.cat([self.bottom[:, None] if self.widths is None else self.bottom, self.pooled()], dim=1)

    def pooled(self) -> Tensor:
        """[B, F, D]: the vectors of each bag, pooled; zeros for an empty bag. [B, floats] where widths differ."""
        pooled = self._pooled()
        if self.widths is None:
            return pooled
        return torch.cat([pooled[:, field, :width] for field, width in enumerate(self.widths)], dim=1)

    def _pooled(self) -> Tensor:
        if self.pooling in ("max", "attention"):
            return self._pooled_bag_by_bag()
        bag = (self.sample, self.field)
        empty = torch.zeros(self.samples, self.fields, self.v.shape[1], dtype=self.v.dtype, device=self.v.device)
        sums = empty.index_put(bag, self.v[self.index], accumulate=True)
        if self.pooling == "sum":
            return sums
        ones = torch.ones(len(self.index), 1, dtype=self.v.dtype, device=self.v.device)
        return sums / torch.zeros_like(empty[:, :, :1]).index_put(bag, ones, accumulate=True).clamp_min(1)

    def _pooled_bag_by_bag(self) -> Tensor:
        bag = self.sample * self.fields + self.field
        order = torch.argsort(bag, stable=True)
        counts = torch.bincount(bag, minlength=self.samples * self.fields).tolist()
        pooled = []
        for x in self.v[self.index[order]].split(counts):
            if not len(x):
                pooled.append(x.new_zeros(x.shape[1]))
            elif self.pooling == "max":
                pooled.append(x.max(dim=0).values)
            else:
                pooled.append(torch.softmax(x @ self.attention, dim=0) @ x)
        return torch.stack(pooled).view(self.samples, self.fields, -1)


class Operator(nn.Module):
    """One substituted operator and its replicated parameters.

    wire      K, floats for each sample in the reduced buffer; 0: it reads the pooled operand, sent once (operand.py)
    pairs     whether its partial reads `Local.pooled`
    hidden    widths of the layers for which each step draws masks: hidden layers with dropout
    dropout   probability of dropping a unit
    shared    names of parameters that partials read: under hash placement their gradient is a partial sum
    by_field  those of them that live with the rows of their field under field placement, F * D or F columns each; a
              worker's partial is then `from_bags` of its own fields with its own columns
    """

    wire: int = 0
    pairs: bool = False
    hidden: tuple[int, ...] = ()
    dropout: float = 0.0
    shared: tuple[str, ...] = ()
    by_field: tuple[str, ...] = ()

    @property
    def is_random(self) -> bool:
        """Whether training draws random numbers."""
        return bool(self.dropout)

    def draw(self, keys: Tensor, width: int, dtype: torch.dtype) -> Tensor:
        """The mask [b, width] of a layer: 0 where it drops a unit, 1 / (1 - dropout) elsewhere.

        `keys` int64 [b] are those of the samples in this layer and step. The draw is integer arithmetic, so that every
        device drops the same units.
        """
        keep = 1 - self.dropout
        halves = words(keys, (width + 1) // 2).view(torch.int32)[:, :width]  # two units share a word
        return (halves < round(keep * 2**32) - 2**31).to(dtype) / keep

    def terms(self, local: Local) -> list[Tensor] | None:
        """[u, ..] of the distinct ids, `wire` columns together, if the partial is their sum over a sample."""
        return None

    def partial(self, local: Local) -> Tensor:
        """[B, wire]: this worker's summand."""
        terms = self.terms(local)
        assert terms is not None
        return local.by_sample(terms)

    def from_bags(self, bags: Bags) -> Tensor:
        """[b, wire]: the whole sum."""
        raise NotImplementedError

    def finish(self, sums: Tensor, masks: list[Tensor] | None) -> Tensor:
        """Logits [b] from sums [b, wire] (or the operand [b, F, D]); one mask [b, width] for each of `hidden`."""
        raise NotImplementedError

    def reference(self, plain: Plain, weights: Mapping[str, Tensor], masks: list[Tensor] | None) -> Tensor:
        """Logits [B] as a textbook computes them, with `weights` for the operator's named parameters."""
        raise NotImplementedError


def pair_products(local: Local, weight: Tensor) -> Tensor:
    """[B, H]: the partial of `concat_f(pooled v_f) . weight^T` with `weight` [H, F * D], or the sum of the widths.

    Owned ids occupy only some (sample, field) pairs. If these are few, compute only them with one GEMM a field: 2 * D *
    H FLOPs for each pair, so N workers together do the work of one process, plus bags that are split over workers. If
    they are many, one GEMM over all pairs, with zeros for empty ones, is faster.
    """
    owned = local.owned
    samples = owned.samples
    fields = owned.fields
    if len(owned.pair_bag) >= _DENSE_FROM * samples * fields:
        return local.concatenated @ weight.T
    widths = local.uneven or (weight.shape[1] // fields,) * fields
    order = stable_order(owned.pair_field)
    sizes = list(owned.pairs_of_fields)
    pooled = local.pooled.index_select(0, order)  # [P, D], field by field
    sample = owned.pair_sample.index_select(0, order)
    # split has one backward; slicing would make autograd add F zero-padded copies of the whole.
    blocks = weight.split(widths, dim=1)
    out = pooled.new_zeros(samples, weight.shape[0])
    for pooled_field, sample_field, block in zip(pooled.split(sizes), sample.split(sizes), blocks, strict=True):
        # Include fields without a pair: `weight` needs a gradient for its AllReduce even on a worker without an id.
        # A sample occurs once in a field, so that even atomics add in a fixed order.
        out = out.index_add_(0, sample_field, pooled_field[:, : block.shape[1]] @ block.T)
    return out
