"""Admission and expiry: when a key gets a row and when it loses it.

    admit_after   a key gets a row in the n-th step whose batch contains it. Before, lookups return the values the row
                  would start with, and the key's gradient is dropped
    expire_after  a key that has not occurred for more than n steps is forgotten, with its row, optimizer state and
                  count; if it occurs again, it counts as new

Both depend only on the key's own history of steps, so n workers and one process agree, whichever worker owns the key.
That is why counts are exact. A sketch (count-min, a counting Bloom filter) would take less memory, but its count of a
key depends on the other keys that share its cells, and those differ with the number of workers.

DeepRec does the same: its CounterFilter counts exactly and trains nothing before admission (a key then reads a
constant, 0 by default), and its eviction uses the step in which a key was last trained, though only when a checkpoint
is written. RecIS's GlobalStepFilter and, by wall-clock time, Monolith are similar. A step counts once for a key,
however often the batch contains it: an owner that is sent distinct keys could not count occurrences.

Expiry takes effect in the step in which it is due. Memory is freed later, by a sweep that visits all rows within half
of `expire_after` steps, one slice a step.
"""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from des_ref.async_device import places_of
from des_ref.embedding.growing import Growing
from des_ref.embedding.row_numbers import RowNumbers

_NEVER_EXPIRES = 2**31 - 1  # stamp of a free row


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Lifetime:
    """Settings of admission and expiry, in steps. By default a key gets a row at once and keeps it."""

    admit_after: Annotated[int, Field(ge=1, lt=2**31)] = 1
    expire_after: Annotated[int, Field(ge=1, lt=2**30)] | None = None


class ExpiringRows:
    """Row numbers of keys, with the step in which each key last occurred if rows expire. `now` is the current step."""

    def __init__(self, device: torch.device | str, expire_after: int | None, capacity: int = 0) -> None:
        self.numbers = RowNumbers(device, capacity)
        self._expire_after = expire_after
        self._last_seen = Growing(torch.int32, device) if expire_after is not None else None
        self._swept = 0  # the next row that the sweep visits

    def find(self, ids: Tensor, now: int) -> Tensor:
        """Rows of `ids` [n], int64, -1 if absent or expired."""
        rows = self.numbers.find(ids)
        return rows if self._last_seen is None else rows.masked_fill_(self._has_expired(rows, now), -1)

    def find_and_free_expired(self, ids: Tensor, now: int) -> tuple[Tensor, Tensor]:
        """Like `find`, for distinct ids, with the places of those that have no row.

        Frees expired rows, so that the caller may add these ids again.
        """
        rows, absent = self.numbers.find_and_count(ids)
        if self._last_seen is None:
            return rows, places_of(rows < 0, absent)
        has_expired = self._has_expired(rows, now)
        self.remove(rows[has_expired])
        rows.masked_fill_(has_expired, -1)
        return rows, places_of(rows < 0)

    def add(self, ids: Tensor) -> Tensor:
        rows = self.numbers.add(ids)
        if self._last_seen is not None:
            self._last_seen.reserve(self.numbers.end)
        return rows

    def mark_seen(self, rows: Tensor, step: int | Tensor) -> None:
        """Record that `rows` [n] occurred in `step`, one step for all or one for each [n]."""
        if self._last_seen is not None:
            # A number is written on the device, which needs no copy from the host.
            stamps = step.to(torch.int32) if isinstance(step, Tensor) else rows.new_full((), step, dtype=torch.int32)
            stamps = stamps.expand(len(rows))
            self._last_seen.values.index_copy_(0, rows, stamps)

    def ages(self, rows: Tensor, now: int) -> Tensor | None:
        """Steps since `rows` [n] last occurred, int64; None if rows never expire."""
        return None if self._last_seen is None else now - self._last_seen.values.index_select(0, rows).to(torch.int64)

    def remove(self, rows: Tensor) -> None:
        if not len(rows):
            return
        self.numbers.remove(rows)
        if self._last_seen is not None:
            self._last_seen.values.index_fill_(0, rows, _NEVER_EXPIRES)

    def alive(self, now: int) -> Tensor:
        """Rows in use that have not expired, ascending."""
        rows = self.numbers.rows
        return rows if self._last_seen is None else rows[~self._has_expired(rows, now)]

    def sweep(self, now: int) -> None:
        """Free the expired rows of the next slice."""
        if self._last_seen is None or self._expire_after is None:
            return
        begin = self._swept
        end = self.numbers.end
        stop = min(begin + -(-2 * end // self._expire_after), end)
        expired = self._last_seen.values[begin:stop] < now - self._expire_after
        self.remove(expired.nonzero().squeeze(1).add_(begin))
        # Start over as soon as the end is reached; waiting there could take forever if every step adds rows.
        self._swept = stop if stop < end else 0

    def _has_expired(self, rows: Tensor, now: int) -> Tensor:
        if self._last_seen is None or self._expire_after is None or not self.numbers.end:
            return torch.zeros_like(rows, dtype=torch.bool)
        stamps = self._last_seen.values.index_select(0, rows.clamp_min(0))
        return (stamps < now - self._expire_after).logical_and_(rows >= 0)


class Candidates:
    """Keys without a row yet, and the number of steps in which each has occurred."""

    def __init__(self, device: torch.device | str, lifetime: Lifetime) -> None:
        self._admit_after = lifetime.admit_after
        self._rows = ExpiringRows(device, lifetime.expire_after)
        self._counts = Growing(torch.int32, device)

    def __len__(self) -> int:
        return len(self._rows.numbers)

    def count(self, ids: Tensor, now: int) -> Tensor:
        """Count this step for distinct ids [n]; bool [n]: which are admitted now and stop being candidates."""
        rows, missing = self._rows.find_and_free_expired(ids, now)
        self._add(ids, rows, missing)
        counts = self._counts.values.index_select(0, rows).add_(1)
        self._counts.values.index_copy_(0, rows, counts)
        self._rows.mark_seen(rows, now)
        admitted = counts >= self._admit_after
        self._rows.remove(rows[admitted])
        return admitted

    def sweep(self, now: int) -> None:
        self._rows.sweep(now)

    def export(self, now: int) -> dict[str, Tensor]:
        """`keys` and `count` [n], and `age` [n] if rows expire; sorted by key."""
        rows = self._rows.alive(now)
        keys, order = self._rows.numbers.keys(rows).sort()
        rows = rows[order]
        lines = {"keys": keys, "count": self._counts.values.index_select(0, rows)}
        ages = self._rows.ages(rows, now)
        return lines if ages is None else lines | {"age": ages}

    def load(self, lines: dict[str, Tensor], now: int) -> None:
        keys = lines["keys"]
        rows = torch.full_like(keys, -1)
        self._add(keys, rows, torch.arange(len(keys), device=keys.device))
        self._counts.values.index_copy_(0, rows, lines["count"].to(self._counts.values))
        self._rows.mark_seen(rows, now - lines["age"].to(keys) if "age" in lines else now)

    def _add(self, ids: Tensor, rows: Tensor, missing: Tensor) -> None:
        """Add the ids at the places `missing`, with a count of 0, and write their rows into `rows`."""
        if len(missing):
            new = self._rows.add(ids.index_select(0, missing))
            self._counts.reserve(self._rows.numbers.end)
            self._counts.values.index_fill_(0, new, 0)
            rows.index_copy_(0, missing, new)
