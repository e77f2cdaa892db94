"""Tables of different widths, and columns of tables: one RowTable for each, and rows of all of them in a step.

A store has the rows of one width, each with its own columns and their optimizer state; an id names its width
(widths.py). A worker may also own only some columns of a table (`ColumnRange`): the others are not stored, and are
zeros in a step. A table whose rows are spilt to the host's memory has its own store, with a cache. Which columns a
worker owns, and whether they are spilt, depends on the table of an id, which the id does not name. So the caller names
the stores of such rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from des_ref.embedding.hash_table import Exported, RowTable
from des_ref.embedding.optim import RowOptimizer
from des_ref.embedding.spilt_rows import SpiltMoves, SpiltRows
from des_ref.embedding.widths import width_number
from dessim.errors import UsageError


@dataclass(frozen=True, slots=True, order=True)
class ColumnRange:
    """`columns` columns from column `first` on, of embeddings that have `width`."""

    width: int
    first: int
    columns: int

    @property
    def own(self) -> slice:
        return slice(self.first, self.first + self.columns)


@dataclass(frozen=True, slots=True)
class SpiltTable:
    """Table number `table`: its rows are in the host's memory, and a device caches `cached_rows` of them.

    `columns`: those that this worker owns.
    """

    table: int
    columns: ColumnRange
    cached_rows: int


NewTable = Callable[[Mapping[str, int], Mapping[str, slice], int], RowTable]


class TablesByWidth:
    """The rows of tables of several widths, and of columns of tables, used like one RowTable.

    The stores are, in this order, those of `row_widths` (the value columns of whole rows, and their widths), of
    `ranges` of the columns `v`, and of `spilt` tables (with the widths of whole rows). Row r of store g has the number
    r * stores + g. An absent row is -1 in its store, so its number is negative. Values and gradients are as wide as
    those of the widest table. `new_table` makes a store from the widths of whole rows, the part of each column that it
    keeps, and the number of rows that a device caches if it is spilt.
    """

    def __init__(
        self,
        row_widths: Sequence[Mapping[str, int]],
        new_table: NewTable,
        ranges: Sequence[ColumnRange] = (),
        spilt: Mapping[SpiltTable, Mapping[str, int]] | None = None,
    ) -> None:
        spilt = spilt or {}
        self._apart = (*ranges, *spilt)
        self._whole = len(row_widths)
        self._own = [{name: slice(width) for name, width in widths.items()} for widths in row_widths]
        self._own += [{"v": part.own} for part in ranges]
        self._own += [
            {name: table.columns.own if name == "v" else slice(width) for name, width in widths.items()}
            for table, widths in spilt.items()
        ]
        wholes = (*row_widths, *({"v": part.width} for part in ranges), *spilt.values())
        cached = (*(0 for _ in (*row_widths, *ranges)), *(table.cached_rows for table in spilt))
        stores = zip(wholes, self._own, cached, strict=True)
        self._tables = [new_table(widths, own, rows) for widths, own, rows in stores]
        self._widest = {name: max(widths[name] for widths in row_widths) for name in row_widths[0]}

    def __len__(self) -> int:
        return sum(map(len, self._tables))

    def store_of(self, part: ColumnRange | SpiltTable) -> int:
        """The number of the store of these columns, or of this spilt table."""
        return self._whole + self._apart.index(part)

    def plan_moves(self, rows: Tensor, stores: Sequence[int]) -> SpiltMoves:
        """Begin a step that uses the distinct rows [u]; returns the copies that it needs before it updates them.

        `stores`: those of spilt tables.
        """
        store = rows % len(self._tables)
        row = self._row(rows)
        moves = []
        for number in stores:
            table = self._tables[number]
            assert isinstance(table, SpiltRows)
            moves.append((table, table.cache.plan_moves(row[store == number])))
        return SpiltMoves(tuple(moves))

    @property
    def candidates(self) -> int:
        """Number of ids that wait for admission."""
        return sum(table.candidates for table in self._tables)

    @property
    def keys(self) -> Tensor:
        """Ids of the rows in use, table by table."""
        return torch.cat([table.keys for table in self._tables])

    @property
    def stored(self) -> list[Tensor]:
        """The columns [rows, width] of all tables themselves: writing to them changes the tables."""
        return [column for table in self._tables for column in table.stored]

    def find(self, ids: Tensor, stores: Tensor | None = None) -> Tensor:
        """As `RowTable.find`; negative if absent.

        `stores` int64 [n]: the store of each id; -1, also the default, is that of whole rows of the width it names.
        """
        return self._numbered(ids, stores, RowTable.find)

    def find_or_insert(self, ids: Tensor, stores: Tensor | None = None) -> Tensor:
        """As `RowTable.find_or_insert`, in `stores` as `find`."""
        return self._numbered(ids, stores, RowTable.find_or_insert)

    def values(self, ids: Tensor, rows: Tensor, names: tuple[str, ...]) -> dict[str, Tensor]:
        """As `RowTable.values`; zeros in the columns that a row does not have."""

        def of_store(table: RowTable, places: Tensor) -> Mapping[str, Tensor]:
            return table.values(ids.index_select(0, places), self._row(rows.index_select(0, places)), names)

        return self._widened(rows % len(self._tables), of_store)

    def gather(self, ids: Tensor, names: tuple[str, ...], stores: Tensor | None = None) -> dict[str, Tensor]:
        """As `RowTable.gather`, in `stores` as `find`."""
        return self._widened(
            self._stores(ids, stores), lambda table, places: table.gather(ids.index_select(0, places), names)
        )

    def update(self, optimizer: RowOptimizer, rows: Tensor, grads: Mapping[str, Tensor]) -> None:
        """As `RowTable.update`."""
        for group, (table, columns) in enumerate(zip(self._tables, self._own, strict=True)):
            places = ((rows >= 0) & (rows % len(self._tables) == group)).nonzero().squeeze(1)
            own = {name: grad.index_select(0, places)[:, columns[name]] for name, grad in grads.items()}
            table.update(optimizer, self._row(rows.index_select(0, places)), own)

    def write(self, column: str, rows: Tensor, values: Tensor) -> None:
        """As `RowTable.write`, to a column that is equally wide in all tables."""
        for group, table in enumerate(self._tables):
            places = ((rows >= 0) & (rows % len(self._tables) == group)).nonzero().squeeze(1)
            table.write(column, self._row(rows.index_select(0, places)), values.index_select(0, places))

    def poison(self, rows: Tensor) -> None:
        """As `RowTable.poison`."""
        for group, table in enumerate(self._tables):
            table.poison(self._row(rows[rows % len(self._tables) == group]))

    def end_step(self) -> None:
        """As `RowTable.end_step`."""
        for table in self._tables:
            table.end_step()

    def export(self) -> Exported:
        """As `RowTable.export`, with the groups of table g named `rows.g` and `candidates.g`."""
        return {
            f"{name}.{group}": lines
            for group, table in enumerate(self._tables)
            for name, lines in table.export().items()
        }

    def load(self, groups: Exported) -> None:
        """As `RowTable.load`. Raises UsageError if the lines have other widths."""
        for group, table in enumerate(self._tables):
            own = {name: groups[f"{name}.{group}"] for name in ("rows", "candidates") if f"{name}.{group}" in groups}
            if "rows" not in own:
                raise UsageError(f"saved rows have no group rows.{group}: they are of another model")
            table.load(own)

    def _places(self, stores: Tensor) -> list[Tensor]:
        """Where the entries of each store are in `stores` [n]."""
        return [(stores == number).nonzero().squeeze(1) for number in range(len(self._tables))]

    def _numbered(self, ids: Tensor, stores: Tensor | None, rows_of: Callable[[RowTable, Tensor], Tensor]) -> Tensor:
        rows = torch.empty_like(ids)
        places_of_stores = self._places(self._stores(ids, stores))
        for group, (table, places) in enumerate(zip(self._tables, places_of_stores, strict=True)):
            own = rows_of(table, ids.index_select(0, places))
            rows.index_copy_(0, places, own * len(self._tables) + group)
        return rows

    def _stores(self, ids: Tensor, stores: Tensor | None) -> Tensor:
        """The store of each of `ids` [n], from `stores` as `find` takes them."""
        named = width_number(ids) if self._whole > 1 else torch.zeros_like(ids)
        return named if stores is None else torch.where(stores < 0, named, stores)

    def _widened(self, stores: Tensor, read: Callable[[RowTable, Tensor], Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """Values that `read` returns for each store and its places in `stores` [n]; zeros in columns that it lacks."""
        whole: dict[str, Tensor] = {}
        for table, columns, places in zip(self._tables, self._own, self._places(stores), strict=True):
            for name, values in read(table, places).items():
                if name not in whole:
                    whole[name] = values.new_zeros(len(stores), self._widest.get(name, values.shape[1]))
                whole[name][places, columns.get(name, slice(None))] = values
        return whole

    def _row(self, rows: Tensor) -> Tensor:
        """Row numbers of a table from those of all tables; -1 where absent."""
        return torch.div(rows, len(self._tables), rounding_mode="floor")
