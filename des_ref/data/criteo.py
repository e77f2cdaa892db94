"""Criteo-format click logs: label, 13 integers, 26 hexadecimal ids, tabs, no header; any feature may be empty.

The columns are those of Kaggle's Display Advertising Challenge (2014). Integers become categories as the challenge's
winners did (3 Idiots, 2014): floor(ln(x)**2) for x > 2, x itself below; an empty cell is an id of its own.

Read in chunks, plain or .gz, so that a file need not fit in memory. Of each ten rows the ninth is for validation and
the tenth for test (up to a limit, kept in memory); the rest stream by as training batches, in file order.
"""

from __future__ import annotations

import gzip
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import IO

import torch
from torch import Tensor

from des_ref.data.bad_rows import BadRows
from des_ref.data.batch import Batch, Examples, slice_of
from des_ref.hashing import feature_id, text_key
from dessim.errors import FileError

INTEGERS, CATEGORIES = 13, 26
FIELDS = INTEGERS + CATEGORIES
COLUMNS = 1 + FIELDS
MISSING = text_key("missing")


def _open(path: Path) -> IO[str]:
    try:
        if path.is_dir():
            raise FileError(path, "", "is a folder, not a Criteo TSV file")
        if path.suffix == ".gz":
            return gzip.open(path, "rt", encoding="ascii", errors="surrogateescape", newline="\n")
        return path.open("r", encoding="ascii", errors="surrogateescape", newline="\n")
    except OSError as error:
        raise FileError(path, "", f"cannot be read: {error.strerror}") from None


def _integer(text: str) -> int:
    if not text:
        return MISSING
    value = int(text)
    return math.floor(math.log(value) ** 2) if value > 2 else value


def _row(line: str, path: Path | str, number: int) -> tuple[float, list[int]]:
    if not line.isascii():
        raise FileError(path, str(number), "has bytes that are not ASCII")
    cells = line.rstrip("\r\n").split("\t")
    if len(cells) != COLUMNS:
        due = f"{COLUMNS} are due (label, {INTEGERS} integers, {CATEGORIES} ids, tab-separated, no header)"
        raise FileError(path, str(number), f"{len(cells)} columns where {due}")
    if cells[0] not in ("0", "1"):
        raise FileError(path, str(number), f"label {cells[0]!r} must be 0 or 1 (is there a header line?)")
    try:
        values = [_integer(text) for text in cells[1 : 1 + INTEGERS]]
        if min(values) < -(1 << 63):
            raise ValueError
    except ValueError:
        raise FileError(path, str(number), "columns 2 to 14 must be whole numbers or empty") from None
    try:
        values += [int(text, 16) if text else MISSING for text in cells[1 + INTEGERS :]]
        if max(values[INTEGERS:]) >= 1 << 63 or any("-" in text for text in cells[1 + INTEGERS :]):
            raise ValueError
    except ValueError:
        raise FileError(path, str(number), "columns 15 to 40 must be hexadecimal ids or empty") from None
    return float(cells[0]), values


def parse(lines: Sequence[str], path: Path | str, first: int, bad: BadRows) -> tuple[Tensor, Tensor]:
    """Ids [n, FIELDS] and labels [n] of the good rows of `lines`, which begin at line `first` of the file; `bad` takes
    the others, and raises FileError where it has too many."""
    labels, values = [], []
    for number, line in enumerate(lines, start=first):
        try:
            label, row = _row(line, path, number)
        except FileError as error:
            bad.add(error, line)
            continue
        labels.append(label)
        values.append(row)
    raw = torch.tensor(values, dtype=torch.int64).view(-1, FIELDS)
    return feature_id(torch.arange(FIELDS), raw), torch.tensor(labels, dtype=torch.float32)


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
