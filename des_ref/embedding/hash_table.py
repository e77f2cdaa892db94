"""A hash table from 64-bit ids to rows of floats, in torch tensors, with no Python loop over ids.

Row r has its values in `columns[name][r]`; rows are dense, in order of arrival, and never move (growing.py). Which row
an id has: row_numbers.py, an index that grows without stopping a step. When an id gets and loses a row: lifetime.py.

Memory a row, in bytes, with W floats of s bytes in all columns:

    s W                 values and optimizer state
    8 + 1               its id, and whether it is in use
    4 S / rows          the index, of S slots: 8 when it has just filled up, 16 after it has grown; while it grows, both
    4                   the step it was last seen in, with expire_after

and 21 to 29 for a candidate (with expire_after; 4 fewer without).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from des_ref.embedding.growing import Growing
from des_ref.embedding.lifetime import Candidates, Lifetime, MortalRows
from dessim.errors import UsageError

Initial = Callable[[Tensor], Mapping[str, Tensor]]
Exported = Mapping[str, Mapping[str, Tensor]]

_LOADED_AT_ONCE = 1 << 18  # lines


class RowTable:
    """Rows by id. `widths` names the value columns; `initial(ids)` gives first values; columns it omits start at 0."""

    def __init__(
        self,
        widths: Mapping[str, int],
        initial: Initial,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        capacity: int = 0,
        lifetime: Lifetime | None = None,
    ) -> None:
        lifetime = lifetime or Lifetime()
        self._initial, self._dtype = initial, dtype
        self._rows = MortalRows(device, lifetime.expire_after, capacity)
        self._candidates = Candidates(device, lifetime) if lifetime.admit_after > 1 else None
        self._columns = {name: Growing(dtype, device, width) for name, width in widths.items()}
        self._widths = dict(widths)
        self.now = 0  # the step

    def __len__(self) -> int:
        """Rows in use; those of ids that are forgotten too, until they are freed."""
        return len(self._rows.numbers)

    @property
    def candidates(self) -> int:
        """How many ids wait for admission."""
        return len(self._candidates) if self._candidates is not None else 0

    @property
    def keys(self) -> Tensor:
        """Ids of the rows in use, in the order of their numbers, int64 [len(self)]."""
        return self._rows.numbers.keys(self._rows.numbers.rows)

    @property
    def columns(self) -> Mapping[str, Tensor]:
        """Values by row number, [rows, width] a column: views, to be written in place."""
        return {name: column.values[: self._rows.numbers.end] for name, column in self._columns.items()}

    def find(self, ids: Tensor) -> Tensor:
        """Row numbers of ids [n], -1 where there is none. Ids may repeat."""
        return self._rows.find(ids, self.now)

    def find_or_insert(self, ids: Tensor) -> Tensor:
        """Row numbers of the *different* ids [n] that this step has; new rows are given in the order of ids.

        -1 for ids that are not admitted yet. To be called once a step, because it counts.
        """
        rows = self._rows.find_for_good(ids, self.now)
        missing = (rows < 0).nonzero().squeeze(1)
        if len(missing) and self._candidates is not None:
            missing = missing[self._candidates.count(ids.index_select(0, missing), self.now)]
        if len(missing):
            rows.index_copy_(0, missing, self._append(ids.index_select(0, missing)))
        self._rows.see(rows[rows >= 0] if self._candidates is not None else rows, self.now)
        return rows

    def admitted(self, rows: Tensor, columns: Mapping[str, Tensor]) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Rows [u] and what is there for columns of theirs [u, width], without those of ids that have no row."""
        if self._candidates is None:
            return rows, columns
        there = (rows >= 0).nonzero().squeeze(1)
        return rows.index_select(0, there), {name: of.index_select(0, there) for name, of in columns.items()}

    def end_step(self) -> None:
        """The step is over: time goes on for expiry, and rows that are forgotten are freed bit by bit."""
        self.now += 1
        self._rows.numbers.move()
        self._rows.sweep(self.now)
        if self._candidates is not None:
            self._candidates.sweep(self.now)

    def values(self, ids: Tensor, rows: Tensor, names: tuple[str, ...]) -> dict[str, Tensor]:
        """Values of ids [n] that have `rows`; an id without one (-1) shows the values it would start with."""
        missing = (rows < 0).nonzero().squeeze(1)
        if not len(missing):
            return {name: self._columns[name].values.index_select(0, rows) for name in names}
        there = (rows >= 0).nonzero().squeeze(1)
        first, out = self._first(ids.index_select(0, missing)), {}
        for name in names:
            out[name] = first[name].new_empty(len(ids), self._widths[name])
            out[name].index_copy_(0, there, self._columns[name].values.index_select(0, rows.index_select(0, there)))
            out[name].index_copy_(0, missing, first[name])
        return out

    def gather(self, ids: Tensor, names: tuple[str, ...]) -> dict[str, Tensor]:
        """Values of ids [n] without inserting: an unknown id shows the values it would start with."""
        return self.values(ids, self.find(ids), names)

    def export(self) -> Exported:
        """Everything that must be kept to go on later: groups of tensors, the lines of each sorted by its `keys`.

        Group `rows`: `keys` int64 [n], each column [n, width], and `age` [n], steps since the row was seen, where rows
        expire. Group `candidates`, where rows are admitted: `keys`, `count`, `age`. A line belongs to its key alone, so
        tables of n workers are joined line by line, and handed to m workers by whoever owns the key there.
        """
        rows = self._rows.alive(self.now)
        keys, order = self._rows.numbers.keys(rows).sort()
        rows = rows[order]
        ages = self._rows.ages(rows, self.now)
        lines = {"keys": keys} | {name: column.values.index_select(0, rows) for name, column in self._columns.items()}
        groups = {"rows": lines if ages is None else lines | {"age": ages}}
        return groups if self._candidates is None else groups | {"candidates": self._candidates.export(self.now)}

    def load(self, groups: Exported) -> None:
        """Into an empty table, lines that `export` gave, in any order. Raises UsageError when they do not fit.

        A table with other settings of lifetime takes them too: rows stay rows, seen just now where no age was saved.
        """
        if len(self) or self.candidates:
            raise UsageError(f"a table is loaded once, and this one has {len(self)} rows already")
        lines = groups["rows"]
        device = next(iter(self._columns.values())).values.device
        for name, width in self._widths.items():
            if name not in lines or lines[name].shape != (len(lines["keys"]), width):
                raise UsageError(
                    f"saved rows have no column {name} of width {width}: they are of another model or optimizer"
                )
        order = torch.argsort(lines["keys"])
        for part in order.split(_LOADED_AT_ONCE):
            rows = self._new_rows(lines["keys"][part].to(device))
            for name, column in self._columns.items():
                column.values.index_copy_(0, rows, lines[name][part].to(column.values))
            self._rows.see(rows, self.now - lines["age"][part].to(device) if "age" in lines else self.now)
        if self._candidates is not None and "candidates" in groups:
            self._candidates.load({name: t.to(device) for name, t in groups["candidates"].items()}, self.now)

    def _append(self, ids: Tensor) -> Tensor:
        rows = self._new_rows(ids)
        for name, values in self._first(ids).items():
            self._columns[name].values.index_copy_(0, rows, values)
        return rows

    def _new_rows(self, ids: Tensor) -> Tensor:
        rows = self._rows.add(ids)
        for column in self._columns.values():
            column.reserve(self._rows.numbers.end)
        return rows

    def _first(self, ids: Tensor) -> dict[str, Tensor]:
        """First values of ids, all columns."""
        given = self._initial(ids)
        zeros = {name: width for name, width in self._widths.items() if name not in given}
        return dict(given) | {
            name: torch.zeros(len(ids), width, dtype=self._dtype, device=ids.device) for name, width in zeros.items()
        }
