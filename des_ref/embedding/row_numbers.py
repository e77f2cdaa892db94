"""Row numbers of keys: assigned, looked up, freed and reused.

The index is replaced by a larger one when it is half full, and by a fresh one when removed keys fill it up. Moving many
millions of keys at once would stop a step for seconds, so both indices coexist during a migration: new keys enter the
new index, every step moves a slice of the old keys, and a search that fails in the new index continues in the old one.
Twice as many keys are moved as are added, so a migration ends long before the next one starts.
"""

from __future__ import annotations

import torch
from torch import Tensor

from des_ref.async_device import places_of
from des_ref.embedding.growing import MAX_ROWS, Growing
from des_ref.embedding.slots import Slots, max_load
from dessim.errors import UsageError

_MIN_KEYS_MOVED = 1 << 15  # per step
_MIN_SLOTS = 2048
_PREPARE_FROM = 0.75  # fullness of the index from which memory for the next one is touched


class RowNumbers:
    """int64 keys and their row numbers: 0, 1, ... in order of arrival; freed numbers are reused first."""

    def __init__(self, device: torch.device | str, capacity: int = 0) -> None:
        self._device = torch.device(device)
        self._keys = Growing(torch.int64, device)
        # 0: the number is free; 1 or 2: the index that holds its key, which alternates between migrations. So a number
        # that is freed and reused during a migration is not moved again.
        self._in_use = Growing(torch.uint8, device)
        self._turn = 1
        self._freed = Growing(torch.int32, device)
        self._freed_count = 0
        self.end = 0  # all numbers assigned so far are below
        self._slots = self._new_slots(capacity)
        self._old: Slots | None = None
        self._next: Slots | None = None
        self._moved = 0  # rows already visited by the current migration
        self._to_move = 0  # rows that it must visit

    def __len__(self) -> int:
        return self.end - self._freed_count

    def keys(self, rows: Tensor) -> Tensor:
        """Keys of `rows` [n]."""
        return self._keys.values.index_select(0, rows)

    @property
    def rows(self) -> Tensor:
        """Rows in use, ascending, int64 [len(self)]."""
        return self._in_use.values[: self.end].nonzero().squeeze(1)

    def find(self, ids: Tensor) -> Tensor:
        """Row numbers of `ids` [n], int64, -1 if absent. Ids may repeat."""
        return self.find_and_count(ids)[0]

    def find_and_count(self, ids: Tensor) -> tuple[Tensor, int | None]:
        """Like `find`; also how many are absent, where that is known without another wait for the device."""
        if not len(self):
            return torch.full_like(ids, -1), len(ids)
        rows, absent = self._slots.find_and_count(ids, self._keys.values)
        if self._old is None or absent == 0:
            return rows, absent
        missing = places_of(rows < 0, absent)
        old_rows, absent = self._old.find_and_count(ids.index_select(0, missing), self._keys.values)
        rows.index_copy_(0, missing, old_rows)
        return rows, absent

    def add(self, ids: Tensor) -> Tensor:
        """New rows [n] for distinct, absent ids, in the order given. Raises UsageError past 2^31 - 2 rows."""
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
        """Free `rows` [n], which must be distinct and in use."""
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
        """Continue a migration, if there is one, by a slice of rows or by `count` rows if that is more."""
        if self._old is None:
            return
        begin = self._moved
        end = min(self._moved + max(count, _MIN_KEYS_MOVED), self._to_move)
        rows = (self._in_use.values[begin:end] == 3 - self._turn).nonzero().squeeze(1).add_(begin)
        self._slots.place(self.keys(rows), rows)
        self._in_use.values.index_fill_(0, rows, self._turn)
        self._moved = end
        if end == self._to_move:
            self._old = None

    def _replace_index(self, added: int) -> None:
        """Start a migration to an index with room for `added` more keys."""
        self.move(self._to_move)  # an unusually large batch may arrive before the last migration has ended
        keys = len(self) + added
        prepared = self._next
        self._next = None
        self._old = self._slots
        if prepared is not None and prepared.has_room(keys):
            self._slots = prepared
        else:
            self._slots = self._new_slots(keys)
        self._moved = 0
        self._to_move = self.end
        self._turn = 3 - self._turn
        self.move()

    def _prepare(self, added: int) -> None:
        """When the index is nearly full, touch memory of the next one, in proportion to the number of keys added.

        The first keys that enter an index touch all of its pages; getting all of them in one step would take longest.
        """
        if self._next is None and self._old is None and self._slots.fullness > _PREPARE_FROM:
            self._next = self._new_slots(len(self))
        if self._next is not None:
            share = added / ((1 - _PREPARE_FROM) * max_load(self._device) * self._slots.size)
            self._next.touch(int(2 * share * self._next.size))

    def _take(self, count: int) -> Tensor:
        """`count` row numbers that are not in use."""
        reused = min(count, self._freed_count)
        begin = self.end
        end = self.end + count - reused
        if end > MAX_ROWS:
            raise UsageError(
                f"a worker's table holds at most {MAX_ROWS} rows: use more workers, admit_after or expire_after"
            )
        self._keys.reserve(end)
        self._in_use.reserve(end)
        self.end = end
        fresh = torch.arange(begin, end, device=self._device)
        if not reused:
            return fresh
        self._freed_count -= reused
        freed = self._freed.values[self._freed_count : self._freed_count + reused]
        return torch.cat([freed.to(torch.int64), fresh])

    def _new_slots(self, keys: int) -> Slots:
        """An index for twice as many keys as `keys`; its size is a power of two."""
        size = 1 << max(int(2 * keys / max_load(self._device)) - 1, _MIN_SLOTS - 1).bit_length()
        return Slots(size, self._device)
