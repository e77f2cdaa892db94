"""Counts of different ids: of aligned batches exactly, and of the whole log in bounded memory.

Both follow from one sort of a block. An id is new in its batch if its previous occurrence lies before the batch. For
batches whose size is a power of two, that is so if (sample XOR previous sample) >= size. Ids count by 47 bits of their
hash, so that hash and sample fit into one 64-bit key.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from dessim.arrays import Ints
from dessim.cluster.hashing import Hashes
from dessim.workload.id_logs.blocks import LARGEST_BLOCK, SMALLEST_BATCH, Block, half_of
from dessim.workload.id_logs.columns import Column
from dessim.workload.model_sections import MAX_SHARES

MAX_KEPT = 200_000  # hashes a table

_SAMPLE_BITS = LARGEST_BLOCK.bit_length() - 1
_FIRST = np.uint64(LARGEST_BLOCK)  # of two keys with different ids, the XOR is at least this


@dataclass(frozen=True, slots=True)
class IdSample:
    """The different ids of a log, sampled by their hash.

    `kept` are the hashes below 2**(64 - halvings), ascending. `halvings` grows so that at most 200,000 are kept. The
    number of different ids is exact up to there, and has a standard error of about 0.3 % above.
    """

    kept: Hashes = field(default_factory=lambda: np.empty(0, np.uint64))
    halvings: int = 0

    @property
    def different(self) -> int:
        """The number of different ids."""
        return len(self.kept) << self.halvings

    def with_ids(self, hashes: Hashes) -> IdSample:
        """The sample after more ids, given as ascending hashes without repetitions."""
        halvings = self.halvings
        kept = np.union1d(self.kept, _below(hashes, halvings))
        while len(kept) > MAX_KEPT:
            halvings += 1
            kept = _below(kept, halvings)
        return IdSample(kept, halvings)


def _below(hashes: Hashes, halvings: int) -> Hashes:
    """The ascending hashes below 2**(64 - halvings)."""
    largest = np.uint64((1 << (64 - halvings)) - 1)
    return hashes[: np.searchsorted(hashes, largest, "right")]


def batch_sizes(block: int) -> Ints:
    """The batch sizes that a block of `block` samples has: powers of two from 256 on."""
    return SMALLEST_BATCH << np.arange(max(block.bit_length() - SMALLEST_BATCH.bit_length() + 1, 0))


def sorted_keys(column: Column) -> Hashes:
    """A key for each id [k], ascending: the first 47 bits of its hash, then its sample in the block."""
    keys = (column.hashes & ~(_FIRST - np.uint64(1))) | column.positions
    keys.sort()
    return keys


def different_by_batch(keys: Hashes, sizes: Ints) -> Ints:
    """The different ids of all batches of a size, added up, for each of `sizes`; `keys` as from `sorted_keys`."""
    apart = keys[1:] ^ keys[:-1]
    first = int(len(keys) > 0)
    return np.array([first + np.count_nonzero(apart >= np.uint64(size)) for size in sizes], np.int64)


def different_hashes(keys: Hashes) -> Hashes:
    """The different ids of a block as ascending hashes; `keys` as from `sorted_keys`."""
    is_first = np.ones(len(keys), bool)
    is_first[1:] = (keys[1:] ^ keys[:-1]) >= _FIRST
    return keys[is_first] >> np.uint64(_SAMPLE_BITS) << np.uint64(_SAMPLE_BITS)


@dataclass(slots=True)
class Tally:
    """The counts of one table so far.

    `ids` [2] and `different` [2, sizes] are sums over the complete blocks of each half: the fitted half is 0, the one
    that checks is 1. `all_ids` and `sample` include an incomplete last block. `frequencies` are the occurrences of each
    id in the fitted half, by its hash, for a table of few ids.
    """

    sizes: Ints
    ids: Ints
    different: Ints
    all_ids: int = 0
    sample: IdSample = field(default_factory=IdSample)
    frequencies: dict[int, int] = field(default_factory=dict)

    @classmethod
    def of(cls, sizes: Ints) -> Tally:
        """No counts yet, for batches of `sizes` samples."""
        return cls(sizes, np.zeros(2, np.int64), np.zeros((2, len(sizes)), np.int64))

    def add(self, block: Block, table: int) -> None:
        """Count the ids of a table in a block."""
        column = block.columns[table]
        keys = sorted_keys(column)
        self.all_ids += len(keys)
        self.sample = self.sample.with_ids(different_hashes(keys))
        if block.is_complete:
            half = half_of(block.number)
            self.ids[half] += len(keys)
            self.different[half] += different_by_batch(keys, self.sizes)
            if half == 0:
                self._count(keys)

    def _count(self, keys: Hashes) -> None:
        if self.sample.different > MAX_SHARES:
            self.frequencies.clear()
            return
        found, counts = np.unique(keys >> np.uint64(_SAMPLE_BITS), return_counts=True)
        for hashed, count in zip(found.tolist(), counts.tolist(), strict=True):
            self.frequencies[hashed] = self.frequencies.get(hashed, 0) + count

    def shares(self) -> tuple[float, ...]:
        """The shares of all ids of a table of few ids, most frequent first; () for other tables.

        An id that only the other half has counts as half an occurrence.
        """
        different = self.sample.different
        if different > MAX_SHARES or not self.frequencies:
            return ()
        counts = sorted(self.frequencies.values(), reverse=True)
        padded = [*counts, *[0.5] * (different - len(counts))]
        return tuple(float(f"{count / sum(padded):.6g}") for count in padded)
