"""Tables of different widths: one RowTable for each width, and rows of all of them in a step.

The lowest bits of an id name the width of its table, so that every worker knows the width of any row that it is asked
for or sent: nothing else is sent for it. Feature ids are hashes, so these bits are free to take. `keyed` writes them.

    stored    each row with the columns and the optimizer state of its own width
    sent      each row, or pooled vector, with its own columns: a flat message of floats (`packed`, `unpacked`)
    in a step rows [n, W] as wide as the widest, zeros behind their own columns, which no operator reads
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from des_ref.embedding.hash_table import Exported, RowTable
from des_ref.embedding.optim import RowOptimizer
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


class TablesByWidth:
    """The rows of tables of several widths, used like one RowTable.

    `tables` are those of `row_widths`, the value columns of each and their widths. Row r of table g has the number
    r * tables + g. Values and gradients are as wide as those of the widest table.
    """

    def __init__(
        self, row_widths: Sequence[Mapping[str, int]], new_table: Callable[[Mapping[str, int]], RowTable]
    ) -> None:
        self._row_widths = row_widths
        self._tables = [new_table(widths) for widths in row_widths]
        self._widest = {name: max(widths[name] for widths in row_widths) for name in row_widths[0]}

    def __len__(self) -> int:
        return sum(map(len, self._tables))

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

    def find(self, ids: Tensor) -> Tensor:
        """As `RowTable.find`."""
        return self._numbered(ids, RowTable.find)

    def find_or_insert(self, ids: Tensor) -> Tensor:
        """As `RowTable.find_or_insert`."""
        return self._numbered(ids, RowTable.find_or_insert)

    def values(self, ids: Tensor, rows: Tensor, names: tuple[str, ...]) -> dict[str, Tensor]:
        """As `RowTable.values`; zeros behind a row's own columns."""
        whole: dict[str, Tensor] = {}
        for table, places in zip(self._tables, self._places(ids), strict=True):
            own = rows.index_select(0, places)
            found = table.values(ids.index_select(0, places), self._row(own), names)
            for name, values in found.items():
                if name not in whole:
                    whole[name] = values.new_zeros(len(ids), self._widest.get(name, values.shape[1]))
                whole[name][places, : values.shape[1]] = values
        return whole

    def gather(self, ids: Tensor, names: tuple[str, ...]) -> dict[str, Tensor]:
        """As `RowTable.gather`."""
        return self.values(ids, self.find(ids), names)

    def update(self, optimizer: RowOptimizer, rows: Tensor, grads: Mapping[str, Tensor]) -> None:
        """As `RowTable.update`."""
        for group, (table, widths) in enumerate(zip(self._tables, self._row_widths, strict=True)):
            places = ((rows >= 0) & (rows % len(self._tables) == group)).nonzero().squeeze(1)
            own = {name: grad.index_select(0, places)[:, : widths[name]] for name, grad in grads.items()}
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

    def _places(self, ids: Tensor) -> list[Tensor]:
        """Where the ids of each table are."""
        group = ids & _GROUP
        return [(group == number).nonzero().squeeze(1) for number in range(len(self._tables))]

    def _numbered(self, ids: Tensor, rows_of: Callable[[RowTable, Tensor], Tensor]) -> Tensor:
        rows = torch.full_like(ids, -1)
        for group, (table, places) in enumerate(zip(self._tables, self._places(ids), strict=True)):
            own = rows_of(table, ids.index_select(0, places))
            rows.index_copy_(0, places, torch.where(own < 0, own, own * len(self._tables) + group))
        return rows

    def _row(self, rows: Tensor) -> Tensor:
        """Row numbers of a table from those of all tables; -1 stays -1."""
        return torch.div(rows, len(self._tables), rounding_mode="floor")
