"""Criteo-format click logs: label, 13 integers, 26 hexadecimal ids, tabs, no header; any feature may be empty.

The columns are those of Kaggle's Display Advertising Challenge (2014); what they become: criteo_rows.py.

Read in chunks, plain or .gz, so that a file need not fit in memory. Of each ten rows the ninth is for validation and
the tenth for test (up to a limit, kept in memory); the rest stream by as training batches, in file order.
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
from des_ref.data.criteo_rows import parse
from dessim.errors import FileError


def _open(path: Path) -> IO[bytes]:
    try:
        if path.is_dir():
            raise FileError(path, "", "is a folder, not a Criteo TSV file")
        if path.suffix == ".gz":
            return gzip.open(path, "rb")
        return path.open("rb")
    except OSError as error:
        raise FileError(path, "", f"cannot be read: {error.strerror}") from None


def read(path: Path, chunk: int = 8192, bad: BadRows | None = None) -> Iterator[Examples]:
    """The file's rows, `chunk` lines at a time, without those that `bad` takes. Raises FileError with file and line."""
    bad = bad or BadRows()
    number = 0
    with _open(path) as lines:
        while True:
            try:
                block = list(islice(lines, chunk))
            except (OSError, EOFError) as error:
                raise FileError(path, f"after line {number}", f"cannot be read: {error}") from None
            if not block:
                break
            ids, labels = parse(block, path, number + 1, bad)
            number += len(block)
            if len(labels):
                yield Examples.of_columns(ids, labels)
    if not number:
        raise FileError(path, "", "is empty")


@dataclass(slots=True)
class CriteoFile:
    """A `Source` over one file. Opening it reads the file once, to check it and to collect the held-out rows.

    `rows` are the good ones; `bad` has the others, and is the word on how many there may be.
    """

    path: Path
    bad: BadRows = field(default_factory=BadRows)
    held_out_limit: int = 200_000
    validation: Examples = field(init=False)
    test: Examples = field(init=False)
    rows: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        kept: tuple[list[Examples], list[Examples]] = ([], [])
        sizes = [0, 0]
        for chunk in read(self.path, bad=self.bad):
            tenth = (torch.arange(len(chunk)) + self.rows) % 10
            for i in range(2):
                part = chunk.select(torch.nonzero(tenth == 8 + i)[:, 0])
                if sizes[i] < self.held_out_limit and len(part):
                    kept[i].append(part)
                    sizes[i] += len(part)
            self.rows += len(chunk)
        self.bad.write()
        if not kept[1]:
            raise FileError(
                self.path, "", f"{self.rows} good rows; at least 10 are needed, a tenth is held out for the test"
            )
        self.validation, self.test = (Examples.concatenate(parts) for parts in kept)

    def batches(self, epoch: int, batch: int, rank: int, world_size: int, first: int = 0) -> Iterator[Batch]:
        waiting: list[Examples] = []
        held, seen, skip = 0, 0, first * batch
        for chunk in read(self.path, bad=BadRows(self.bad.count)):
            train = torch.nonzero((torch.arange(len(chunk)) + seen) % 10 < 8)[:, 0]
            seen += len(chunk)
            train, skip = train[skip:], max(skip - len(train), 0)
            waiting.append(chunk.select(train))
            held += len(train)
            while held >= batch:
                whole = Examples.concatenate(waiting)
                yield slice_of(whole.take(torch.arange(batch)), rank, world_size)
                waiting = [whole.select(torch.arange(batch, len(whole)))]
                held -= batch

    @property
    def train_samples(self) -> int:
        return self.rows // 10 * 8 + min(self.rows % 10, 8)
