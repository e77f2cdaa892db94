"""Reads Criteo's lines: a label, 13 integers and 26 hexadecimal ids, separated by tabs. Only the ids are tables.

A block of bytes is read without a loop over its lines. A cell counts by its bytes; an empty cell is a separate id.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np

from dessim.arrays import Ints
from dessim.errors import FileError
from dessim.workload.id_logs.columns import Bytes, Column, hash_cells

NAMES = tuple(f"C{number}" for number in range(1, 27))
INTEGERS = 13
COLUMNS = 1 + INTEGERS + len(NAMES)

_READ_BYTES = 1 << 22
_PADDING = bytes(8)  # hash_cells reads words of eight bytes
_TAB, _NEWLINE, _RETURN, _ZERO, _ONE = (ord(character) for character in "\t\n\r01")
_EXPECTED = f"{COLUMNS} (label, {INTEGERS} integers, {len(NAMES)} ids, tab-separated)"


def read(path: Path) -> Iterator[tuple[Column, ...]]:
    """The columns C1 to C26 of a file, several thousand samples at a time; a name ending in .gz is decompressed.

    Raises FileError with the number of the line for a line that does not have 40 columns or whose label is not 0 or 1.
    """
    rest = b""
    first = 1
    try:
        with _opened(path) as file:
            while block := file.read(_READ_BYTES):
                whole, newline, rest = (rest + block).rpartition(b"\n")
                if newline:
                    columns = _parsed(whole + newline, path, first)
                    yield columns
                    first += columns[0].samples
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise FileError(path, "", f"cannot be decompressed: {error}") from None
    if rest:
        yield _last_line(rest, path, first)


def _opened(path: Path) -> gzip.GzipFile | IO[bytes]:
    return gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb")


def _last_line(line: bytes, path: Path, number: int) -> tuple[Column, ...]:
    """The columns of a last line without a newline."""
    columns = line.count(b"\t") + 1
    if columns < COLUMNS:
        raise FileError(path, str(number), f"the last line is torn: {columns} columns instead of {_EXPECTED}")
    return _parsed(line + b"\n", path, number)


def _parsed(lines: bytes, path: Path, first: int) -> tuple[Column, ...]:
    """The columns of complete lines, of which the first has the number `first`."""
    text = np.frombuffer(lines + _PADDING, np.uint8)
    stops = _stops(text[: len(lines)], path, first)
    starts = np.empty_like(stops)
    starts[:, 1:] = stops[:, :-1] + 1
    starts[0, 0] = 0
    starts[1:, 0] = stops[:-1, -1] + 1
    _check_labels(text, starts[:, 0], stops[:, 0], path, first)
    stops[:, -1] -= text[stops[:, -1] - 1] == _RETURN
    begin, end = (np.ascontiguousarray(cells[:, 1 + INTEGERS :].T) for cells in (starts, stops))
    return tuple(Column(hashes) for hashes in hash_cells(text, begin, end - begin))


def _stops(text: Bytes, path: Path, first: int) -> Ints:
    """The position of the separator after each cell [lines, COLUMNS]."""
    is_newline = text == _NEWLINE
    stops = np.flatnonzero(is_newline | (text == _TAB))
    lines = int(np.count_nonzero(is_newline))
    if len(stops) != lines * COLUMNS or not is_newline[stops[COLUMNS - 1 :: COLUMNS]].all():
        columns = np.diff(np.flatnonzero(is_newline[stops]), prepend=-1)
        wrong = int(np.flatnonzero(columns != COLUMNS)[0])
        raise FileError(path, str(first + wrong), f"{columns[wrong]} columns instead of {_EXPECTED}")
    return stops.reshape(lines, COLUMNS)


def _check_labels(text: Bytes, starts: Ints, stops: Ints, path: Path, first: int) -> None:
    labels = text[starts]
    is_good = (stops - starts == 1) & ((labels == _ZERO) | (labels == _ONE))
    if not is_good.all():
        wrong = int(np.flatnonzero(~is_good)[0])
        label = bytes(text[starts[wrong] : stops[wrong]][:40]).decode("utf-8", "replace")
        problem = f"label {label!r} must be 0 or 1 (a header line is not allowed)"
        raise FileError(path, str(first + wrong), problem)
