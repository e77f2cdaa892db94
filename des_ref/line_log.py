"""A log of JSON lines. A resumed run continues the log of the run before it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from dessim.errors import FileError
from dessim.files import is_written_through, write_text


class LineLog:
    """An open log.

    `keep` selects the lines of an existing log that are kept; None: start an empty log. A named pipe or a device gets
    the new lines only. Raises FileError as soon as the log cannot be written.
    """

    def __init__(self, path: Path, keep: Callable[[list[str]], list[str]] | None) -> None:
        self._path = path
        try:
            if not is_written_through(path):
                lines = path.read_text("utf-8").splitlines(keepends=True) if keep is not None and path.exists() else []
                # A full disk may have cut the last line short.
                complete = [line for line in lines if line.endswith("\n")]
                write_text(path, "".join(keep(complete) if keep is not None else []))
            self._file: IO[str] = path.open("a", encoding="utf-8", buffering=1)
        except OSError as error:
            raise self._problem(error) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def add(self, line: Mapping[str, Any]) -> None:
        """Append a line. Raises FileError."""
        try:
            self._file.write(json.dumps(line) + "\n")
        except OSError as error:
            raise self._problem(error) from None

    def close(self) -> None:
        with suppress(OSError):  # closing retries a failed write, which `add` has reported already
            self._file.close()

    def _problem(self, error: OSError) -> FileError:
        return FileError(self._path, "", f"cannot be written: {error.strerror}")
