"""Samples as 64-bit ids: a sample is a set of ids, each of which belongs to a field. It may have dense features too."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Protocol

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Batch:
    """b samples with n ids, which a worker trains on.

    ids     int64 [n]      64-bit feature ids
    sample  int64 [n]      which of the b samples, ascending
    field   int64 [n]      which of the F fields
    labels  float32 [b]    0 or 1
    place   int64 [b]      index of each sample in the global batch; None: consecutive samples, by rank
    dense   float32 [b, d] dense features; None: the model reads none
    """

    ids: Tensor
    sample: Tensor
    field: Tensor
    labels: Tensor
    place: Tensor | None = None
    dense: Tensor | None = None

    def __len__(self) -> int:
        return len(self.labels)

    @classmethod
    def of_columns(cls, columns: Tensor, labels: Tensor, dense: Tensor | None = None) -> Batch:
        """A batch with one id per field, from ids [b, F], labels [b] and dense features [b, d], if any."""
        samples, fields = columns.shape
        sample = torch.arange(samples).repeat_interleave(fields)
        field = torch.arange(fields).repeat(samples)
        return cls(columns.reshape(-1), sample, field, labels, dense=dense)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Batch:
        """The batch on a device. `non_blocking`: the copies are asynchronous if the batch is in pinned memory."""
        return self._map(lambda t: t.to(device, non_blocking=non_blocking))

    def pinned(self) -> Batch:
        """The batch in pinned memory, from which a GPU copies asynchronously; needs CUDA."""
        return self._map(lambda t: t.pin_memory())

    def _map(self, change: Callable[[Tensor], Tensor]) -> Batch:
        tensors = (getattr(self, field.name) for field in fields(self))
        return Batch(*(change(t) if t is not None else None for t in tensors))


@dataclass(frozen=True, slots=True)
class Examples:
    """A data set in memory, from which batches are taken, in CSR form.

    Sample i has ids[offsets[i] : offsets[i + 1]], of the fields field[offsets[i] : offsets[i + 1]], and dense[i].
    """

    ids: Tensor
    field: Tensor
    offsets: Tensor
    labels: Tensor
    dense: Tensor | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, which: Tensor) -> Batch:
        """The batch of the samples `which`, int64 [b], in that order. -1 stands for an empty sample (padding)."""
        real = which.clamp_min(0)
        starts = self.offsets[real]
        counts = torch.where(which < 0, 0, self.offsets[real + 1] - starts)
        sample = torch.repeat_interleave(torch.arange(len(which)), counts)
        # An id's index in the data set is its index in the batch plus an offset, which all ids of a sample share.
        offset = starts - (counts.cumsum(0) - counts)
        index = offset.index_select(0, sample).add_(torch.arange(len(sample)))
        labels = torch.where(which < 0, 0.0, self.labels[real])
        dense = None if self.dense is None else torch.where(which[:, None] < 0, 0.0, self.dense[real])
        return Batch(self.ids.index_select(0, index), sample, self.field.index_select(0, index), labels, dense=dense)

    def select(self, which: Tensor) -> Examples:
        """The data set of the samples `which`, int64 [b], in that order."""
        batch = self.take(which)
        counts = torch.bincount(batch.sample, minlength=len(which))
        return Examples(batch.ids, batch.field, _offsets(counts), batch.labels, batch.dense)

    @classmethod
    def of_columns(cls, columns: Tensor, labels: Tensor, dense: Tensor | None = None) -> Examples:
        """A data set with one id per field, from ids [samples, F], labels [samples] and dense features, if any."""
        samples, fields = columns.shape
        field = torch.arange(fields).repeat(samples)
        return cls(columns.reshape(-1), field, torch.arange(samples + 1) * fields, labels, dense)

    @classmethod
    def concatenate(cls, parts: Sequence[Examples]) -> Examples:
        """The samples of all parts, in order."""
        counts = torch.cat([part.offsets.diff() for part in parts])
        dense = [part.dense for part in parts if part.dense is not None]
        return cls(
            ids=torch.cat([part.ids for part in parts]),
            field=torch.cat([part.field for part in parts]),
            offsets=_offsets(counts),
            labels=torch.cat([part.labels for part in parts]),
            dense=torch.cat(dense) if dense else None,
        )


def _offsets(counts: Tensor) -> Tensor:
    """CSR offsets [samples + 1] of samples with these numbers of ids [samples]."""
    return torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)])


class Source(Protocol):
    """Training, validation and test samples. Every worker opens the same source and takes its own slices."""

    validation: Examples
    test: Examples

    def batches(self, epoch: int, batch: int, rank: int, world_size: int, first: int = 0) -> Iterator[Batch]:
        """This rank's slices, batch / world_size samples each, of the epoch's global batches from number `first` on.

        An incomplete batch at the end is dropped.
        """
        ...

    @property
    def train_samples(self) -> int:
        """Training samples per epoch."""
        ...


@dataclass(frozen=True, slots=True)
class InMemory:
    """A source whose training samples are in memory, shuffled in each epoch by a generator seeded (seed, epoch)."""

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
    """Train, validation and test samples, by cutting `order` (a permutation) at `shares`."""
    train_end, validation_end = (int(share * len(examples)) for share in shares)
    return InMemory(
        train=examples.select(order[:train_end]),
        validation=examples.select(order[train_end:validation_end]),
        test=examples.select(order[validation_end:]),
        seed=seed,
    )


def slice_of(batch: Batch, rank: int, world_size: int) -> Batch:
    """The share of a rank in a global batch: consecutive samples."""
    share = len(batch) // world_size
    is_mine = (batch.sample >= rank * share) & (batch.sample < (rank + 1) * share)
    own = slice(rank * share, (rank + 1) * share)
    dense = None if batch.dense is None else batch.dense[own]
    ids, sample, field = (tensor[is_mine] for tensor in (batch.ids, batch.sample, batch.field))
    return Batch(ids, sample - rank * share, field, batch.labels[own], dense=dense)
