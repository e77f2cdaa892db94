"""What every substituted operator offers, and the three forms its input comes in.

    Local   the occurrences of ids that a worker holds, over the global batch       -> partial(local)    [B, K]
    Bags    whole field vectors of some samples, pooled: strategies that move them  -> from_bags(bags)   [b, K]
    Plain   all rows and a whole batch, on one process: the textbook's view         -> reference(plain)  logits [B]

`partial`s add up over workers to what `from_bags` makes of whole bags; `finish` turns either into the operator's share
of the logit. So every strategy trains the same model, whatever crosses its wire.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from des_ref.substitution.held import Held

_MANY = 0.4  # of all pairs: where both ways take about as long on a CPU


@dataclass(frozen=True, slots=True)
class Local:
    """w [n, 1] and v [n, D] of the n occurrences in `held`.

    x       [n, D], what each of them adds to its pooled field vector: v, or its share of a mean
    pooled  [P, D], x summed over each of the P pairs of `held`

    What no operator of the model reads is empty.
    """

    held: Held
    w: Tensor
    v: Tensor
    x: Tensor
    pooled: Tensor

    @classmethod
    def of(cls, values: Mapping[str, Tensor], held: Held) -> Local:
        """From values [u, width] of the u different ids."""
        nothing = held.sample.new_empty(0, 0)
        w, v = (values[x].index_select(0, held.inverse) if x in values else nothing for x in ("w", "v"))
        x, pooled = v, nothing
        if held.bag_size is not None and "v" in values:
            x = v / held.bag_size[:, None]
        if held.field_pairs:
            pooled = v.new_zeros(len(held.pair_sample), v.shape[1]).index_add(0, held.pair, x)
        return cls(held, w, v, x, pooled)


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

    def partial(self, local: Local) -> Tensor:
        """[B, wire]: this worker's summand."""
        raise NotImplementedError

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

    A worker owns ids in only some (sample, field) pairs. Where these are few, this works on them alone, sorted by
    field, one GEMM a field: 2 * D * H FLOPs a pair, so N workers together do the one-process work plus what multi-hot
    fields split. Where they are many, one GEMM over all pairs, zeros for those that are not there, takes less time.
    """
    held, pooled = local.held, local.pooled
    samples, fields, width = held.samples, len(held.field_pairs), pooled.shape[1]
    if len(pooled) >= _MANY * samples * fields:
        field = torch.repeat_interleave(torch.tensor(held.field_pairs, device=pooled.device))
        whole = pooled.new_zeros(samples * fields, width).index_copy(0, held.pair_sample * fields + field, pooled)
        return whole.view(samples, fields * width) @ weight.T
    # split and unbind have one backward each; slicing would make autograd add F zero-padded copies of the whole.
    blocks = weight.view(weight.shape[0], fields, width).unbind(dim=1)
    out = pooled.new_zeros(samples, weight.shape[0])
    parts = zip(pooled.split(held.field_pairs), held.pair_sample.split(held.field_pairs), blocks, strict=True)
    for e, sample, block in parts:
        # Fields without a pair too, so that `weight` has a gradient for its AllReduce even on a worker without an id.
        out = out.index_add_(0, sample, e @ block.T)
    return out
