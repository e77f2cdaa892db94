"""Reads Parquet with pyarrow, an optional dependency: integer, string and list columns are tables.

The columns label and click are skipped, and so are columns of other types, such as floats. A list holds any number of
ids of a sample. A missing value is a separate id; a missing list has no ids.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from dessim.cluster.hashing import Hashes
from dessim.errors import FileError, UsageError
from dessim.workload.id_logs.columns import Column, hash_cells, hash_integers

LABELS = ("label", "click")

_SAMPLES = 1 << 15  # read at once
_MISSING = 0x5851F42D4C957F2D  # hash of a missing value


def names(path: Path) -> tuple[str, ...]:
    """The names of the columns that are tables. Raises UsageError without pyarrow, FileError for another file."""
    arrow = _pyarrow(path)
    schema = _opened(path).schema_arrow
    tables = tuple(f.name for f in schema if f.name.lower() not in LABELS and _is_table(arrow, f.type))
    if not tables:
        raise FileError(path, "", "no column of integers, strings or lists of them; those are read as tables")
    return tables


def read(path: Path, tables: tuple[str, ...]) -> Iterator[tuple[Column, ...]]:
    """The columns `tables` of a file, several thousand samples at a time. Raises UsageError and FileError."""
    arrow = _pyarrow(path)
    try:
        for batch in _opened(path).iter_batches(batch_size=_SAMPLES, columns=list(tables)):
            yield tuple(_column(arrow, batch.column(name)) for name in tables)
    except (arrow.ArrowException, OSError) as error:
        raise FileError(path, "", f"not Parquet that can be read: {_line(error)}") from None


def _pyarrow(path: Path) -> Any:
    try:
        import_module("pyarrow.parquet")
        return import_module("pyarrow")
    except ImportError:
        raise UsageError(f"{path}: Parquet needs pyarrow; pip install pyarrow") from None


def _opened(path: Path) -> Any:
    arrow = _pyarrow(path)
    try:
        return import_module("pyarrow.parquet").ParquetFile(path)
    except (arrow.ArrowException, OSError) as error:
        raise FileError(path, "", f"not Parquet that can be read: {_line(error)}") from None


def _line(error: Exception) -> str:
    return str(error).partition("\n")[0]


def _is_table(arrow: Any, kind: Any) -> bool:
    types = arrow.types
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        return _is_id(arrow, kind.value_type)
    return _is_id(arrow, kind)


def _is_id(arrow: Any, kind: Any) -> bool:
    types = arrow.types
    if types.is_dictionary(kind):
        kind = kind.value_type
    return bool(types.is_integer(kind) or types.is_string(kind) or types.is_large_string(kind))


def _column(arrow: Any, array: Any) -> Column:
    if not hasattr(array.type, "value_type") or arrow.types.is_dictionary(array.type):
        return Column(_hashes(arrow, array))
    lengths = import_module("pyarrow.compute").list_value_length(array).fill_null(0)
    return Column(_hashes(arrow, array.flatten()), lengths.to_numpy(zero_copy_only=False).astype(np.int64))


def _hashes(arrow: Any, array: Any) -> Hashes:
    """A hash of each value of an array of integers or strings."""
    if arrow.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    if arrow.types.is_integer(array.type):
        hashes = hash_integers(array.fill_null(0).to_numpy(zero_copy_only=False))
    else:
        hashes = _text_hashes(array.fill_null("").cast(arrow.large_binary()))
    if array.null_count:
        hashes = np.where(array.is_valid().to_numpy(zero_copy_only=False), hashes, np.uint64(_MISSING))
    return hashes


def _text_hashes(array: Any) -> Hashes:
    """A hash of each value of an array of binary values with 64-bit offsets."""
    _, offsets, data = array.buffers()
    edges = np.frombuffer(offsets, np.int64)[array.offset : array.offset + len(array) + 1]
    text = np.frombuffer(data, np.uint8) if data is not None else np.empty(0, np.uint8)
    return hash_cells(np.concatenate([text, np.zeros(8, np.uint8)]), edges[:-1], np.diff(edges))
