"""An LRU cache of rows in device memory, in front of a table in host memory.

A row is cached together with its optimizer state. When another row needs its slot, the least recently used row is
evicted and written back: every step that uses a row also updates it, so the cached copy is always newer than the
host's. On a machine without a device both sides are host memory, and the same rows are copied.
"""

from __future__ import annotations

from collections.abc import Mapping
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
    """A cache on `device` of `capacity` rows of `table`, which is on the CPU. `columns` are indexed by slot."""

    def __init__(self, table: RowTable, capacity: int, device: torch.device) -> None:
        self._table = table
        self._device = device
        self.columns = {
            name: values.new_zeros(capacity, values.shape[1]).to(device) for name, values in table.columns.items()
        }
        self._slot_of_row = Growing(torch.int32, "cpu")  # plus 1; 0: not cached
        self._row_in_slot = torch.full((capacity,), -1, dtype=torch.int64)  # -1: empty
        self._last_used = torch.zeros(capacity, dtype=torch.int64)  # step, by slot
        self._step = 0

    @property
    def row_bytes(self) -> int:
        """Bytes of a row with its optimizer state."""
        return sum(values.shape[1] * values.element_size() for values in self.columns.values())

    def plan_moves(self, rows: Tensor) -> CacheMoves:
        """Begin a step that uses the distinct table rows [u]. Raises UsageError if they exceed the capacity."""
        if len(rows) > len(self._row_in_slot):
            capacity = f"its cache holds {len(self._row_in_slot):,}: raise cache_rows"
            raise UsageError(f"a step needs {len(rows):,} rows of one worker, and {capacity}")
        self._step += 1
        if len(rows):
            self._slot_of_row.reserve(int(rows.max()) + 1)
        slots = self.slots(rows)
        is_cached = slots >= 0
        self._last_used[slots[is_cached]] = self._step
        missing = rows[~is_cached]
        # Empty slots count as used in step 0, so they are taken first.
        oldest = torch.argsort(self._last_used, stable=True)[: len(missing)]
        occupants = self._row_in_slot[oldest]
        return CacheMoves(missing, oldest, occupants[occupants >= 0])

    def write_back(self, moves: CacheMoves) -> None:
        """Copy the evicted rows to the table."""
        self._to_table(moves.evicted)
        self._slot_of_row.values[moves.evicted] = 0

    def load(self, moves: CacheMoves) -> None:
        """Copy the missing rows from the table into their slots."""
        slots = moves.slots.to(self._device)
        for name, values in self._table.columns.items():
            self.columns[name][slots] = values[moves.missing].to(self._device)
        self._row_in_slot[moves.slots] = moves.missing
        self._last_used[moves.slots] = self._step
        self._slot_of_row.values[moves.missing] = (moves.slots + 1).to(torch.int32)

    def slots(self, rows: Tensor) -> Tensor:
        """Cache slots of table rows [u], int64; -1 for rows that are not cached."""
        return self._slot_of_row.values[rows].to(torch.int64) - 1

    def flush(self) -> None:
        """Copy all cached rows to the table; they also remain cached."""
        self._to_table(self._row_in_slot[self._row_in_slot >= 0])

    def _to_table(self, rows: Tensor) -> None:
        slots = self.slots(rows).to(self._device)
        table: Mapping[str, Tensor] = self._table.columns
        for name, values in self.columns.items():
            table[name][rows] = values[slots].to("cpu")
