"""A hash table from 64-bit ids to rows of floats, in torch tensors, with no Python loop over ids.

`columns[name][r]` holds the values of row r. Rows are dense, in order of arrival, and never move (growing.py).
row_numbers.py maps ids to rows with an index that grows without stopping a step; lifetime.py decides when an id gets
and loses a row.

Memory of one row, in bytes, with W floats of s bytes in all columns:

    s W                 values and optimizer state
    8 + 1               its id, and whether the row is in use
    4 S / rows          the index with S slots: 8 when full, 16 after it has grown, both during a migration
    4                   the step in which the id last occurred, with expire_after

A candidate for admission takes 21 to 29 bytes with expire_after, 4 fewer without.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

import torch
from torch import Tensor

from des_ref.embedding.growing import Growing
from des_ref.embedding.lifetime import Candidates, ExpiringRows, Lifetime
from dessim.errors import UsageError


class Updates(Protocol):
    """An optimizer of rows (optim.py)."""

    def update(self, table: RowTable, rows: Tensor, grads: Mapping[str, Tensor]) -> None: ...


Initial = Callable[[Tensor], Mapping[str, Tensor]]
Exported = Mapping[str, Mapping[str, Tensor]]

_ROWS_LOADED_AT_ONCE = 1 << 18


class RowTable:
    """Rows by id.

    `widths` are the columns and their widths. `initial(ids)` returns the initial values of new rows by column; columns
    that it omits start at 0. Ids and row numbers are on `device`, and so are the columns unless `columns_on` is given.
    """

    def __init__(
        self,
        widths: Mapping[str, int],
        initial: Initial,
        dtype: torch.dtype = torch.float32,
        *,
        device: torch.device | str = "cpu",
        capacity: int = 0,
        lifetime: Lifetime | None = None,
        columns_on: torch.device | str | None = None,
    ) -> None:
        lifetime = lifetime or Lifetime()
        self.device = torch.device(device)
        self._initial = initial
        self._dtype = dtype
        self._rows = ExpiringRows(device, lifetime.expire_after, capacity)
        self._candidates = Candidates(device, lifetime) if lifetime.admit_after > 1 else None
        self._columns_on = torch.device(columns_on or device)
        self._columns = {name: Growing(dtype, self._columns_on, width) for name, width in widths.items()}
        self._widths = dict(widths)
        self.now = 0  # the current step

    def __len__(self) -> int:
        """Number of rows in use, including expired ones that have not been freed yet."""
        return len(self._rows.numbers)

    @property
    def floats(self) -> int:
        """Floats of a row in all columns."""
        return sum(self._widths.values())

    @property
    def end(self) -> int:
        """All row numbers are below it."""
        return self._rows.numbers.end

    @property
    def candidates(self) -> int:
        """Number of ids that wait for admission."""
        return len(self._candidates) if self._candidates is not None else 0

    @property
    def keys(self) -> Tensor:
        """Ids of the rows in use, in the order of row numbers, int64 [len(self)]."""
        return self._rows.numbers.keys(self._rows.numbers.rows)

    @property
    def columns(self) -> Mapping[str, Tensor]:
        """Values by row number, [rows, width] for each column: views that may be written in place."""
        return {name: column.values[: self.end] for name, column in self._columns.items()}

    def find(self, ids: Tensor) -> Tensor:
        """Row numbers of `ids` [n], int64, -1 if absent. Ids may repeat."""
        return self._rows.find(ids, self.now)

    def find_or_insert(self, ids: Tensor) -> Tensor:
        """Row numbers of the *distinct* ids [n] of this step, adding rows for new ids in the order given.

        -1 for ids that are not admitted yet. Call it once a step, because it counts occurrences for admission.
        """
        rows, missing = self._rows.find_and_free_expired(ids, self.now)
        if len(missing) and self._candidates is not None:
            missing = missing[self._candidates.count(ids.index_select(0, missing), self.now)]
        if len(missing):
            rows.index_copy_(0, missing, self._append(ids.index_select(0, missing)))
        self._rows.mark_seen(rows[rows >= 0] if self._candidates is not None else rows, self.now)
        return rows

    @property
    def stored(self) -> list[Tensor]:
        """The columns [rows, width] themselves: writing to them changes the table."""
        return list(self.columns.values())

    def admitted(self, rows: Tensor, columns: Mapping[str, Tensor]) -> tuple[Tensor, Mapping[str, Tensor]]:
        """`rows` [u] and their `columns` [u, width], without the entries of ids that have no row (-1)."""
        if self._candidates is None:
            return rows, columns
        present = (rows >= 0).nonzero().squeeze(1)
        kept = {name: values.index_select(0, present) for name, values in columns.items()}
        return rows.index_select(0, present), kept

    def update(self, optimizer: Updates, rows: Tensor, grads: Mapping[str, Tensor]) -> None:
        """Step `optimizer` on `rows` [u] with the gradients [u, width] of their columns; ids without a row are left
        out."""
        optimizer.update(self, *self.admitted(rows, grads))

    def write(self, column: str, rows: Tensor, values: Tensor) -> None:
        """Set a column of `rows` [u] to `values` [u, width]; ids without a row are left out."""
        rows, kept = self.admitted(rows, {column: values})
        self.columns[column].index_copy_(0, rows, kept[column])

    def poison(self, rows: Tensor) -> None:
        """Make every column of `rows` [n] NaN, so that a read of them shows."""
        for values in self.columns.values():
            values[rows.to(values.device)] = float("nan")

    def end_step(self) -> None:
        """Advance the step for expiry, and do this step's share of index migration and of freeing expired rows."""
        self.now += 1
        self._rows.numbers.move()
        self._rows.sweep(self.now)
        if self._candidates is not None:
            self._candidates.sweep(self.now)

    def values(self, ids: Tensor, rows: Tensor, names: tuple[str, ...]) -> dict[str, Tensor]:
        """Values of `ids` [n] with the row numbers `rows` that `find_or_insert` returned.

        An id that is not admitted yet (-1) reads its initial values.
        """
        return self._values(ids, rows, names) if self._candidates is not None else self._stored(rows, names)

    def _stored(self, rows: Tensor, names: tuple[str, ...]) -> dict[str, Tensor]:
        return {name: self._columns[name].values.index_select(0, rows) for name in names}

    def _values(self, ids: Tensor, rows: Tensor, names: tuple[str, ...]) -> dict[str, Tensor]:
        missing = (rows < 0).nonzero().squeeze(1)
        if not len(missing):
            return self._stored(rows, names)
        present = (rows >= 0).nonzero().squeeze(1)
        initial = self._initial_values(ids.index_select(0, missing))
        stored = self._stored(rows.index_select(0, present), names)
        out = {}
        for name in names:
            out[name] = initial[name].new_empty(len(ids), self._widths[name])
            out[name].index_copy_(0, present, stored[name])
            out[name].index_copy_(0, missing, initial[name])
        return out

    def gather(self, ids: Tensor, names: tuple[str, ...]) -> dict[str, Tensor]:
        """Values of `ids` [n] without inserting rows: an unknown id reads its initial values."""
        return self._values(ids, self.find(ids), names)

    def export(self) -> Exported:
        """The state that a checkpoint saves: groups of tensors, the lines of each sorted by its `keys`.

        Group `rows`: `keys` int64 [n], each column [n, width], and, if rows expire, `age` [n], the steps since the key
        last occurred. Group `candidates`, if admission is delayed: `keys`, `count`, `age`. A line depends on its key
        only, so the tables of n workers can be concatenated and redistributed to the owners among m workers.
        """
        rows = self._rows.alive(self.now)
        keys, order = self._rows.numbers.keys(rows).sort()
        rows = rows[order]
        ages = self._rows.ages(rows, self.now)
        at = rows.to(self._columns_on)
        lines = {"keys": keys} | {name: column.values.index_select(0, at) for name, column in self._columns.items()}
        groups = {"rows": lines if ages is None else lines | {"age": ages}}
        return groups if self._candidates is None else groups | {"candidates": self._candidates.export(self.now)}

    def load(self, groups: Exported) -> None:
        """Load lines of `export`, in any order, into an empty table. Raises UsageError when they do not fit.

        The lifetime settings may differ: rows remain rows, and count as seen in this step if no age was saved.
        """
        if len(self) or self.candidates:
            raise UsageError(f"a table is loaded once, and this one has {len(self)} rows already")
        lines = groups["rows"]
        device = self.device
        for name, width in self._widths.items():
            if name not in lines or lines[name].shape != (len(lines["keys"]), width):
                raise UsageError(
                    f"saved rows have no column {name} of width {width}: they are of another model or optimizer"
                )
        order = torch.argsort(lines["keys"])
        for chunk in order.split(_ROWS_LOADED_AT_ONCE):
            rows = self._new_rows(lines["keys"][chunk].to(device))
            for name, column in self._columns.items():
                column.values.index_copy_(0, rows.to(self._columns_on), lines[name][chunk].to(column.values))
            self._rows.mark_seen(rows, self.now - lines["age"][chunk].to(device) if "age" in lines else self.now)
        if self._candidates is not None and "candidates" in groups:
            self._candidates.load({name: values.to(device) for name, values in groups["candidates"].items()}, self.now)

    def _append(self, ids: Tensor) -> Tensor:
        rows = self._new_rows(ids)
        for name, values in self._initial_values(ids).items():
            self._columns[name].values.index_copy_(0, rows.to(self._columns_on), values.to(self._columns_on))
        return rows

    def _new_rows(self, ids: Tensor) -> Tensor:
        rows = self._rows.add(ids)
        for column in self._columns.values():
            column.reserve(self._rows.numbers.end)
        return rows

    def _initial_values(self, ids: Tensor) -> dict[str, Tensor]:
        """Initial values of `ids` [n], all columns."""
        values = dict(self._initial(ids))
        for name, width in self._widths.items():
            if name not in values:
                values[name] = torch.zeros(len(ids), width, dtype=self._dtype, device=ids.device)
        return values
