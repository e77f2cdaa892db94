"""The rows used last, in a device's memory, in front of a table whose rows are in the host's.

A row comes with its optimizer's state, and both go back when another one needs its place: the row that has not been
used for the longest time. A row is written in every step that uses it, so whatever goes back is newer than what the
host has. What crosses the link is the same on a machine without a device, where both are host memory.
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
class Moves:
    """What must move before a step's rows are there: rows `came` [m] of the table into `places` [m], from some of which
    the rows before them leave, `went` [g]."""

    came: Tensor
    places: Tensor
    went: Tensor


class CachedRows:
    """`capacity` rows of `table`, which is on the CPU, on `device`. `columns` are as the table's, by place."""

    def __init__(self, table: RowTable, capacity: int, device: torch.device) -> None:
        self._table = table
        self.columns = {
            name: values.new_zeros(capacity, values.shape[1]).to(device) for name, values in table.columns.items()
        }
        self._place = Growing(torch.int32, "cpu")  # of a row, plus 1
        self._row = torch.full((capacity,), -1, dtype=torch.int64)  # in each place
        self._used = torch.zeros(capacity, dtype=torch.int64)  # the step it was last used in
        self._step = 0

    @property
    def row_bytes(self) -> int:
        """A row with its optimizer's state."""
        return sum(values.shape[1] * values.element_size() for values in self.columns.values())

    def moves(self, rows: Tensor) -> Moves:
        """For different rows [u] of the table, which are the step's. Raises UsageError when they are too many."""
        if len(rows) > len(self._row):
            keeps = f"its cache keeps {len(self._row):,}: raise cache_rows"
            raise UsageError(f"a step needs {len(rows):,} rows of one worker, and {keeps}")
        self._step += 1
        if len(rows):
            self._place.reserve(int(rows.max()) + 1)
        places = self.places(rows)
        here = places >= 0
        self._used[places[here]] = self._step
        came = rows[~here]
        # Empty places are used in step 0: they go first.
        oldest = torch.argsort(self._used, stable=True)[: len(came)]
        rows_there = self._row[oldest]
        return Moves(came, oldest, rows_there[rows_there >= 0])

    def write_back(self, moves: Moves) -> None:
        """Rows that leave, to the table."""
        self._to_table(moves.went)
        self._place.values[moves.went] = 0

    def bring(self, moves: Moves) -> None:
        """Rows that come, into their places."""
        for name, values in self._table.columns.items():
            self.columns[name][moves.places] = values[moves.came].to(self.columns[name].device)
        self._row[moves.places], self._used[moves.places] = moves.came, self._step
        self._place.values[moves.came] = (moves.places + 1).to(torch.int32)

    def places(self, rows: Tensor) -> Tensor:
        """Of rows [u], int64; -1 for those that are not here."""
        return self._place.values[rows].to(torch.int64) - 1

    def flush(self) -> None:
        """The table has what is here, which stays."""
        self._to_table(self._row[self._row >= 0])

    def _to_table(self, rows: Tensor) -> None:
        places = self.places(rows)
        table: Mapping[str, Tensor] = self._table.columns
        for name, values in self.columns.items():
            table[name][rows] = values[places].to("cpu")
