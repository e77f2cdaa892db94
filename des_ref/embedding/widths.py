"""The widths of a model's tables: which columns a row has, and messages of rows without the columns that they lack.

The lowest bits of an id name the width of its table, so every worker knows the width of each row that it is asked for
or sent, without a further message. Feature ids are hashes, so these bits may be overwritten, which `keyed` does.

    sent      each row, or pooled vector, with its own columns: a flat message of floats (`packed`, `unpacked`)
    in a step rows [n, W] as wide as the widest, zeros behind their own columns, which no operator reads
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from des_ref.hashing import in_group
from dessim.errors import UsageError
from dessim.workload.model import Model
from dessim.workload.model_sections import GROUP_BITS

_GROUP = (1 << GROUP_BITS) - 1


def width_number(ids: Tensor) -> Tensor:
    """The number of the width that each of `ids` [n] names, in ascending order of widths."""
    return ids & _GROUP


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
        """`ids` [n] of `field` [n], with the widths of their tables in the lowest bits. Idempotent."""
        return in_group(ids, self._group_of_field.to(field.device)[field])

    def width(self, ids: Tensor) -> list[int]:
        """The columns of the table of each of `ids` [n]."""
        return [self.distinct[group] for group in width_number(ids).tolist()]

    def of_rows(self, ids: Tensor) -> Tensor:
        """bool [n, W]: the columns that the row of each id [n] has."""
        return self._row_columns.to(ids.device)[width_number(ids)]

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
    """The number of entries for each peer in a packed message, in which peer r has `counts[r]` consecutive rows."""
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
