"""Files of Criteo-format click logs, read in chunks, plain or .gz, so that a file need not fit in memory.

The format is that of Kaggle's Display Advertising Challenge (2014): label, 13 integers, 26 hexadecimal ids, separated
by tabs, no header; any feature may be empty. criteo_rows.py turns lines into samples.

Of each ten rows the ninth is for validation and the tenth for test (up to a limit, kept in memory); the others are read
as training batches, in file order.
"""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import IO

import torch

from des_ref.data.bad_rows import BadRows
from des_ref.data.batch import Batch, Examples, slice_of
from des_ref.data.criteo_rows import Integers, parse
from dessim.errors import FileError

_TRAINING_TENTHS = 8  # of each ten rows, the first eight are for training


def _open(path: Path) -> IO[bytes]:
    try:
        if path.is_dir():
            raise FileError(path, "", "is a folder, not a Criteo TSV file")
        if path.suffix == ".gz":
            return gzip.open(path, "rb")
        return path.open("rb")
    except OSError as error:
        raise FileError(path, "", f"cannot be read: {error.strerror}") from None


def read(
    path: Path, chunk: int = 8192, bad: BadRows | None = None, integers: Integers = Integers.IDS
) -> Iterator[Examples]:
    """The file's good rows, `chunk` lines at a time; `bad` collects the others. Raises FileError with file and line."""
    bad = bad or BadRows()
    lines_read = 0
    with _open(path) as lines:
        while True:
            try:
                block = list(islice(lines, chunk))
            except (OSError, EOFError) as error:
                raise FileError(path, f"after line {lines_read}", f"cannot be read: {error}") from None
            if not block:
                break
            ids, labels, dense = parse(block, path, lines_read + 1, bad, integers)
            lines_read += len(block)
            if len(labels):
                yield Examples.of_columns(ids, labels, dense)
    if not lines_read:
        raise FileError(path, "", "is empty")


@dataclass(slots=True)
class CriteoFile:
    """A `Source` over one file. Opening it reads the file once, to check it and to collect the held-out rows.

    `rows` counts the good rows; `bad` collects the others and limits their number. Raises FileError.
    """

    path: Path
    bad: BadRows = field(default_factory=BadRows)
    integers: Integers = Integers.IDS
    held_out_limit: int = 200_000
    validation: Examples = field(init=False)
    test: Examples = field(init=False)
    rows: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        held_out: tuple[list[Examples], list[Examples]] = ([], [])  # validation, test
        sizes = [0, 0]
        for chunk in read(self.path, bad=self.bad, integers=self.integers):
            position = (torch.arange(len(chunk)) + self.rows) % 10
            for i in range(2):
                part = chunk.select(torch.nonzero(position == _TRAINING_TENTHS + i)[:, 0])
                if sizes[i] < self.held_out_limit and len(part):
                    held_out[i].append(part)
                    sizes[i] += len(part)
            self.rows += len(chunk)
        self.bad.write()
        if not held_out[1]:
            problem = f"{self.rows} good rows; at least 10 are needed, because a tenth is held out for the test"
            raise FileError(self.path, "", problem)
        self.validation, self.test = (Examples.concatenate(parts) for parts in held_out)

    def batches(self, epoch: int, batch: int, rank: int, world_size: int, first: int = 0) -> Iterator[Batch]:
        pending: list[Examples] = []  # training rows read but not yet in a batch
        n_pending = 0
        rows_read = 0
        skip = first * batch
        for chunk in read(self.path, bad=BadRows(self.bad.count), integers=self.integers):
            train = torch.nonzero((torch.arange(len(chunk)) + rows_read) % 10 < _TRAINING_TENTHS)[:, 0]
            rows_read += len(chunk)
            train, skip = train[skip:], max(skip - len(train), 0)
            pending.append(chunk.select(train))
            n_pending += len(train)
            while n_pending >= batch:
                joined = Examples.concatenate(pending)
                yield slice_of(joined.take(torch.arange(batch)), rank, world_size)
                pending = [joined.select(torch.arange(batch, len(joined)))]
                n_pending -= batch

    @property
    def train_samples(self) -> int:
        return self.rows // 10 * _TRAINING_TENTHS + min(self.rows % 10, _TRAINING_TENTHS)
