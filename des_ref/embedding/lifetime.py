"""When a key gets a row, and when it loses it.

    admit_after   a key gets its row in the so-manieth step that has it; before, it reads as what the row would start
                  with, and its gradient is dropped
    expire_after  a key that has not been seen for more than so many steps is forgotten, row, optimizer state and count:
                  when it comes again, it is new

Both depend on a key's own history of steps and on nothing else, so n workers and one process agree, whoever owns the
key. That is why counts are exact. A sketch (count-min, a counting Bloom filter) would take less memory, but what it
counts for a key depends on the other keys that share its cells, and these are other ones on n workers.

DeepRec does the same: its CounterFilter counts exactly and trains nothing before (a key reads a constant there, 0 by
default), its evictions go by the step a key was last trained at, though only when a checkpoint is written; so do
RecIS's GlobalStepFilter and, by time, Monolith. A step counts once for a key, however often the key is in its batch:
owners that are sent different keys only could not count more.

Forgetting takes effect at once, in the step that it is due. Memory is freed later, by a sweep that goes round all rows
in half of `expire_after` steps, a slice each step.
"""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from des_ref.embedding.growing import Growing
from des_ref.embedding.row_numbers import RowNumbers

_NEVER = 2**31 - 1  # stamp of a row that is free: never too old


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Lifetime:
    """The settings. Defaults: a row at once, for ever."""

    admit_after: Annotated[int, Field(ge=1, lt=2**31)] = 1
    expire_after: Annotated[int, Field(ge=1, lt=2**30)] | None = None


class MortalRows:
    """Rows of keys, and the step each was last seen in, when they expire. `now` is the step."""

    def __init__(self, device: torch.device | str, expire_after: int | None, capacity: int = 0) -> None:
        self.numbers = RowNumbers(device, capacity)
        self._expire_after = expire_after
        self._seen = Growing(torch.int32, device) if expire_after is not None else None
        self._swept = 0

    def find(self, ids: Tensor, now: int) -> Tensor:
        """Rows of ids [n], -1 where there is none or it is forgotten."""
        rows = self.numbers.find(ids)
        return rows if self._seen is None else rows.masked_fill_(self._is_forgotten(rows, now), -1)

    def find_for_good(self, ids: Tensor, now: int) -> Tensor:
        """The same of different ids, for a caller who adds those that are missing: what is forgotten is freed."""
        rows = self.numbers.find(ids)
        if self._seen is not None:
            is_forgotten = self._is_forgotten(rows, now)
            self.remove(rows[is_forgotten])
            rows.masked_fill_(is_forgotten, -1)
        return rows

    def add(self, ids: Tensor) -> Tensor:
        rows = self.numbers.add(ids)
        if self._seen is not None:
            self._seen.reserve(self.numbers.end)
        return rows

    def see(self, rows: Tensor, step: int | Tensor) -> None:
        """Rows [n] were seen in this step, or each in its own [n]."""
        if self._seen is not None:
            stamps = torch.as_tensor(step, dtype=torch.int32, device=rows.device).expand(len(rows))
            self._seen.values.index_copy_(0, rows, stamps)

    def ages(self, rows: Tensor, now: int) -> Tensor | None:
        """Steps since rows [n] were seen, int64; None where they never expire."""
        return None if self._seen is None else now - self._seen.values.index_select(0, rows).to(torch.int64)

    def remove(self, rows: Tensor) -> None:
        if not len(rows):
            return
        self.numbers.remove(rows)
        if self._seen is not None:
            self._seen.values.index_fill_(0, rows, _NEVER)

    def alive(self, now: int) -> Tensor:
        """Rows in use and not forgotten, ascending."""
        rows = self.numbers.rows
        return rows if self._seen is None else rows[~self._is_forgotten(rows, now)]

    def sweep(self, now: int) -> None:
        """Free what is forgotten in the next slice of rows."""
        if self._seen is None or self._expire_after is None:
            return
        begin, end = self._swept, self.numbers.end
        stop = min(begin + -(-2 * end // self._expire_after), end)
        forgotten = self._seen.values[begin:stop] < now - self._expire_after
        self.remove(forgotten.nonzero().squeeze(1).add_(begin))
        # Round again at once: where every step adds rows, the end would never be reached by a sweep that waits there.
        self._swept = stop if stop < end else 0

    def _is_forgotten(self, rows: Tensor, now: int) -> Tensor:
        if self._seen is None or self._expire_after is None or not self.numbers.end:
            return torch.zeros_like(rows, dtype=torch.bool)
        stamps = self._seen.values.index_select(0, rows.clamp_min(0))
        return (stamps < now - self._expire_after).logical_and_(rows >= 0)


class Candidates:
    """Keys that have no row yet, and in how many steps each has been seen."""

    def __init__(self, device: torch.device | str, lifetime: Lifetime) -> None:
        self._admit_after = lifetime.admit_after
        self._rows = MortalRows(device, lifetime.expire_after)
        self._counts = Growing(torch.int32, device)

    def __len__(self) -> int:
        return len(self._rows.numbers)

    def count(self, ids: Tensor, now: int) -> Tensor:
        """Count a step for different ids [n]; which of them get a row now and are no candidates any more, bool [n]."""
        rows = self._rows.find_for_good(ids, now)
        self._add(ids, rows)
        counts = self._counts.values.index_select(0, rows).add_(1)
        self._counts.values.index_copy_(0, rows, counts)
        self._rows.see(rows, now)
        admitted = counts >= self._admit_after
        self._rows.remove(rows[admitted])
        return admitted

    def sweep(self, now: int) -> None:
        self._rows.sweep(now)

    def export(self, now: int) -> dict[str, Tensor]:
        """`keys` and `count` [n], and `age` where they expire; sorted by key."""
        rows = self._rows.alive(now)
        keys, order = self._rows.numbers.keys(rows).sort()
        rows = rows[order]
        lines = {"keys": keys, "count": self._counts.values.index_select(0, rows)}
        ages = self._rows.ages(rows, now)
        return lines if ages is None else lines | {"age": ages}

    def load(self, lines: dict[str, Tensor], now: int) -> None:
        keys = lines["keys"]
        rows = torch.full_like(keys, -1)
        self._add(keys, rows)
        self._counts.values.index_copy_(0, rows, lines["count"].to(self._counts.values))
        self._rows.see(rows, now - lines["age"].to(keys) if "age" in lines else now)

    def _add(self, ids: Tensor, rows: Tensor) -> None:
        """Rows with no count yet for those of ids that have none, written into `rows`."""
        missing = (rows < 0).nonzero().squeeze(1)
        if len(missing):
            new = self._rows.add(ids.index_select(0, missing))
            self._counts.reserve(self._rows.numbers.end)
            self._counts.values.index_fill_(0, new, 0)
            rows.index_copy_(0, missing, new)
