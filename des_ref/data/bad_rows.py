"""Rows of a file that are not as they should be: counted, shown, and no more than so many borne."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from dessim.errors import FileError
from dessim.files import write_text

SHOWN = 1000


@dataclass(slots=True)
class BadRows:
    """Up to `most` are left out. The first SHOWN of them go into `sample`, a TSV file of line number, what is wrong and
    the row as a Python literal; nowhere without one."""

    most: int = 0
    sample: Path | None = None
    count: int = 0
    shown: list[tuple[str, str, str]] = field(default_factory=list)

    def add(self, error: FileError, row: str) -> None:
        """Leave out a row. Raises `error`, and says how many there may be, where it is one too many."""
        self.count += 1
        if self.count <= SHOWN:
            self.shown.append((error.where, error.problem, ascii(row.rstrip("\r\n"))))
        if self.count > self.most:
            self.write()
            told = f" ({self.sample} has those so far)" if self.most and self.sample is not None else ""
            many = f"bad row {self.count} where data.max_bad_rows (--max-bad-rows) is {self.most}{told}"
            raise FileError(error.path, error.where, f"{error.problem}; {many}")

    def write(self) -> None:
        """The sample, where there is something to show. Raises FileError."""
        if self.sample is None or not self.shown or not self.most:
            return
        try:
            write_text(self.sample, "".join("\t".join(line) + "\n" for line in self.shown))
        except OSError as error:
            raise FileError(self.sample, "", f"cannot be written: {error.strerror}") from None
