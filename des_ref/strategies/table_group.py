"""A group of tables as its strategy sees it, where a plan combines several strategies (composed.py).

The strategy works on the fields of the group, numbered from 0. Its rows are in the table of all groups, and its ops end
in the group's name.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from des_ref.comm import CodedComm, Comm, Handle
from des_ref.embedding.by_width import TablesByWidth
from des_ref.embedding.hash_table import RowTable
from des_ref.models.build import Network
from des_ref.strategies.base import Marks
from dessim.trace.schema import Phase
from dessim.workload.plan import Shard


class GroupNetwork:
    """The network of a group; everything else is the `whole` network's. Rows are in `table`.

    Its fields are `shards`: tables, or columns of tables, which have a number each.
    """

    def __init__(self, whole: Network, shards: Sequence[Shard], table: RowTable | TablesByWidth) -> None:
        self._whole = whole
        self._table = table
        self._has = _columns(whole, shards)
        self.fields = len(shards)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._whole, name)

    def new_table(self, *_arguments: Any, **_named: Any) -> RowTable | TablesByWidth:
        """The table of all groups."""
        return self._table

    def bags_have_columns(self, field: Tensor) -> Tensor | None:
        """As `Network.bags_have_columns`, for numbers of the group's shards."""
        return None if self._has is None else self._has[field]


def _columns(network: Network, shards: Sequence[Shard]) -> Tensor | None:
    """bool [shards, W + E]: the columns that the pooled vectors of each shard have; None where all have all."""
    tables = torch.tensor([shard.table for shard in shards], device=network.device)
    has = network.bags_have_columns(tables)
    if all(is_whole(network, shard) for shard in shards):
        return has
    columns = torch.arange(network.bag_width, device=network.device)
    firsts, ends = torch.tensor([(s.first, s.first + s.columns) for s in shards], device=network.device).T
    return (columns >= firsts[:, None]) & (columns < ends[:, None])


def is_whole(network: Network, shard: Shard) -> bool:
    """Whether a shard has all columns of its table."""
    return shard.columns == network.model.widths[shard.table]


class GroupComm:
    """A `Comm` whose ops end in `.group`; everything else is that of `whole`, or of the `part` of its workers."""

    def __init__(self, whole: Comm | CodedComm, group: str, part: Comm | None = None) -> None:
        self._whole = whole
        self._group = group
        self._part = part

    @property
    def _comm(self) -> Comm | CodedComm:
        """The group that exchanges messages. The recorder of the whole group watches it."""
        return self._whole if self._part is None else replace(self._part, tap=self._whole.tap)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._comm, name)

    def within(self, part: Comm) -> GroupComm:
        """Some of the workers, whose ops end in the same name."""
        return GroupComm(self._whole, self._group, part)

    def all_gather(self, name: str, *message: Any) -> Handle:
        return self._comm.all_gather(f"{name}.{self._group}", *message)

    def reduce_scatter(self, name: str, *message: Any) -> Handle:
        return self._comm.reduce_scatter(f"{name}.{self._group}", *message)

    def all_to_all(self, name: str, *message: Any) -> Handle:
        return self._comm.all_to_all(f"{name}.{self._group}", *message)


class GroupMarks:
    """The marks of a group: those that `current` returns, with segments that end in `.group`."""

    def __init__(self, current: Callable[[], Marks], group: str) -> None:
        self._current = current
        self._group = group

    def segment(self, name: str, phase: Phase) -> AbstractContextManager[None]:
        return self._current().segment(f"{name}.{self._group}", phase)

    def copy(self, name: str, phase: Phase, moved: int) -> AbstractContextManager[None]:
        return self._current().copy(f"{name}.{self._group}", phase, moved)
