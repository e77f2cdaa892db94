"""Tables whose rows are spilt: their columns are in the host's memory, and a device caches some rows.

The index is on the device. A step finds its rows, copies those that the cache lacks into it, and reads and updates them
there. The result is bit-identical to that with all rows on the device.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from des_ref.embedding.cached_rows import CachedRows, CacheMoves
from des_ref.embedding.hash_table import Exported, Initial, RowTable, Updates


class SpiltRows(RowTable):
    """A table with its columns in the host's memory, and a cache on `device`.

    `state_floats`: the floats of a row that are the optimizer's state. A step calls `find_or_insert`, then
    `plan_moves`, `write_back` and `load` of `cache`, before it updates rows.
    """

    def __init__(
        self,
        widths: Mapping[str, int],
        initial: Initial,
        dtype: torch.dtype,
        *,
        device: torch.device,
        cached_rows: int,
        state_floats: int,
    ) -> None:
        super().__init__(widths, initial, dtype, device=device, columns_on="cpu")
        self.state_floats = state_floats
        self.cache = CachedRows(self, cached_rows, device, grows=True)

    @property
    def stored(self) -> list[Tensor]:
        """The columns in both memories."""
        return [*super().stored, *self.cache.columns.values()]

    def update(self, optimizer: Updates, rows: Tensor, grads: Mapping[str, Tensor]) -> None:
        """As `RowTable.update`, of rows that are cached."""
        optimizer.update(self.cache, self.cache.slots(rows), grads)

    def export(self) -> Exported:
        """As `RowTable.export`."""
        self.cache.flush()
        return super().export()

    def _stored(self, rows: Tensor, names: tuple[str, ...]) -> dict[str, Tensor]:
        """Values of `rows` [n], in the cache or not."""
        slots = self.cache.slots(rows)
        is_cached = slots >= 0
        if bool(is_cached.all()):
            return {name: self.cache.columns[name].index_select(0, slots) for name in names}
        host = {name: self.columns[name].index_select(0, rows.cpu()).to(rows.device) for name in names}
        cached = slots.clamp_min(0)
        return {
            name: torch.where(is_cached[:, None], self.cache.columns[name].index_select(0, cached), values)
            for name, values in host.items()
        }


@dataclass(frozen=True, slots=True)
class CopiedRows:
    """Rows that a step copies between the host's memory and caches, and the floats of their values and of their
    optimizer state."""

    rows: int = 0
    floats: int = 0
    state: int = 0

    @property
    def all_floats(self) -> int:
        return self.floats + self.state

    @classmethod
    def of(cls, parts: Iterable[tuple[int, SpiltRows]]) -> CopiedRows:
        """The sums over several tables, each with the number of its rows."""
        rows = 0
        floats = 0
        state = 0
        for count, table in parts:
            rows += count
            floats += count * (table.floats - table.state_floats)
            state += count * table.state_floats
        return cls(rows, floats, state)


@dataclass(frozen=True, slots=True)
class SpiltMoves:
    """The copies of a step, table by table. `out` counts what leaves the caches, `into` what enters them."""

    of_tables: tuple[tuple[SpiltRows, CacheMoves], ...] = ()

    @property
    def out(self) -> CopiedRows:
        return CopiedRows.of((len(moves.evicted), table) for table, moves in self.of_tables)

    @property
    def into(self) -> CopiedRows:
        return CopiedRows.of((len(moves.missing), table) for table, moves in self.of_tables)

    def write_back(self) -> None:
        """Copy the evicted rows to the host's memory."""
        for table, moves in self.of_tables:
            table.cache.write_back(moves)

    def fill(self) -> None:
        """Copy the missing rows into the caches."""
        for table, moves in self.of_tables:
            table.cache.load(moves)
