"""An LRU cache of rows in device memory, in front of a table whose columns are in host memory.

A row is cached together with its optimizer state. When another row needs its slot, the least recently used row is
evicted and written back: every step that uses a row also updates it, so the cached copy is always newer than the
host's. Without a GPU both sides are host memory, and the same rows are copied. Copies pass through one block of the
host's memory for each column; with CUDA, the block is pinned.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from des_ref.embedding.growing import Growing
from des_ref.embedding.hash_table import RowTable
from dessim.errors import UsageError


@dataclass(frozen=True, slots=True)
class CacheMoves:
    """The copies that a step needs before its rows are cached, all int64.

    missing   [m] table rows to copy into the cache
    slots     [m] the cache slots that they take
    evicted   [e] table rows that occupied some of these slots and must be written back
    """

    missing: Tensor
    slots: Tensor
    evicted: Tensor


class CachedRows:
    """A cache on `device` of `capacity` rows of `table`, whose columns are on the CPU. `columns` are indexed by slot.

    Row numbers and slots are on the device of the table's row numbers. `grows`: whether a step that needs more rows
    enlarges the cache.
    """

    def __init__(self, table: RowTable, capacity: int, device: torch.device, grows: bool = False) -> None:
        self._table = table
        self._device = device
        self._grows = grows
        self.columns = {
            name: values.new_zeros(capacity, values.shape[1]).to(device) for name, values in table.columns.items()
        }
        where = table.device
        self._slot_of_row = Growing(torch.int32, where)  # plus 1; 0: not cached
        self._row_in_slot = torch.full((capacity,), -1, dtype=torch.int64, device=where)  # -1: empty
        self._last_used = torch.full((capacity,), -1, dtype=torch.int64, device=where)  # step, by slot
        self._step = 0
        self._oldest_step = 0  # no cached row was last used before this step

    @property
    def row_bytes(self) -> int:
        """Bytes of a row with its optimizer state."""
        return sum(values.shape[1] * values.element_size() for values in self.columns.values())

    def plan_moves(self, rows: Tensor) -> CacheMoves:
        """Begin a step that uses the distinct table rows [u]; returns the copies that it needs.

        Raises UsageError if the rows exceed a fixed capacity.
        """
        if len(rows) > len(self._row_in_slot):
            if not self._grows:
                capacity = f"its cache holds {len(self._row_in_slot):,}: raise cache_rows"
                raise UsageError(f"a step needs {len(rows):,} rows of one worker, and {capacity}")
            self._grow(len(rows) - len(self._row_in_slot))
        self._step += 1
        slots = self.slots(rows)
        is_cached = slots >= 0
        self._last_used[slots[is_cached]] = self._step
        missing = rows[~is_cached]
        oldest = self._oldest(len(missing)) if len(missing) else missing
        occupants = self._row_in_slot[oldest]
        return CacheMoves(missing, oldest, occupants[occupants >= 0])

    def _oldest(self, count: int) -> Tensor:
        """`count` slots, empty ones first, then those used least recently.

        Sorting all slots could take longer than a step. Only those of the oldest steps are sorted: rows leave in the
        order of their last use, so the oldest step advances by one a step on average.
        """
        while len(old := (self._last_used <= self._oldest_step).nonzero().squeeze(1)) < count:
            self._oldest_step += 1
        return old[torch.argsort(self._last_used[old], stable=True)[:count]]

    def _grow(self, more: int) -> None:
        """Add `more` empty slots."""
        slots = self._row_in_slot
        used = self._last_used
        self._row_in_slot = torch.cat([slots, slots.new_full((more,), -1)])
        self._last_used = torch.cat([used, used.new_full((more,), self._oldest_step - 1)])
        for name, values in self.columns.items():
            self.columns[name] = torch.cat([values, values.new_zeros(more, values.shape[1])])

    def write_back(self, moves: CacheMoves) -> None:
        """Copy the evicted rows to the table."""
        self._to_table(moves.evicted)
        self._slot_of_row.values[moves.evicted] = 0

    def load(self, moves: CacheMoves) -> None:
        """Copy the missing rows from the table into their slots."""
        slots = moves.slots.to(self._device)
        missing = moves.missing.cpu()
        for name, values in self._table.columns.items():
            block = torch.index_select(values, 0, missing, out=self._block(values, len(missing)))
            self.columns[name][slots] = block.to(self._device)
        self._row_in_slot[moves.slots] = moves.missing
        self._last_used[moves.slots] = self._step
        self._slot_of_row.values[moves.missing] = (moves.slots + 1).to(torch.int32)

    def slots(self, rows: Tensor) -> Tensor:
        """Cache slots of table rows [u], int64; -1 for rows that are not cached."""
        self._slot_of_row.reserve(self._table.end)
        return self._slot_of_row.values[rows].to(torch.int64) - 1

    def flush(self) -> None:
        """Copy all cached rows to the table; they also remain cached."""
        self._to_table(self._row_in_slot[self._row_in_slot >= 0])

    def _to_table(self, rows: Tensor) -> None:
        slots = self.slots(rows).to(self._device)
        on_host = rows.cpu()
        for name, values in self._table.columns.items():
            values[on_host] = self._block(values, len(rows)).copy_(self.columns[name][slots])

    def _block(self, values: Tensor, rows: int) -> Tensor:
        """Room for `rows` rows of a column of the table, in memory that the device copies from and to."""
        return values.new_empty(rows, values.shape[1], pin_memory=self._device.type == "cuda")
