"""Cuts a log into blocks, each of which belongs to the half that is fitted or to the half that checks the fit.

Blocks 0, 3, 5, 6, ... are fitted, and blocks 1, 2, 4, 7, ... check: an even or odd number of ones in binary (the
sequence of Thue and Morse). Strict alternation would give the check the later block of each pair, and thus a bias
where ids drift.

The length of the log is unknown until its end, so its first 524,288 samples are held back. A log that is at least that
long has blocks of 131,072 samples. A shorter one has the largest power of two of which four blocks fit into it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from dessim.workload.id_logs.columns import Column, joined

SMALLEST_BATCH = 256
LARGEST_BLOCK = 131_072
MIN_BLOCKS = 4  # two in each half


@dataclass(frozen=True, slots=True)
class Block:
    """Consecutive samples: one column a table. Only the last block of a log can be incomplete."""

    number: int
    columns: tuple[Column, ...]
    size: int

    @property
    def samples(self) -> int:
        """The number of samples."""
        return self.columns[0].samples

    @property
    def is_complete(self) -> bool:
        """Whether the block has all of its `size` samples."""
        return self.samples == self.size


def blocks(parts: Iterable[tuple[Column, ...]]) -> Iterator[Block]:
    """The blocks of a log that comes in `parts` of any length: columns of the same tables."""
    held: list[tuple[Column, ...]] = []
    samples = 0
    number = 0
    size = LARGEST_BLOCK
    for part in parts:
        held.append(part)
        samples += part[0].samples
        if samples >= (LARGEST_BLOCK if number else MIN_BLOCKS * LARGEST_BLOCK):
            whole = _joined(held)
            cut = samples - samples % size
            for block in _cut(whole, size, number, cut):
                yield block
                number = block.number + 1
            held = [tuple(column.cut(cut, samples) for column in whole)]
            samples -= cut
    if not number:
        size = block_size(samples)
    if samples:
        yield from _cut(_joined(held), size, number, samples)


def half_of(number: int) -> int:
    """The half of a block: 0, which is fitted, or 1, which checks the fit. See the head of this file."""
    return number.bit_count() % 2


def block_size(samples: int) -> int:
    """The samples a block of a log of `samples` samples: a power of two, at most 131,072."""
    return min(1 << max(samples // MIN_BLOCKS, 1).bit_length() - 1, LARGEST_BLOCK)


def _joined(held: list[tuple[Column, ...]]) -> tuple[Column, ...]:
    return tuple(joined(columns) for columns in zip(*held, strict=True))


def _cut(whole: tuple[Column, ...], size: int, number: int, stop: int) -> Iterator[Block]:
    """The blocks of the samples before `stop`; the first has the number `number`."""
    for start in range(0, stop, size):
        end = min(start + size, stop)
        yield Block(number, tuple(column.cut(start, end) for column in whole), size)
        number += 1
