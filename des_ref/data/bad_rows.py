"""Malformed rows of a file: counted, listed, and left out up to a limit."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from dessim.errors import FileError
from dessim.files import write_text

MAX_SHOWN = 1000


@dataclass(slots=True)
class BadRows:
    """Counts malformed rows, of which up to `limit` are left out.

    The first MAX_SHOWN are listed in `sample`, a TSV file: line number, problem, and the row as a Python literal.
    None: no list is written.
    """

    limit: int = 0
    sample: Path | None = None
    count: int = 0
    shown: list[tuple[str, str, str]] = field(default_factory=list)

    def add(self, error: FileError, row: str) -> None:
        """Leave out a row. Raises `error`, with the limit added to its problem, where the row exceeds the limit."""
        self.count += 1
        if self.count <= MAX_SHOWN:
            self.shown.append((error.where, error.problem, ascii(row.rstrip("\r\n"))))
        if self.count > self.limit:
            self.write()
            listed = f" (listed in {self.sample})" if self.limit and self.sample is not None else ""
            excess = f"bad row {self.count} exceeds data.max_bad_rows (--max-bad-rows) = {self.limit}{listed}"
            raise FileError(error.path, error.where, f"{error.problem}; {excess}")

    def write(self) -> None:
        """Write the list, if there is anything to list. Raises FileError."""
        if self.sample is None or not self.shown or not self.limit:
            return
        try:
            write_text(self.sample, "".join("\t".join(line) + "\n" for line in self.shown))
        except OSError as error:
            raise FileError(self.sample, "", f"cannot be written: {error.strerror}") from None
