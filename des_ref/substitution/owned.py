"""The occurrences of owned ids in a step, and sums over them.

A worker owns some rows. Its *owned occurrences* are all occurrences, over the global batch, of the ids of these rows. A
*bag* is the ids of one field of one sample. Occurrences are sorted by bag, sample by sample, so every group that is
summed (a bag or a sample) is a contiguous run. `OwnedOccurrences.sums` reads the vector of each id where it is stored
and adds it up; it never materializes one vector for each occurrence.
"""

from __future__ import annotations

from dataclasses import dataclass
from dataclasses import field as attribute
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

# Keys whose upper 32 bits are likely to be distinct; with more keys, collisions become common.
_MAX_KEYS_SORTED_BY_UPPER_HALF = 1 << 17


@dataclass(frozen=True, eq=False, slots=True)
class Groups:
    """n occurrences in g groups of neighbours.

    group_of  int64 [n], ascending: the group of each occurrence
    starts    int64 [g], where each group begins; an empty group begins where the next one does
    """

    group_of: Tensor
    starts: Tensor

    @classmethod
    def of(cls, group_of: Tensor, groups: int) -> Groups:
        sizes = torch.bincount(group_of, minlength=groups)
        return cls(group_of, sizes.cumsum(0) - sizes)


@dataclass(frozen=True)
class RowIndex:
    """Which row of a table [u, r] each of n occurrences refers to, and sums of these rows over groups of occurrences.

    row        int64 [n]
    presorted  (occurrences ordered by row, the row of each), both int64 [n], if they are already known
    """

    row: Tensor
    presorted: tuple[Tensor, Tensor] | None = None
    _starts: dict[int, Tensor] = attribute(default_factory=dict)
    _groups_by_row: dict[Groups, Tensor] = attribute(default_factory=dict)
    _sums: list[tuple[int, Groups]] = attribute(default_factory=list)

    @cached_property
    def by_row(self) -> tuple[Tensor, Tensor]:
        """Occurrences ordered by row, int64 [n], and the row of each."""
        if self.presorted is not None:
            return self.presorted
        row, order = self.row.sort(stable=True)
        return order, row

    def starts(self, rows: int) -> Tensor:
        """int64 [rows]: where each row begins in `by_row`."""
        if rows not in self._starts:
            self._starts[rows] = Groups.of(self.by_row[1], rows).starts
        return self._starts[rows]

    def groups_by_row(self, groups: Groups) -> Tensor:
        """int64 [n]: the group of each occurrence, in the order of `by_row`."""
        if groups not in self._groups_by_row:
            self._groups_by_row[groups] = groups.group_of.index_select(0, self.by_row[0])
        return self._groups_by_row[groups]

    def sums(self, table: Tensor, groups: Groups) -> Tensor:
        """[g, r]: the rows of `table` [u, r] added up over the occurrences of each group."""
        self._sums.append((len(table), groups))
        return _Sums.apply(table, self, groups)

    def prepare_backward(self) -> None:
        """Compute the indices for the backward of all sums so far: work to overlap with a collective in flight."""
        for rows, groups in self._sums:
            self.starts(rows)
            self.groups_by_row(groups)


class _Sums(torch.autograd.Function):
    """embedding_bag. Its own backward would sort anew for every sum; this one shares the sorted order among all."""

    @staticmethod
    def forward(ctx: Any, table: Tensor, row_index: RowIndex, groups: Groups) -> Tensor:
        ctx.row_index = row_index
        ctx.groups = groups
        ctx.rows = len(table)
        return embedding_bag(row_index.row, table, groups.starts, mode="sum")

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        group_of = ctx.row_index.groups_by_row(ctx.groups)
        starts = ctx.row_index.starts(ctx.rows)
        return embedding_bag(group_of, grads[0].contiguous(), starts, mode="sum"), None, None


@dataclass(frozen=True)
class OwnedOccurrences:
    """n occurrences of u distinct ids that this worker owns.

    sample, field   int64 [n], sample of the global batch of `samples` and field of `fields`; sorted by bag
    row_index       which of the u distinct ids each occurrence is
    bag_size        [n], number of ids in the bag of each occurrence, on all workers together; None if not needed
    """

    sample: Tensor
    field: Tensor
    row_index: RowIndex
    samples: int
    fields: int
    bag_size: Tensor | None = None

    @classmethod
    def of(
        cls, sample: Tensor, field: Tensor, inverse: Tensor, samples: int, fields: int, bag_size: Tensor | None = None
    ) -> OwnedOccurrences:
        """From occurrences in any order; `inverse` int64 [n] says which of the distinct ids each is."""
        optional = () if bag_size is None else (bag_size,)
        _, sample, field, inverse, *optional = sorted_by(sample * fields + field, sample, field, inverse, *optional)
        return cls(sample, field, RowIndex(inverse), samples, fields, *optional)

    @property
    def inverse(self) -> Tensor:
        """int64 [n]: which of the distinct ids each occurrence is."""
        return self.row_index.row

    # -- groups ---------------------------------------------------------------------------------------------------

    @cached_property
    def bag(self) -> Tensor:
        """int64 [n]: sample * fields + field."""
        return self.sample * self.fields + self.field

    @cached_property
    def pair_bag(self) -> Tensor:
        """int64 [P], ascending: the bags with at least one owned occurrence."""
        return self.bag[self.by_pair.starts]

    @property
    def pair_sample(self) -> Tensor:
        """int64 [P]."""
        return torch.div(self.pair_bag, self.fields, rounding_mode="floor")

    @property
    def pair_field(self) -> Tensor:
        """int64 [P]."""
        return self.pair_bag % self.fields

    @cached_property
    def by_pair(self) -> Groups:
        """Occurrences grouped by the P (sample, field) pairs that occur."""
        is_first = torch.ones_like(self.bag, dtype=torch.bool)
        is_first[1:] = self.bag[1:] != self.bag[:-1]
        return Groups(is_first.cumsum(0) - 1, is_first.nonzero().squeeze(1))

    @cached_property
    def by_bag(self) -> Groups:
        """Occurrences grouped by bag, empty bags included."""
        return Groups.of(self.bag, self.samples * self.fields)

    @cached_property
    def by_sample(self) -> Groups:
        return Groups.of(self.sample, self.samples)

    def of_pairs(self) -> OwnedOccurrences:
        """One occurrence for each (sample, field) pair, with the pairs in place of ids."""
        pair = torch.arange(len(self.pair_bag), device=self.bag.device)
        return OwnedOccurrences(self.pair_sample, self.pair_field, RowIndex(pair), self.samples, self.fields)

    # -- sums -----------------------------------------------------------------------------------------------------

    def sums(self, terms: Tensor, groups: Groups) -> Tensor:
        """[g, r]: `terms` [u, r] of the distinct ids, added up over the occurrences of each group."""
        return self.row_index.sums(terms, groups)


def unique_with_index(keys: Tensor) -> tuple[Tensor, RowIndex]:
    """The distinct ones of `keys` [n], ascending, and which of them each key is.

    The sort that finds them also yields the order by row, which the index keeps.
    """
    ascending, order = _sorted_keys(keys)
    is_first = torch.ones_like(ascending, dtype=torch.bool)
    is_first[1:] = ascending[1:] != ascending[:-1]
    row_ascending = is_first.cumsum(0) - 1
    starts = is_first.nonzero().squeeze(1)
    row = torch.empty_like(order).index_copy_(0, order, row_ascending)
    return ascending.index_select(0, starts), RowIndex(row, (order, row_ascending), {len(starts): starts})


def _sorted_keys(keys: Tensor) -> tuple[Tensor, Tensor]:
    """`keys` [n] ascending, and the stable order that sorts them."""
    if len(keys) <= _MAX_KEYS_SORTED_BY_UPPER_HALF:
        # Distinct hashes usually differ in their upper halves, and sorting 32 bits takes half the time.
        order = (keys >> 32).to(torch.int32).sort(stable=True).indices
        ascending = keys.index_select(0, order)
        if not bool((ascending[1:] < ascending[:-1]).any()):
            return ascending, order
    return keys.sort(stable=True)


def sorted_by(number: Tensor, *others: Tensor) -> tuple[Tensor, ...]:
    """`number` [n] ascending, and `others` [n, ..] in the same order."""
    if not bool((number[1:] < number[:-1]).any()):
        return number, *others
    number, order = number.sort(stable=True)
    return number, *(x[order] for x in others)


def stable_order(numbers: Tensor) -> Tensor:
    """int64 [n]: the stable order that sorts `numbers` [n], all below 2^31, as int32: three times as fast."""
    return torch.argsort(numbers.to(torch.int32), stable=True)


def bag_sizes(bag: Tensor) -> Tensor:
    """[n]: for each occurrence, the number of occurrences with the same bag number."""
    return torch.bincount(bag)[bag]
