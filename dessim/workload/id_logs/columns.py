"""Hashed ids of consecutive samples, one column a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dessim.arrays import Ints
from dessim.cluster.hashing import GOLDEN, Hashes, mix64

Bytes = NDArray[np.uint8]

_WORD = 8  # bytes hashed at once
_MASKS = np.array([(1 << 8 * size) - 1 for size in range(_WORD + 1)], np.uint64)  # the first `size` bytes of a word


@dataclass(frozen=True, slots=True)
class Column:
    """The ids of one table in n consecutive samples.

    `hashes` [k] are the hashed ids in the order of the samples, and `lengths` [n] the number of ids of each sample.
    Without `lengths` every sample has one id, and k = n.
    """

    hashes: Hashes
    lengths: Ints | None = None

    @property
    def samples(self) -> int:
        """The number of samples."""
        return len(self.hashes) if self.lengths is None else len(self.lengths)

    @property
    def positions(self) -> Hashes:
        """The sample of each id [k], counted from 0."""
        samples = np.arange(self.samples, dtype=np.uint64)
        return samples if self.lengths is None else np.repeat(samples, self.lengths)

    def cut(self, start: int, stop: int) -> Column:
        """The samples from `start` to before `stop`."""
        if self.lengths is None:
            return Column(self.hashes[start:stop])
        first = int(self.lengths[:start].sum())
        lengths = self.lengths[start:stop]
        return Column(self.hashes[first : first + int(lengths.sum())], lengths)


def joined(columns: Sequence[Column]) -> Column:
    """The columns of one table, one after another."""
    hashes = np.concatenate([column.hashes for column in columns])
    if all(column.lengths is None for column in columns):
        return Column(hashes)
    lengths = [np.ones(c.samples, np.int64) if c.lengths is None else c.lengths for c in columns]
    return Column(hashes, np.concatenate(lengths))


def hash_integers(values: NDArray[np.integer]) -> Hashes:
    """A 64-bit hash of each integer; different integers of 64 bits have different hashes."""
    return mix64(np.ascontiguousarray(values).astype(np.uint64))


def hash_cells(text: Bytes, starts: Ints, sizes: Ints) -> Hashes:
    """A 64-bit hash of the bytes of each cell; shaped like `starts`.

    A cell is the `sizes` bytes of `text` from `starts` on. `text` must have eight more bytes after the last cell.
    """
    words = np.ndarray((max(len(text) - _WORD + 1, 0),), "V8", text, strides=(1,))
    hashes = mix64(sizes.astype(np.uint64) + np.uint64(GOLDEN))
    for done in range(0, int(sizes.max(initial=0)), _WORD):
        has_more = sizes > done
        first = np.where(has_more, starts + done, 0)
        word = words[first].view(np.uint64) & _MASKS[np.clip(sizes - done, 0, _WORD)]
        hashes = np.where(has_more, mix64(hashes ^ word), hashes)
    return hashes
