"""Chooses the reader of a log by the extensions of its files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from dessim.errors import FileError, UsageError, is_printable, printable
from dessim.workload.id_logs import criteo, parquet
from dessim.workload.id_logs.columns import Column

_CRITEO = ("", ".txt", ".tsv")
_PARQUET = ".parquet"


@dataclass(frozen=True, slots=True)
class IdLog:
    """A click log: the names of its tables, and an iterator of their columns in consecutive samples."""

    names: tuple[str, ...]
    parts: Iterator[tuple[Column, ...]]


def open_log(paths: Sequence[Path]) -> IdLog:
    """The files as one log, in the given order. Nothing but the schema of Parquet is read yet.

    Raises UsageError for an unknown extension, files of both formats, or a lack of pyarrow, and FileError for a missing
    file or different tables.
    """
    formats = {_is_parquet(path) for path in paths}
    for path in paths:
        if not path.is_file():
            raise FileError(path, "", "no such file")
    if len(formats) > 1:
        raise UsageError("the files of a log must have one format: all Parquet, or all Criteo's lines")
    if formats == {False}:
        return IdLog(criteo.NAMES, (part for path in paths for part in criteo.read(path)))
    tables = parquet.names(paths[0])
    for name in tables:
        if not is_printable(name):
            raise FileError(paths[0], "", f"the name {printable(name)!r} of a column has control characters")
    for path in paths[1:]:
        if (own := parquet.names(path)) != tables:
            raise FileError(path, "", f"tables {', '.join(own)} instead of {', '.join(tables)} as in {paths[0]}")
    return IdLog(tables, (part for path in paths for part in parquet.read(path, tables)))


def _is_parquet(path: Path) -> bool:
    if path.suffix == _PARQUET:
        return True
    inner = Path(path.stem).suffix if path.suffix == ".gz" else path.suffix
    if inner not in _CRITEO:
        raise UsageError(
            f"{path}: unknown extension {inner!r}; use .parquet, or .tsv, .txt or none for Criteo's lines, also .gz"
        )
    return False
