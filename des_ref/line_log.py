"""A log of JSON lines that a run appends to, and goes on with when it is resumed."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from dessim.errors import FileError
from dessim.files import write_text


class LineLog:
    """`keep`: picks the lines that stay of a log that is there; None: it starts anew.

    Raises FileError where the log cannot be written, as soon as it cannot.
    """

    def __init__(self, path: Path, keep: Callable[[list[str]], list[str]] | None) -> None:
        self._path = path
        try:
            there = path.read_text("utf-8").splitlines(keepends=True) if keep is not None and path.exists() else []
            # The last line may be torn, where the disk was full.
            whole = [line for line in there if line.endswith("\n")]
            write_text(path, "".join(keep(whole) if keep is not None else []))
            self._file: IO[str] = path.open("a", encoding="utf-8", buffering=1)
        except OSError as error:
            raise self._problem(error) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def add(self, line: Mapping[str, Any]) -> None:
        try:
            self._file.write(json.dumps(line) + "\n")
        except OSError as error:
            raise self._problem(error) from None

    def close(self) -> None:
        with suppress(OSError):  # tries again to write a line that could not be, which has been said
            self._file.close()

    def _problem(self, error: OSError) -> FileError:
        return FileError(self._path, "", f"cannot be written: {error.strerror}")
