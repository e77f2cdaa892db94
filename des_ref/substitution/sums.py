"""Sums of vectors over groups of neighbours, the same to the last bit in every run, also on a GPU.

On a GPU, adding vectors up by index (`index_add`, and autograd's backward of `index_select`) uses atomics, whose order
differs from run to run; replicas that should be equal drift apart. Here every sum is an `embedding_bag` over sorted
occurrences, which adds the vectors of a group up in their order.
"""

from __future__ import annotations

from dataclasses import dataclass
from dataclasses import field as attribute
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from des_ref.async_device import is_asynchronous

# A GPU adds up a group in one thread for each column. Longer groups, of hot ids, are cut into parts of this length.
_LONGEST_PART = 256


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
        if is_asynchronous(group_of.device):
            numbers = torch.arange(groups, dtype=group_of.dtype, device=group_of.device)
            return cls(group_of, torch.searchsorted(group_of, numbers))
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

    def gather(self, table: Tensor) -> Tensor:
        """[n, r]: the row of each occurrence."""
        return _Gather.apply(table, self)

    def scatter(self, terms: Tensor, rows: int) -> Tensor:
        """[rows, r]: `terms` [n, r] of the occurrences, added up for each row. Not differentiable."""
        return _long_sums(terms, self.by_row[0], self.starts(rows))

    def prepare_backward(self) -> None:
        """Compute the indices for the backward of all sums so far: work to overlap with a collective in flight."""
        for rows, groups in self._sums:
            self.starts(rows)
            self.groups_by_row(groups)


def tally(numbers: Tensor, bins: int) -> Tensor:
    """int64 [bins]: how often each of 0 .. bins - 1 occurs among `numbers` [n]."""
    if is_asynchronous(numbers.device):  # for bincount the host reads the least and the largest number
        return tally_where(torch.ones_like(numbers, dtype=torch.bool), numbers, bins)
    return torch.bincount(numbers, minlength=bins)


def tally_where(mask: Tensor, numbers: Tensor, bins: int) -> Tensor:
    """As `tally`, of the numbers where `mask` bool [n] is set."""
    ones = mask.to(torch.int64)
    return ones.new_zeros(bins).index_add_(0, numbers, ones)


def sums_of_neighbours(terms: Tensor, groups: Groups) -> Tensor:
    """[g, r]: `terms` [n, r] of the occurrences, added up over each group."""
    return _SumsOfNeighbours.apply(terms, groups)


def maxima_of_neighbours(terms: Tensor, groups: Groups) -> Tensor:
    """[g, r]: the maximum of `terms` [n, r] over each group; -inf in an empty one. Equal maxima share the gradient."""
    return _MaximaOfNeighbours.apply(terms, groups)


def _long_sums(table: Tensor, row: Tensor, starts: Tensor) -> Tensor:
    """[g, r]: the rows of `table` that `row` [n] names, added up over groups that begin at `starts` [g].

    On a GPU a long group is cut into parts: where one begins, and at every multiple of _LONGEST_PART. The part with
    which group i begins is number i + the number of multiples below its start.
    """
    if not is_asynchronous(table.device) or len(row) <= _LONGEST_PART:
        return embedding_bag(row, table, starts, mode="sum")
    multiples = torch.arange(0, len(row), _LONGEST_PART, dtype=starts.dtype, device=starts.device)
    parts = embedding_bag(row, table, torch.cat([starts, multiples]).sort().values, mode="sum")
    numbers = torch.arange(len(parts), dtype=starts.dtype, device=starts.device)
    multiples_below = torch.div(starts + (_LONGEST_PART - 1), _LONGEST_PART, rounding_mode="floor")
    return embedding_bag(numbers, parts, numbers[: len(starts)] + multiples_below, mode="sum")


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
        return _long_sums(grads[0].contiguous(), group_of, ctx.row_index.starts(ctx.rows)), None, None


class _Gather(torch.autograd.Function):
    """index_select, with a backward that adds up in a fixed order."""

    @staticmethod
    def forward(ctx: Any, table: Tensor, row_index: RowIndex) -> Tensor:
        ctx.row_index = row_index
        ctx.rows = len(table)
        return table.index_select(0, row_index.row)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return ctx.row_index.scatter(grads[0].contiguous(), ctx.rows), None


class _SumsOfNeighbours(torch.autograd.Function):
    """index_add by group in a fixed order."""

    @staticmethod
    def forward(ctx: Any, terms: Tensor, groups: Groups) -> Tensor:
        ctx.groups = groups
        numbers = torch.arange(len(terms), dtype=groups.starts.dtype, device=terms.device)
        return embedding_bag(numbers, terms, groups.starts, mode="sum")

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0].index_select(0, ctx.groups.group_of), None


class _MaximaOfNeighbours(torch.autograd.Function):
    """scatter_reduce by group, whose own backward counts equal maxima with atomics."""

    @staticmethod
    def forward(ctx: Any, terms: Tensor, groups: Groups) -> Tensor:
        initial = terms.new_full((len(groups.starts), terms.shape[1]), float("-inf"))
        maxima = initial.scatter_reduce(0, groups.group_of[:, None].expand_as(terms), terms, "amax")
        ctx.groups = groups
        ctx.save_for_backward(terms, maxima)
        return maxima

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        terms, maxima = ctx.saved_tensors
        group_of = ctx.groups.group_of
        is_max = (terms == maxima.index_select(0, group_of)).to(terms.dtype)
        equal = sums_of_neighbours(is_max, ctx.groups).clamp_min(1)
        return is_max * (grads[0] / equal).index_select(0, group_of), None
