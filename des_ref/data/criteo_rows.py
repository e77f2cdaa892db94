"""Lines of Criteo's format to samples: many at once, and one by one where a line is unusual.

A line has a label, 13 integers and 26 hexadecimal ids, separated by tabs; any feature may be empty. An empty id is a
separate id. What becomes of integers depends on the model (`Integers`):

    39 fields              categories, as in the winning solution of Kaggle's Display Advertising Challenge (2014, 3
                           Idiots): floor(ln(x)**2) for x > 2, and x itself below; an empty cell is a separate category
    26 fields, [dense]     dense features ln(1 + x), as in DLRM (Naumov et al., 2019); a negative or empty x counts as 0
    26 fields              they are left out

`one_by_one` defines the meaning of a line, and what is wrong with a malformed one. `parse` reads usual lines without a
loop: those whose integers have at most MAX_DIGITS characters and whose ids have at most MAX_NIBBLES digits. It leaves
all others to `one_by_one`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from enum import Enum, auto
from functools import cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from des_ref.data.bad_rows import BadRows
from des_ref.hashing import feature_id, text_key
from dessim.errors import FileError, UsageError
from dessim.workload.model import Model

INTEGERS = 13
CATEGORIES = 26
FIELDS = INTEGERS + CATEGORIES
COLUMNS = 1 + FIELDS
MISSING = text_key("missing")
MAX_DIGITS = 9
MAX_NIBBLES = 8
_LARGEST = (1 << 63) - 1

_TAB, _NEWLINE, _MINUS, _ZERO = (ord(character) for character in "\t\n-0")
_NO_NIBBLE = 255  # value of a character that is not a hexadecimal digit
_NIBBLES = np.full(256, _NO_NIBBLE, np.uint8)  # character -> value
for _value, _digits in enumerate(
    ("0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "aA", "bB", "cC", "dD", "eE", "fF")
):
    _NIBBLES[[ord(_digit) for _digit in _digits]] = _value

Ints = NDArray[np.int64]
Chars = NDArray[np.uint8]
Bools = NDArray[np.bool_]


class Integers(Enum):
    """The use that a model makes of the integers of a line."""

    IDS = auto()
    DENSE = auto()
    UNUSED = auto()

    @classmethod
    def of(cls, model: Model, data: str) -> Integers:
        """The choice that fits `model`. Raises UsageError, which names the samples `data`, where none does."""
        fields = model.input.fields
        dense = model.dense_features
        if dense and (fields, dense) != (CATEGORIES, INTEGERS):
            raise UsageError(
                f"model {model.name} has input.fields = {fields} and dense.features = {dense}, but {data} has "
                f"{CATEGORIES} fields beside {INTEGERS} integers; try --model criteo_1tb"
            )
        if fields not in (FIELDS, CATEGORIES):
            raise UsageError(
                f"model {model.name} has input.fields = {fields}, but {data} has {FIELDS} fields, or {CATEGORIES} "
                "without its integers; try --model deepfm"
            )
        return cls.DENSE if dense else cls.IDS if fields == FIELDS else cls.UNUSED

    @property
    def fields(self) -> int:
        """Fields of a sample."""
        return FIELDS if self is Integers.IDS else CATEGORIES

    @property
    def dense_features(self) -> int:
        """Dense features of a sample."""
        return INTEGERS if self is Integers.DENSE else 0


def parse(
    lines: Sequence[bytes], path: Path | str, first: int, bad: BadRows, integers: Integers = Integers.IDS
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Ids [n, F], labels [n] and dense features float32 [n, 13], if any, of the good rows of `lines`.

    A line includes its newline. `first` is the number of the first line in the file. `bad` collects malformed rows.
    Raises FileError where `bad` exceeds its limit.
    """
    values = np.empty((len(lines), FIELDS), np.int64)
    counts = np.empty((len(lines), INTEGERS), np.int64)
    labels = np.empty(len(lines), np.float32)
    is_done = _at_once(lines, values, counts, labels)
    is_good = np.ones(len(lines), bool)
    for i in np.flatnonzero(~is_done).tolist():
        try:
            labels[i], values[i], counts[i] = one_by_one(lines[i], path, first + i)
        except FileError as error:
            bad.add(error, lines[i].decode("ascii", "surrogateescape"))
            is_good[i] = False
    if not is_good.all():
        values, counts, labels = values[is_good], counts[is_good], labels[is_good]
    raw = values[:, FIELDS - integers.fields :]
    ids = feature_id(torch.arange(integers.fields), torch.from_numpy(raw))
    dense = torch.from_numpy(np.log1p(counts).astype(np.float32)) if integers is Integers.DENSE else None
    return ids, torch.from_numpy(labels), dense


def one_by_one(line: bytes, path: Path | str, number: int) -> tuple[float, list[int], list[int]]:
    """Label, raw values, and integers as counts: 0 where they are negative or empty. Raises FileError."""
    if not line.isascii():
        raise FileError(path, str(number), "has bytes that are not ASCII")
    cells = line.decode("ascii").rstrip("\r\n").split("\t")
    if len(cells) != COLUMNS:
        expected = f"label, {INTEGERS} integers, {CATEGORIES} ids, tab-separated, no header"
        raise FileError(path, str(number), f"{len(cells)} columns instead of {COLUMNS} ({expected})")
    if cells[0] not in ("0", "1"):
        raise FileError(path, str(number), f"label {cells[0]!r} must be 0 or 1 (a header line is not allowed)")
    try:
        numbers = [int(text) if text else None for text in cells[1 : 1 + INTEGERS]]
        values = [MISSING if x is None else _category(x) for x in numbers]
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
    return float(cells[0]), values, [min(max(x or 0, 0), _LARGEST) for x in numbers]


def _category(value: int) -> int:
    return math.floor(math.log(value) ** 2) if value > 2 else value


# -- many at once -----------------------------------------------------------------------------------------------------


def _at_once(lines: Sequence[bytes], values: Ints, counts: Ints, labels: NDArray[np.float32]) -> Bools:
    """Fill in `values`, `counts` and `labels` of the usual lines; returns which those are, bool [n]."""
    text = np.frombuffer(b"".join(lines), np.uint8)
    lengths = np.fromiter(map(len, lines), np.int64, len(lines))
    ends = lengths.cumsum() - 1  # position of each line's newline
    tabs = np.flatnonzero(text == _TAB)
    tabs_before = np.searchsorted(tabs, ends - lengths + 1)  # tabs before each line
    has_columns = np.searchsorted(tabs, ends) - tabs_before == COLUMNS - 1
    rows = np.flatnonzero((text[ends] == _NEWLINE) & has_columns)
    # [rows, COLUMNS] where cells end: at the tabs of their row and at its newline.
    stops = np.concatenate([tabs[tabs_before[rows, None] + np.arange(COLUMNS - 1)], ends[rows, None]], axis=1)
    starts = (ends - lengths + 1)[rows, None]
    sizes = np.diff(stops, axis=1, prepend=starts - 1) - 1
    label = text[starts[:, 0]] - np.uint8(_ZERO)
    integers, are_integers = _integers(text, stops[:, 1 : 1 + INTEGERS], sizes[:, 1 : 1 + INTEGERS])
    ids, are_ids = _ids(text, stops[:, 1 + INTEGERS :], sizes[:, 1 + INTEGERS :])
    is_usual = (sizes[:, 0] == 1) & (label <= 1) & are_integers & are_ids
    usual_rows = rows[is_usual]
    labels[usual_rows] = label[is_usual]
    values[usual_rows, :INTEGERS] = _categories(integers, sizes[:, 1 : 1 + INTEGERS] == 0)[is_usual]
    counts[usual_rows] = np.maximum(integers, 0)[is_usual]
    values[usual_rows, INTEGERS:] = ids[is_usual]
    is_done = np.zeros(len(lines), bool)
    is_done[usual_rows] = True
    return is_done


def _integers(text: Chars, stops: Ints, sizes: Ints) -> tuple[Ints, Bools]:
    """The integers [n, c] that end before `stops`, 0 for empty cells, and whether all of a row's could be read [n]."""
    is_negative = (sizes > 0) & (text[stops - sizes] == _MINUS)
    digits = sizes - is_negative
    value = np.zeros(stops.shape, np.int64)
    is_good = (sizes <= MAX_DIGITS) & ((digits > 0) | (sizes == 0))
    for k in range(min(MAX_DIGITS, int(digits.max(initial=0)))):
        has_digit = k < digits
        digit = text[stops - 1 - k] - np.uint8(_ZERO)  # characters below "0" wrap to values above 9
        is_good &= ~has_digit | (digit <= 9)
        value += np.where(has_digit, digit, 0).astype(np.int64) * 10**k
    return np.where(is_negative, -value, value), is_good.all(axis=1)


def _categories(integers: Ints, is_empty: Bools) -> Ints:
    """Raw values of integers."""
    values = np.where(integers > 2, np.searchsorted(_smallest_of_categories(), integers, "right"), integers)
    return np.where(is_empty, MISSING, values)


def _ids(text: Chars, stops: Ints, sizes: Ints) -> tuple[Ints, Bools]:
    """Raw values of the hexadecimal cells [n, c], and whether all of a row's could be read [n]."""
    value = np.zeros(stops.shape, np.int64)
    is_good = sizes <= MAX_NIBBLES
    for k in range(min(MAX_NIBBLES, int(sizes.max(initial=0)))):
        has_digit = k < sizes
        nibble = _NIBBLES[text[stops - 1 - k]]
        is_good &= ~has_digit | (nibble != _NO_NIBBLE)
        value |= np.where(has_digit, nibble, 0).astype(np.int64) << (4 * k)
    return np.where(sizes == 0, MISSING, value), is_good.all(axis=1)


@cache
def _smallest_of_categories() -> Ints:
    """The smallest integer above 2 in category 1 or higher, 2 or higher, ...

    Found by bisection with the formula itself, so that `parse` and `one_by_one` agree however logarithms are rounded.
    """
    smallest = []
    end = 10**MAX_DIGITS
    for category in range(1, _category(end) + 1):
        low = 3
        high = end
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if _category(middle) >= category else (middle + 1, high)
        smallest.append(low)
    return np.array(smallest, np.int64)
