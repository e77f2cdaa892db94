"""The ids a worker holds in a step: all occurrences, over the global batch, of ids whose rows it owns; sums over them.

A *bag* is the ids of one field of one sample. Occurrences lie in the order of their bags, sample by sample, so that the
sum of a group of them, a bag or a sample, is a sum over neighbours: `OwnedOccurrences.sums` reads the vector of each id
where it is
and adds it up, and never writes down one vector an occurrence.
"""

from __future__ import annotations

from dataclasses import dataclass
from dataclasses import field as attribute
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

_FEW = 1 << 17  # keys: more will have two that agree in their upper halves


@dataclass(frozen=True, eq=False, slots=True)
class Groups:
    """n occurrences in g groups of neighbours.

    number  int64 [n], the group of each, ascending
    starts  int64 [g], where each begins; an empty one where the next does
    """

    number: Tensor
    starts: Tensor

    @classmethod
    def of(cls, number: Tensor, groups: int) -> Groups:
        sizes = torch.bincount(number, minlength=groups)
        return cls(number, sizes.cumsum(0) - sizes)


@dataclass(frozen=True)
class RowIndex:
    """Which line of a table [u, r] each of n occurrences adds to its group.

    number  int64 [n]
    known   the same line by line, where somebody has sorted them: occurrences, and the line of each, int64 [n]
    """

    number: Tensor
    known: tuple[Tensor, Tensor] | None = None
    _starts: dict[int, Tensor] = attribute(default_factory=dict)
    _turned: dict[Groups, Tensor] = attribute(default_factory=dict)
    _summed: list[tuple[int, Groups]] = attribute(default_factory=list)

    @cached_property
    def sorted(self) -> tuple[Tensor, Tensor]:
        """Occurrences line by line, int64 [n], and the line of each."""
        if self.known is not None:
            return self.known
        found, order = self.number.sort(stable=True)
        return order, found

    def starts(self, lines: int) -> Tensor:
        """int64 [lines]: where each line begins in `sorted`."""
        if lines not in self._starts:
            self._starts[lines] = Groups.of(self.sorted[1], lines).starts
        return self._starts[lines]

    def turned(self, groups: Groups) -> Tensor:
        """int64 [n]: the group of each occurrence, line by line as in `sorted`."""
        if groups not in self._turned:
            self._turned[groups] = groups.number.index_select(0, self.sorted[0])
        return self._turned[groups]

    def sums(self, table: Tensor, groups: Groups) -> Tensor:
        """[g, r]: the lines of each group, added up."""
        self._summed.append((len(table), groups))
        return _Sums.apply(table, self, groups)

    def get_ready(self) -> None:
        """For the backward of all sums so far: something to do while others are waited for."""
        for lines, groups in self._summed:
            self.starts(lines)
            self.turned(groups)


@dataclass(frozen=True)
class OwnedOccurrences:
    """n occurrences of u different ids.

    sample, field   int64 [n], sample within the global batch of `samples`, field of `fields`; in the order of bags
    lines           which of the u different ids each is
    bag_size        [n], how many ids the bag of each has, wherever they are held; None where nobody asks
    """

    sample: Tensor
    field: Tensor
    lines: RowIndex
    samples: int
    fields: int
    bag_size: Tensor | None = None

    @classmethod
    def of(
        cls, sample: Tensor, field: Tensor, inverse: Tensor, samples: int, fields: int, bag_size: Tensor | None = None
    ) -> OwnedOccurrences:
        """From occurrences in any order, `inverse` int64 [n] says which of the different ids each is."""
        more = () if bag_size is None else (bag_size,)
        _, sample, field, inverse, *more = in_order(sample * fields + field, sample, field, inverse, *more)
        return cls(sample, field, RowIndex(inverse), samples, fields, *more)

    @property
    def inverse(self) -> Tensor:
        """int64 [n]: which of the different ids each occurrence is."""
        return self.lines.number

    # -- groups ---------------------------------------------------------------------------------------------------

    @cached_property
    def bag(self) -> Tensor:
        """int64 [n]: sample * fields + field."""
        return self.sample * self.fields + self.field

    @cached_property
    def pair_bag(self) -> Tensor:
        """int64 [P]: the bags that are not empty here, in order."""
        return self.bag[self.by_pair.starts]

    @property
    def pair_sample(self) -> Tensor:
        return torch.div(self.pair_bag, self.fields, rounding_mode="floor")

    @property
    def pair_field(self) -> Tensor:
        return self.pair_bag % self.fields

    @cached_property
    def by_pair(self) -> Groups:
        """Its P (sample, field) pairs."""
        is_first = torch.ones_like(self.bag, dtype=torch.bool)
        is_first[1:] = self.bag[1:] != self.bag[:-1]
        return Groups(is_first.cumsum(0) - 1, is_first.nonzero().squeeze(1))

    @cached_property
    def by_bag(self) -> Groups:
        """All bags."""
        return Groups.of(self.bag, self.samples * self.fields)

    @cached_property
    def by_sample(self) -> Groups:
        return Groups.of(self.sample, self.samples)

    def of_pairs(self) -> OwnedOccurrences:
        """The same with one occurrence a pair, the pairs in place of ids."""
        each = torch.arange(len(self.pair_bag), device=self.bag.device)
        return OwnedOccurrences(self.pair_sample, self.pair_field, RowIndex(each), self.samples, self.fields)

    # -- sums -----------------------------------------------------------------------------------------------------

    def sums(self, terms: Tensor, groups: Groups) -> Tensor:
        """[g, r]: terms [u, r] of the different ids, added up over the occurrences of each group."""
        return self.lines.sums(terms, groups)


class _Sums(torch.autograd.Function):
    """embedding_bag, whose own backward would sort anew for each sum; what sorts lines is kept for all of them."""

    @staticmethod
    def forward(ctx: Any, table: Tensor, lines: RowIndex, groups: Groups) -> Tensor:
        ctx.lines, ctx.groups, ctx.count = lines, groups, len(table)
        return embedding_bag(lines.number, table, groups.starts, mode="sum")

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        number, starts = ctx.lines.turned(ctx.groups), ctx.lines.starts(ctx.count)
        return embedding_bag(number, grads[0].contiguous(), starts, mode="sum"), None, None


def different(keys: Tensor) -> tuple[Tensor, RowIndex]:
    """The different ones of `keys` [n], ascending, and which of them each is: what finds them sorts the lines, too."""
    found, order = _ascending(keys)
    is_first = torch.ones_like(found, dtype=torch.bool)
    is_first[1:] = found[1:] != found[:-1]
    line, starts = is_first.cumsum(0) - 1, is_first.nonzero().squeeze(1)
    number = torch.empty_like(order).index_copy_(0, order, line)
    return found.index_select(0, starts), RowIndex(number, (order, line), {len(starts): starts})


def _ascending(keys: Tensor) -> tuple[Tensor, Tensor]:
    """keys [n] sorted, and the order that does it, equal keys as they stood."""
    if len(keys) <= _FEW:
        # Different hashes differ in their upper halves, which sort in half the time; now and then two do not.
        order = (keys >> 32).to(torch.int32).sort(stable=True).indices
        found = keys.index_select(0, order)
        if not bool((found[1:] < found[:-1]).any()):
            return found, order
    return keys.sort(stable=True)


def in_order(number: Tensor, *others: Tensor) -> tuple[Tensor, ...]:
    """`number` [n] ascending, and `others` [n, ..] in the same order."""
    if not bool((number[1:] < number[:-1]).any()):
        return number, *others
    number, order = number.sort(stable=True)
    return number, *(x[order] for x in others)


def order_of(small: Tensor) -> Tensor:
    """int64 [n]: the order of numbers [n] below 2^31, equal ones as they stand; 32 bits take a third of the time."""
    return torch.argsort(small.to(torch.int32), stable=True)


def sizes_of_bags(bag: Tensor) -> Tensor:
    """[n]: how many of the occurrences [n] have the same bag number."""
    return torch.bincount(bag)[bag]
