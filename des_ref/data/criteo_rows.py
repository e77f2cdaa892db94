"""Lines of Criteo's format to ids: many at once, and one by one where a line is not as nearly all of them are.

A line: label, 13 integers, 26 hexadecimal ids, tabs, no header; any feature may be empty. Integers become categories as
the winners of Kaggle's Display Advertising Challenge (2014) made them (3 Idiots): floor(ln(x)**2) for x > 2, x itself
below; an empty cell is an id of its own.

`one_by_one` says what a line means, and what is wrong with it. `parse` reads those lines without a loop whose integers
have at most MOST_DIGITS characters and whose ids have at most MOST_NIBBLES digits, and leaves the others to it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from des_ref.data.bad_rows import BadRows
from des_ref.hashing import feature_id, text_key
from dessim.errors import FileError

INTEGERS, CATEGORIES = 13, 26
FIELDS = INTEGERS + CATEGORIES
COLUMNS = 1 + FIELDS
MISSING = text_key("missing")
MOST_DIGITS, MOST_NIBBLES = 9, 8

_TAB, _NEWLINE, _MINUS, _ZERO = (ord(character) for character in "\t\n-0")
_NOTHING = 255  # of a character that is no hexadecimal digit
_NIBBLES = np.full(256, _NOTHING, np.uint8)
for _value, _digits in enumerate(
    ("0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "aA", "bB", "cC", "dD", "eE", "fF")
):
    _NIBBLES[[ord(_digit) for _digit in _digits]] = _value

Ints = NDArray[np.int64]
Chars = NDArray[np.uint8]
Bools = NDArray[np.bool_]


def parse(lines: Sequence[bytes], path: Path | str, first: int, bad: BadRows) -> tuple[Tensor, Tensor]:
    """Ids [n, FIELDS] and labels [n] of the good rows of `lines`, each with its newline, the first of which is line
    `first` of the file; `bad` takes the others, and raises FileError where it has too many."""
    values, labels = np.empty((len(lines), FIELDS), np.int64), np.empty(len(lines), np.float32)
    is_done = _at_once(lines, values, labels)
    is_good = np.ones(len(lines), bool)
    for at in np.flatnonzero(~is_done).tolist():
        try:
            labels[at], values[at] = one_by_one(lines[at], path, first + at)
        except FileError as error:
            bad.add(error, lines[at].decode("ascii", "surrogateescape"))
            is_good[at] = False
    if not is_good.all():
        values, labels = values[is_good], labels[is_good]
    return feature_id(torch.arange(FIELDS), torch.from_numpy(values)), torch.from_numpy(labels)


def one_by_one(line: bytes, path: Path | str, number: int) -> tuple[float, list[int]]:
    """Label and raw values of a row. Raises FileError."""
    if not line.isascii():
        raise FileError(path, str(number), "has bytes that are not ASCII")
    cells = line.decode("ascii").rstrip("\r\n").split("\t")
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


def _integer(text: str) -> int:
    return _category(int(text)) if text else MISSING


def _category(value: int) -> int:
    return math.floor(math.log(value) ** 2) if value > 2 else value


# -- many at once -----------------------------------------------------------------------------------------------------


def _at_once(lines: Sequence[bytes], values: Ints, labels: NDArray[np.float32]) -> Bools:
    """Fill in the rows that can be read so; which they are, bool [n]."""
    text = np.frombuffer(b"".join(lines), np.uint8)
    lengths = np.fromiter(map(len, lines), np.int64, len(lines))
    ends = lengths.cumsum() - 1  # where the newline of each line is
    tabs = np.flatnonzero(text == _TAB)
    before = np.searchsorted(tabs, ends - lengths + 1)  # tabs before each line
    rows = np.flatnonzero((text[ends] == _NEWLINE) & (np.searchsorted(tabs, ends) - before == COLUMNS - 1))
    # [rows, COLUMNS], where cells end: at the tabs of their row and at its newline.
    stops = np.concatenate([tabs[before[rows, None] + np.arange(COLUMNS - 1)], ends[rows, None]], axis=1)
    first = (ends - lengths + 1)[rows, None]
    sizes = np.diff(stops, axis=1, prepend=first - 1) - 1
    label = text[first[:, 0]] - np.uint8(_ZERO)
    integers, are_integers = _integers(text, stops[:, 1 : 1 + INTEGERS], sizes[:, 1 : 1 + INTEGERS])
    ids, are_ids = _ids(text, stops[:, 1 + INTEGERS :], sizes[:, 1 + INTEGERS :])
    good = (sizes[:, 0] == 1) & (label <= 1) & are_integers & are_ids
    kept = rows[good]
    labels[kept], values[kept, :INTEGERS], values[kept, INTEGERS:] = label[good], integers[good], ids[good]
    is_done = np.zeros(len(lines), bool)
    is_done[kept] = True
    return is_done


def _integers(text: Chars, stops: Ints, sizes: Ints) -> tuple[Ints, Bools]:
    """Raw values of cells [n, c] that end before `stops`, and of which rows all could be read."""
    is_negative = (sizes > 0) & (text[stops - sizes] == _MINUS)
    digits = sizes - is_negative
    value, is_good = np.zeros(stops.shape, np.int64), (sizes <= MOST_DIGITS) & ((digits > 0) | (sizes == 0))
    for k in range(min(MOST_DIGITS, int(digits.max(initial=0)))):
        there = k < digits
        digit = text[stops - 1 - k] - np.uint8(_ZERO)  # what is below 0 wraps, so it is above 9
        is_good &= ~there | (digit <= 9)
        value += np.where(there, digit, 0).astype(np.int64) * 10**k
    value = np.where(is_negative, -value, value)
    value = np.where(value > 2, np.searchsorted(_smallest_of_categories(), value, "right"), value)
    return np.where(sizes == 0, MISSING, value), is_good.all(axis=1)


def _ids(text: Chars, stops: Ints, sizes: Ints) -> tuple[Ints, Bools]:
    """The same of hexadecimal cells."""
    value, is_good = np.zeros(stops.shape, np.int64), sizes <= MOST_NIBBLES
    for k in range(min(MOST_NIBBLES, int(sizes.max(initial=0)))):
        there = k < sizes
        nibble = _NIBBLES[text[stops - 1 - k]]
        is_good &= ~there | (nibble != _NOTHING)
        value |= np.where(there, nibble, 0).astype(np.int64) << (4 * k)
    return np.where(sizes == 0, MISSING, value), is_good.all(axis=1)


@cache
def _smallest_of_categories() -> Ints:
    """The smallest integer above 2 of category 1 or more, 2 or more, ...: by the formula itself, so that a logarithm
    that is rounded another way elsewhere cannot matter."""
    smallest, end = [], 10**MOST_DIGITS
    for category in range(1, _category(end) + 1):
        low, high = 3, end
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if _category(middle) >= category else (middle + 1, high)
        smallest.append(low)
    return np.array(smallest, np.int64)
