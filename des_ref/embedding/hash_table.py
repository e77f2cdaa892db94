"""A hash table from 64-bit ids to rows of floats, in torch tensors, with no Python loop over ids.

Two parts. The *index* is an open-addressing array of row numbers (-1: empty), at most half full, probed linearly from
`mix64(id ^ SALT)`. The *rows* are dense: row r has its id in `keys[r]` and its values in `columns[name][r]`, in order
of arrival. Growing the index rehashes row numbers only, growing the rows copies them in order, so neither can lose one.

Every search is a loop over probe *rounds*: in each, all ids still looking read their next slot at once. At half load
the longest probe of a million ids is a few dozen slots, and each round is smaller than the one before.

Without deletions an id that meets an empty slot is certainly absent. Expiry would need tombstones: left out here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from des_ref.hashing import mix64, signed
from dessim.errors import UsageError

# Owners are chosen by mix64(id) mod N, so a worker's own ids share those bits: slots must come from other ones.
_SALT = signed(0xD1B54A32D192ED03)
_MAX_LOAD = 0.5
_SMALLEST = 1024

Initial = Callable[[Tensor], Mapping[str, Tensor]]
Exported = Mapping[str, Mapping[str, Tensor]]


class RowTable:
    """Rows by id. `widths` names the value columns; `initial(ids)` gives first values; columns it omits start at 0."""

    def __init__(
        self,
        widths: Mapping[str, int],
        initial: Initial,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        capacity: int = _SMALLEST,
    ) -> None:
        self._initial = initial
        self._count = 0
        capacity = 1 << max(capacity - 1, _SMALLEST - 1).bit_length()
        self._index = torch.full((2 * capacity,), -1, dtype=torch.int64, device=device)
        self._keys = torch.zeros(capacity, dtype=torch.int64, device=device)
        self._columns = {
            name: torch.zeros(capacity, width, dtype=dtype, device=device) for name, width in widths.items()
        }

    def __len__(self) -> int:
        return self._count

    @property
    def keys(self) -> Tensor:
        """Ids in order of arrival, int64 [len(self)]."""
        return self._keys[: self._count]

    @property
    def columns(self) -> Mapping[str, Tensor]:
        """Values, [len(self), width] a column: views, to be written in place by row number."""
        return {name: values[: self._count] for name, values in self._columns.items()}

    def find(self, ids: Tensor) -> Tensor:
        """Row numbers of ids [n], -1 where there is none. Ids may repeat."""
        rows = torch.full_like(ids, -1)
        slots, mask = self._first_slots(ids), len(self._index) - 1
        looking = torch.arange(len(ids), device=ids.device)
        while len(looking):
            found = self._index[slots]
            is_other = (found >= 0) & (self._keys[found.clamp_min(0)] != ids[looking])
            rows[looking[~is_other]] = found[~is_other]  # a hit, or -1 at an empty slot
            looking, slots = looking[is_other], (slots[is_other] + 1) & mask
        return rows

    def find_or_insert(self, ids: Tensor) -> Tensor:
        """Row numbers of *different* ids [n]; ids not yet there get new rows, in the order given."""
        rows = self.find(ids)
        is_new = rows < 0
        new_ids = ids[is_new]
        if len(new_ids):
            rows[is_new] = self._append(new_ids)
        return rows

    def gather(self, ids: Tensor, names: tuple[str, ...]) -> dict[str, Tensor]:
        """Values of ids [n] without inserting: an unknown id shows the values it would start with."""
        rows = self.find(ids)
        missing = rows < 0
        values = {name: self._columns[name][rows.clamp_min(0)] for name in names}
        if bool(missing.any()):
            first = self._initial(ids[missing])
            for name in names:
                values[name][missing] = first.get(name, torch.zeros_like(values[name][:1]))
        return values

    def export(self) -> Exported:
        """Everything that must be kept to go on later: groups of tensors, the lines of each sorted by its `keys`.

        Group `rows`: `keys` int64 [n], and each column [n, width]. A line belongs to its key alone, so tables of n
        workers are joined line by line, and handed to m workers by whoever owns the key there.
        """
        order = torch.argsort(self.keys)
        return {"rows": {"keys": self.keys[order]} | {name: c[order] for name, c in self.columns.items()}}

    def load(self, groups: Exported) -> None:
        """Into an empty table, lines that `export` gave, in any order. Raises UsageError when they do not fit."""
        if len(self):
            raise UsageError(f"a table is loaded once, and this one has {len(self)} rows already")
        lines = groups["rows"]
        for name, values in self._columns.items():
            if name not in lines or lines[name].shape != (len(lines["keys"]), values.shape[1]):
                raise UsageError(
                    f"saved rows have no column {name} of width {values.shape[1]}: another model's or optimizer's"
                )
        order = torch.argsort(lines["keys"])
        rows = self.find_or_insert(lines["keys"][order].to(self._keys.device))
        for name, values in self._columns.items():
            values[rows] = lines[name][order].to(values)

    def _append(self, ids: Tensor) -> Tensor:
        start, end = self._count, self._count + len(ids)
        self._reserve(end)
        rows = torch.arange(start, end, device=ids.device)
        self._keys[start:end] = ids
        for name, values in self._initial(ids).items():
            self._columns[name][start:end] = values
        self._place(ids, rows)
        self._count = end
        return rows

    def _reserve(self, count: int) -> None:
        capacity = len(self._keys)
        if count > capacity:
            capacity = 1 << (count - 1).bit_length()
            self._keys = _longer(self._keys, capacity)
            self._columns = {name: _longer(values, capacity) for name, values in self._columns.items()}
        if count > _MAX_LOAD * len(self._index):
            size = 1 << (int(count / _MAX_LOAD) - 1).bit_length()
            self._index = torch.full((size,), -1, dtype=torch.int64, device=self._index.device)
            self._place(self.keys, torch.arange(self._count, device=self._keys.device))

    def _place(self, ids: Tensor, rows: Tensor) -> None:
        """Write row numbers of absent ids into the index. Of several at one empty slot any may win; the rest go on."""
        slots, mask = self._first_slots(ids), len(self._index) - 1
        while len(rows):
            empty = self._index[slots] < 0
            self._index[slots[empty]] = rows[empty]
            left = self._index[slots] != rows
            rows, slots = rows[left], (slots[left] + 1) & mask

    def _first_slots(self, ids: Tensor) -> Tensor:
        return mix64(ids ^ _SALT) & (len(self._index) - 1)


def _longer(old: Tensor, length: int) -> Tensor:
    new = torch.zeros(length, *old.shape[1:], dtype=old.dtype, device=old.device)
    new[: len(old)] = old
    return new
