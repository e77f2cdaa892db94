"""What every substituted operator offers, and the three forms its input comes in.

    Local   the occurrences of ids that a worker holds, over the global batch       -> partial(local)    [B, K]
    Bags    whole field vectors of some samples, pooled: strategies that move them  -> from_bags(bags)   [b, K]
    Plain   all rows and a whole batch, on one process: the textbook's view         -> reference(plain)  logits [B]

`partial`s add up over workers to what `from_bags` makes of whole bags; `finish` turns either into the operator's share
of the logit. So every strategy trains the same model, whatever crosses its wire.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from des_ref.substitution.owned import Groups, OwnedOccurrences, order_of

_MANY = 0.4  # of all pairs: where both ways take about as long on a CPU


@dataclass(frozen=True)
class Local:
    """The occurrences in `held`, and `values` [u, width] of their u different ids: w [u, 1], v [u, D], ..."""

    held: OwnedOccurrences
    values: Mapping[str, Tensor]

    @cached_property
    def v(self) -> Tensor:
        """[n, D], of each occurrence."""
        return self.values["v"].index_select(0, self.held.inverse)

    def by_sample(self, terms: Sequence[Tensor]) -> Tensor:
        """[B, r]: terms [u, ..] of different ids, r together, added up over the occurrences of each sample."""
        return self.held.sums(torch.cat(terms, dim=1) if len(terms) > 1 else terms[0], self.held.by_sample)

    @cached_property
    def pooled(self) -> Tensor:
        """[P, D], field vectors of the (sample, field) pairs that are here: sums, or what these ids bring to means."""
        return self.pooled_by(self.held.by_pair)

    @cached_property
    def bags(self) -> Tensor:
        """[B, F, D]: the same, and zeros for all other pairs."""
        return self.pooled_by(self.held.by_bag).view(self.held.samples, self.held.fields, -1)

    def pooled_by(self, bags: Groups) -> Tensor:
        """[bags, D]: the same for such bags."""
        sums, sizes = self.held.sums(self.values["v"], bags), self.held.bag_size
        if sizes is None:
            return sums
        return sums / sums.new_ones(len(sums)).index_copy(0, bags.number, sizes.to(sums.dtype))[:, None]


def identity(x: Tensor) -> Tensor:
    return x


@dataclass(frozen=True, slots=True)
class Bags:
    """Pooled over each bag (the ids of one field of one sample), [b, F, ...].

    w [.., 1], v [.., D]: sums. x [.., D]: v as the model pools it, sum or mean.
    squares: sums of v*v, elementwise (D) or all together (1), as the operators of the model need (0: none does).
    sum_fields: the sum of [b, r] over the workers among whom the fields of a sample are spread; nothing to add where
        these are all its fields.
    own: int64, the numbers of these fields, and `fields` how many there are on all workers; None: these are all.
    """

    w: Tensor
    v: Tensor
    x: Tensor
    squares: Tensor
    sum_fields: Callable[[Tensor], Tensor] = identity
    own: Tensor | None = None
    fields: int = 0

    def x_of_all_fields(self) -> Tensor:
        """[b, F, D], on every worker; a round where fields are spread."""
        if self.own is None:
            return self.x
        whole = self.x.new_zeros(len(self.x), self.fields, self.x.shape[2]).index_copy(1, self.own, self.x)
        return self.sum_fields(whole.flatten(1)).view_as(whole)


@dataclass(frozen=True, slots=True)
class Plain:
    """All rows w [V, 1], v [V, D] and o [V, L + 1], and occurrences: index [n] into V, sample [n], field [n]."""

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

    def vectors(self) -> list[Tensor]:
        """The vectors of each sample, [ids, D] each."""
        order = torch.argsort(self.sample, stable=True)
        counts = torch.bincount(self.sample, minlength=self.samples).tolist()
        return list(self.v[self.index[order]].split(counts))

    def pooled(self) -> Tensor:
        """[B, F, D]: the vectors of each bag, pooled; zeros for a bag without ids."""
        if self.pooling in ("max", "attention"):
            return self._bag_by_bag()
        where = (self.sample, self.field)
        empty = torch.zeros(self.samples, self.fields, self.v.shape[1], dtype=self.v.dtype, device=self.v.device)
        sums = empty.index_put(where, self.v[self.index], accumulate=True)
        if self.pooling == "sum":
            return sums
        ones = torch.ones(len(self.index), 1, dtype=self.v.dtype, device=self.v.device)
        return sums / torch.zeros_like(empty[:, :, :1]).index_put(where, ones, accumulate=True).clamp_min(1)

    def _bag_by_bag(self) -> Tensor:
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

    wire    K, floats a sample in the reduced buffer; 0: it reads the pooled operand, which rides there (operand.py)
    pairs   whether its partial works on `Local.pooled`
    hidden  widths of layers that are drawn anew each step: hidden ones, that drop units with probability `dropout`
    shared  names of parameters that partials read: their gradient is a partial sum under hash placement
    by_field  those of them that live with the rows of their field under field placement, [.., F * D] or [.., F] each:
            a worker's partial is then `from_bags` of its own fields, with its own columns
    """

    wire: int = 0
    pairs: bool = False
    hidden: tuple[int, ...] = ()
    dropout: float = 0.0
    shared: tuple[str, ...] = ()
    by_field: tuple[str, ...] = ()

    @property
    def is_random(self) -> bool:
        """Whether its training draws at all."""
        return bool(self.dropout)

    def draw(self, samples: int, width: int, generator: torch.Generator, dtype: torch.dtype) -> Tensor:
        """The mask [samples, width] of a layer: 0 where it drops a unit, 1 / (1 - dropout) elsewhere."""
        keep = 1 - self.dropout
        draw = torch.rand(samples, width, generator=generator, device=generator.device)
        return (draw < keep).to(dtype) / keep

    def terms(self, local: Local) -> list[Tensor] | None:
        """[u, ..] of different ids, `wire` together, where the partial is their sum over ids of a sample; else None."""
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
        """Logits [b] from sums [b, wire] (or the operand [b, F, D]); one mask [b, width] a layer of `hidden`."""
        raise NotImplementedError

    def reference(self, plain: Plain, weights: Mapping[str, Tensor], masks: list[Tensor] | None) -> Tensor:
        """Logits [B] as a textbook computes them, with these values of the operator's named parameters."""
        raise NotImplementedError


def pair_products(local: Local, weight: Tensor) -> Tensor:
    """[B, H], the partial of `concat_f(pooled v_f) . weight^T` with weight [H, F * D].

    A worker owns ids in only some (sample, field) pairs. Where these are few, this works on them alone, one GEMM a
    field: 2 * D * H FLOPs a pair, so N workers together do the one-process work plus what multi-hot fields split.
    Where they are many, one GEMM over all pairs, zeros for those that are not there, takes less time.
    """
    held = local.held
    samples, fields = held.samples, held.fields
    if len(held.pair_bag) >= _MANY * samples * fields:
        return local.bags.flatten(1) @ weight.T
    width = weight.shape[1] // fields
    order = order_of(held.pair_field)
    sizes = torch.bincount(held.pair_field, minlength=fields).tolist()
    pooled, sample = local.pooled.index_select(0, order), held.pair_sample.index_select(0, order)
    # split and unbind have one backward each; slicing would make autograd add F zero-padded copies of the whole.
    blocks = weight.view(weight.shape[0], fields, width).unbind(dim=1)
    out = pooled.new_zeros(samples, weight.shape[0])
    for e, of, block in zip(pooled.split(sizes), sample.split(sizes), blocks, strict=True):
        # Fields without a pair too, so that `weight` has a gradient for its AllReduce even on a worker without an id.
        out = out.index_add_(0, of, e @ block.T)
    return out
