"""Which row a key has: numbers given out, found again, freed and used again.

The index is replaced by a larger one when it is half full, and by a fresh one when keys that are gone fill it up. That
would stop a step for seconds where there are many millions of keys, so both indices live side by side for a while: new
keys enter the new one, every step moves a slice of the others, and a search that fails in the new one goes on in the
old. Twice as many keys are moved as are added, so a move is over long before the next.
"""

from __future__ import annotations

import torch
from torch import Tensor

from des_ref.embedding.growing import MOST_ROWS, Growing
from des_ref.embedding.slots import MAX_LOAD, Slots
from dessim.errors import UsageError

_SLICE = 1 << 15  # keys moved a step, at least
_SMALLEST = 2048  # slots
_AHEAD = 0.75  # of an index's room: memory for the next is got from here on


class RowNumbers:
    """Keys, int64, and their row numbers: 0, 1, ... in order of arrival, freed ones first."""

    def __init__(self, device: torch.device | str, capacity: int = 0) -> None:
        self._device = torch.device(device)
        self._keys = Growing(torch.int64, device)
        # 0 of a number that is free; else 1 or 2, indexes in turn: the one that has its key. So a number that is freed
        # and given out again during a move is not moved once more.
        self._in_use = Growing(torch.uint8, device)
        self._turn = 1
        self._freed = Growing(torch.int32, device)
        self._freed_count = 0
        self.end = 0  # all numbers given out so far are below
        self._slots = Slots(_size_for(capacity), self._device)
        self._old: Slots | None = None
        self._next: Slots | None = None
        self._moved = self._to_move = 0

    def __len__(self) -> int:
        return self.end - self._freed_count

    def keys(self, rows: Tensor) -> Tensor:
        """Keys of rows [n]."""
        return self._keys.values.index_select(0, rows)

    @property
    def rows(self) -> Tensor:
        """Rows in use, ascending, int64 [len(self)]."""
        return self._in_use.values[: self.end].nonzero().squeeze(1)

    def find(self, ids: Tensor) -> Tensor:
        """Row numbers of ids [n], int64, -1 where there is none. Ids may repeat."""
        if not len(self):
            return torch.full_like(ids, -1)
        rows = self._slots.find(ids, self._keys.values)
        if self._old is not None:
            missing = (rows < 0).nonzero().squeeze(1)
            rows.index_copy_(0, missing, self._old.find(ids.index_select(0, missing), self._keys.values))
        return rows

    def add(self, ids: Tensor) -> Tensor:
        """New rows [n] for different ids that have none, in the order given. Raises UsageError past 2^31 - 2 rows."""
        if not self._slots.has_room(len(ids)):
            self._replace_index(len(ids))
        rows = self._take(len(ids))
        self._keys.values.index_copy_(0, rows, ids)
        self._in_use.values.index_fill_(0, rows, self._turn)
        self._slots.place(ids, rows)
        self.move(2 * len(ids))
        self._prepare(len(ids))
        return rows

    def remove(self, rows: Tensor) -> None:
        """Free rows [n], all in use and different."""
        ids = self.keys(rows)
        for slots in (self._slots, self._old):
            if slots is not None:
                slots.remove(ids, self._keys.values)
        self._in_use.values.index_fill_(0, rows, 0)
        end = self._freed_count + len(rows)
        self._freed.reserve(end)
        self._freed.values[self._freed_count : end] = rows.to(torch.int32)
        self._freed_count = end

    def move(self, count: int = 0) -> None:
        """Go on moving keys to the new index, if there is one: a slice of them, or `count` where that is more."""
        if self._old is None:
            return
        begin, end = self._moved, min(self._moved + max(count, _SLICE), self._to_move)
        rows = (self._in_use.values[begin:end] == 3 - self._turn).nonzero().squeeze(1).add_(begin)
        self._slots.place(self.keys(rows), rows)
        self._in_use.values.index_fill_(0, rows, self._turn)
        self._moved = end
        if end == self._to_move:
            self._old = None

    def _replace_index(self, more: int) -> None:
        """Start a move into an index with room for so many more keys."""
        self.move(self._to_move)  # a batch larger than all before may come before the last move is over
        ahead, self._next = self._next, None
        fits = ahead is not None and ahead.has_room(len(self) + more)
        self._old, self._slots = self._slots, ahead if fits else Slots(_size_for(len(self) + more), self._device)
        self._moved, self._to_move, self._turn = 0, self.end, 3 - self._turn
        self.move()

    def _prepare(self, added: int) -> None:
        """Near the end of the index's room, get memory for the next, in proportion to the keys added.

        The first keys that enter an index touch all of its pages: to get them all at once is what would take longest.
        """
        if self._next is None and self._old is None and self._slots.fullness > _AHEAD:
            self._next = Slots(_size_for(len(self)), self._device)
        if self._next is not None:
            share = added / ((1 - _AHEAD) * MAX_LOAD * self._slots.size)
            self._next.touch(int(2 * share * self._next.size))

    def _take(self, count: int) -> Tensor:
        again = min(count, self._freed_count)
        begin, end = self.end, self.end + count - again
        if end > MOST_ROWS:
            raise UsageError(
                f"a worker's table holds at most {MOST_ROWS} rows: use more workers, admit_after or expire_after"
            )
        self._keys.reserve(end)
        self._in_use.reserve(end)
        self.end = end
        fresh = torch.arange(begin, end, device=self._device)
        if not again:
            return fresh
        self._freed_count -= again
        freed = self._freed.values[self._freed_count : self._freed_count + again]
        return torch.cat([freed.to(torch.int64), fresh])


def _size_for(keys: int) -> int:
    """Slots for so many keys and as many again, a power of two."""
    return 1 << max(int(2 * keys / MAX_LOAD) - 1, _SMALLEST - 1).bit_length()
