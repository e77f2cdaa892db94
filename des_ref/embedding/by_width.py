"""Tables of different widths, and columns of tables: one RowTable for each, and rows of all of them in a step.

The lowest bits of an id name the width of its table, so that every worker knows the width of any row that it is asked
for or sent: nothing else is sent for it. Feature ids are hashes, so these bits are free to take. `keyed` writes them.

    stored    each row with the columns and the optimizer state of its own width
    sent      each row, or pooled vector, with its own columns: a flat message of floats (`packed`, `unpacked`)
    in a step rows [n, W] as wide as the widest, zeros behind their own columns, which no operator reads

A worker may also own some columns of a table only (`ColumnRange`). Such rows are stored without the others, which are
zeros in a step. And a table whose rows are spilt to the host's memory has its own store, with a cache. Which
columns it owns, and whether they are spilt, depends on the table of an id, and an id does not name its table. So the
caller names the stores of rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from des_ref.embedding.hash_table import Exported, RowTable
from des_ref.embedding.optim import RowOptimizer
from des_ref.embedding.spilt_rows import SpiltMoves, SpiltRows
from des_ref.hashing import in_group
from dessim.errors import UsageError
from dessim.workload.model import Model
from dessim.workload.model_sections import GROUP_BITS

_GROUP = (1 << GROUP_BITS) - 1


class Widths:
    """The widths of a model's tables, as masks of the columns that their rows and pooled vectors have.

    `bag_extra`: columns of a pooled vector behind those of a row.
    """

    def __init__(self, model: Model, bag_extra: int, device: torch.device) -> None:
        self.distinct = sorted(set(model.widths))
        if len(self.distinct) > _GROUP + 1:
            raise UsageError(f"{model.name} has tables of {len(self.distinct)} widths; des_ref takes {_GROUP + 1}")
        self._group_of_field = torch.tensor([self.distinct.index(width) for width in model.widths], device=device)
        self._row_columns = torch.tensor([_columns(model, width) for width in self.distinct], device=device)
        every = torch.ones(len(self.distinct), bag_extra, dtype=torch.bool, device=device)
        self._bag_columns = torch.cat([self._row_columns, every], dim=1)

    def keyed(self, ids: Tensor, field: Tensor) -> Tensor:
        """`ids` [n] of `field` [n] that name the widths of their tables; the same again if they already do."""
        return in_group(ids, self._group_of_field.to(field.device)[field])

    def width(self, ids: Tensor) -> list[int]:
        """The columns of the table of each of `ids` [n]."""
        return [self.distinct[group] for group in (ids & _GROUP).tolist()]

    def of_rows(self, ids: Tensor) -> Tensor:
        """bool [n, W]: the columns that the row of each id [n] has."""
        return self._row_columns.to(ids.device)[ids & _GROUP]

    def of_bags(self, field: Tensor) -> Tensor:
        """bool [n, W + E]: the columns that a pooled vector of each `field` [n] has."""
        return self._bag_columns[self._group_of_field[field]]


def widths_of(model: Model, bag_extra: int, device: torch.device | str) -> Widths | None:
    """The widths of a model's tables; None where all have one. Raises UsageError for more widths than ids can name."""
    return None if model.tables_have_one_width else Widths(model, bag_extra, torch.device(device))


def _columns(model: Model, width: int) -> list[bool]:
    """Which columns of the widest table's rows a table of `width` columns has, value column by value column."""
    own = model.row_widths_of(width)
    return [i < own[name] for name, most in model.row_widths.items() for i in range(most)]


def packed(rows: Tensor, has: Tensor | None) -> Tensor:
    """The floats of `rows` [n, W] that exist by the mask `has` [n, W], row by row; None: all, as they are."""
    return rows if has is None else rows[has]


def unpacked(message: Tensor, has: Tensor | None) -> Tensor:
    """The rows [n, W] of a message from `packed`, zeros where they have no column."""
    return message if has is None else message.new_zeros(has.shape).masked_scatter_(has, message)


def new_message(rows: Tensor, count: int, has: Tensor | None) -> Tensor:
    """Room for `count` rows like `rows`, packed by `has` [count, W]."""
    return rows.new_empty(count, rows.shape[1]) if has is None else rows.new_empty(int(has.sum()))


def message_sizes(counts: Sequence[int], has: Tensor | None) -> list[int]:
    """The entries of a packed message for each peer, of which peer r has `counts[r]` consecutive rows."""
    if has is None:
        return list(counts)
    sizes: list[int] = torch.stack([part.sum() for part in has.split(list(counts))]).tolist()
    return sizes


@dataclass(frozen=True, slots=True)
class Packing:
    """How the rows of a message are packed: `has` bool [n, W], None: all columns; `sizes`: the entries of each peer."""

    has: Tensor | None
    sizes: list[int]

    @classmethod
    def of(cls, counts: Sequence[int], has: Tensor | None) -> Packing:
        """Peer r has `counts[r]` consecutive rows."""
        return cls(has, message_sizes(counts, has))

    @property
    def floats(self) -> int:
        """Floats of all rows; 0 where tables have one width, whose rows need no count."""
        return 0 if self.has is None else sum(self.sizes)


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
    """Number `table`, whose rows are in the host's memory; a device caches `cached_rows` of them. `columns`: those that
    this worker owns."""

    table: int
    columns: ColumnRange
    cached_rows: int


NewTable = Callable[[Mapping[str, int], Mapping[str, slice], int], RowTable]


class TablesByWidth:
    """The rows of tables of several widths, and of columns of tables, used like one RowTable.

    The first stores are those of `row_widths`, the value columns of whole rows and their widths; then come those of
    `ranges` of the columns `v`, and of `spilt` tables, given with the widths of whole rows. Row r of store g has the
    number r * stores + g, and an absent row is -1 in its store. Values and gradients are as wide as those of the widest
    table. `new_table` makes a store from the widths of whole rows, the part of each column that it keeps, and the rows
    that a device caches if it is spilt.
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
        """Begin a step that uses the distinct rows [u], of which those in `stores` are spilt: the copies that it needs
        before it updates them."""
        store, row = rows % len(self._tables), self._row(rows)
        found = []
        for number in stores:
            table = self._tables[number]
            assert isinstance(table, SpiltRows)
            found.append((table, table.cache.plan_moves(row[store == number])))
        return SpiltMoves(tuple(found))

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
        """The columns [rows, width] of all tables themselves: who writes to them changes the tables."""
        return [column for table in self._tables for column in table.stored]

    def find(self, ids: Tensor, stores: Tensor | None = None) -> Tensor:
        """As `RowTable.find`; negative if absent.

        `stores` int64 [n]: those of the ids; -1, and by default, the one of whole rows that the id names.
        """
        return self._numbered(ids, stores, RowTable.find)

    def find_or_insert(self, ids: Tensor, stores: Tensor | None = None) -> Tensor:
        """As `RowTable.find_or_insert`, in `stores` as `find`."""
        return self._numbered(ids, stores, RowTable.find_or_insert)

    def values(self, ids: Tensor, rows: Tensor, names: tuple[str, ...]) -> dict[str, Tensor]:
        """As `RowTable.values`; zeros beside a row's own columns."""

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
        """As `RowTable.load`. Raises UsageError where the lines are those of other widths."""
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
        named = ids & _GROUP if self._whole > 1 else torch.zeros_like(ids)
        return named if stores is None else torch.where(stores < 0, named, stores)

    def _widened(self, stores: Tensor, read: Callable[[RowTable, Tensor], Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """Values that `read` finds in each store for its places in `stores` [n]; zeros beside its columns."""
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
