"""Samples as 64-bit ids. Every input is categorical: a sample is a set of ids, each of one field.

`Batch` is what a worker trains on; `Examples` a data set in memory that batches are drawn from, in CSR form.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Protocol

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Batch:
    """b samples with n ids.

    ids     int64 [n]      64-bit feature ids
    sample  int64 [n]      which of the b samples, ascending
    field   int64 [n]      which of the F fields
    labels  float32 [b]    0 or 1
    place   int64 [b]      which samples of the global batch; None: a run of them, by rank
    """

    ids: Tensor
    sample: Tensor
    field: Tensor
    labels: Tensor
    place: Tensor | None = None

    def __len__(self) -> int:
        return len(self.labels)

    @classmethod
    def of_columns(cls, columns: Tensor, labels: Tensor) -> Batch:
        """One id a field: ids [b, F]."""
        samples, fields = columns.shape
        sample, field = torch.arange(samples).repeat_interleave(fields), torch.arange(fields).repeat(samples)
        return cls(columns.reshape(-1), sample, field, labels)

    def to(self, device: torch.device | str) -> Batch:
        parts = (getattr(self, field.name) for field in fields(self))
        return Batch(*(part.to(device) if part is not None else None for part in parts))


@dataclass(frozen=True, slots=True)
class Examples:
    """A data set in memory: sample i has ids[offsets[i] : offsets[i + 1]], of fields field[same]."""

    ids: Tensor
    field: Tensor
    offsets: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, which: Tensor) -> Batch:
        """The batch of samples `which`, int64 [b], in that order. -1 stands for an empty sample (padding)."""
        real = which.clamp_min(0)
        starts = self.offsets[real]
        counts = torch.where(which < 0, 0, self.offsets[real + 1] - starts)
        sample = torch.repeat_interleave(torch.arange(len(which)), counts)
        # Position inside the sample: a running count, restarted where a sample starts.
        within = torch.arange(len(sample)) - (counts.cumsum(0) - counts)[sample]
        at = starts[sample] + within
        return Batch(self.ids[at], sample, self.field[at], torch.where(which < 0, 0.0, self.labels[real]))

    def select(self, which: Tensor) -> Examples:
        """A smaller data set."""
        batch = self.take(which)
        counts = torch.bincount(batch.sample, minlength=len(which))
        offsets = torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)])
        return Examples(batch.ids, batch.field, offsets, batch.labels)

    @classmethod
    def of_columns(cls, columns: Tensor, labels: Tensor) -> Examples:
        """One id a field: ids [samples, F]."""
        samples, fields = columns.shape
        field = torch.arange(fields).repeat(samples)
        return cls(columns.reshape(-1), field, torch.arange(samples + 1) * fields, labels)

    @classmethod
    def concatenate(cls, parts: Sequence[Examples]) -> Examples:
        counts = torch.cat([part.offsets.diff() for part in parts])
        offsets = torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)])
        columns = (torch.cat([getattr(part, name) for part in parts]) for name in ("ids", "field"))
        return cls(*columns, offsets, torch.cat([part.labels for part in parts]))


class Source(Protocol):
    """Training, validation and test samples. Every worker opens the same source and takes its own slices."""

    validation: Examples
    test: Examples

    def batches(self, epoch: int, batch: int, rank: int, world_size: int, first: int = 0) -> Iterator[Batch]:
        """This rank's slices, batch / world_size samples each, of the epoch's global batches from number `first` on;
        a short end drops."""
        ...

    @property
    def train_samples(self) -> int:
        """Training samples an epoch."""
        ...


@dataclass(frozen=True, slots=True)
class InMemory:
    """A source whose training samples fit in memory; shuffled anew each epoch from (seed, epoch)."""

    train: Examples
    validation: Examples
    test: Examples
    seed: int

    def batches(self, epoch: int, batch: int, rank: int, world_size: int, first: int = 0) -> Iterator[Batch]:
        order = torch.from_numpy(np.random.default_rng((self.seed, epoch)).permutation(len(self.train)))
        share = batch // world_size
        for step in range(first, len(self.train) // batch):
            start = step * batch + rank * share
            yield self.train.take(order[start : start + share])

    @property
    def train_samples(self) -> int:
        return len(self.train)


def split(examples: Examples, order: Tensor, seed: int, shares: tuple[float, float] = (0.8, 0.9)) -> InMemory:
    """Train, validation and test by cutting `order` (a permutation) at `shares`."""
    a, b = (int(share * len(examples)) for share in shares)
    parts = (examples.select(part) for part in (order[:a], order[a:b], order[b:]))
    return InMemory(*parts, seed)


def slice_of(batch: Batch, rank: int, world_size: int) -> Batch:
    """Rank's share of a global batch: consecutive samples."""
    share = len(batch) // world_size
    mine = (batch.sample >= rank * share) & (batch.sample < (rank + 1) * share)
    own = Batch(batch.ids[mine], batch.sample[mine] - rank * share, batch.field[mine], batch.labels)
    return replace(own, labels=batch.labels[rank * share : (rank + 1) * share])
