"""The journal of a writer: one JSON line for each case that it has simulated, appended and never changed.

A kill or a full disk may leave a torn last line. It is left out when the journal is read, and cut off before the next
line is appended. A case that stands in several journals, or twice in one, counts once.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from dessim.errors import DessimError
from dessim.files import parse_json
from dessim.locks import release, take

SUFFIX = ".jsonl"
OK = "ok"
MISFIT = "does_not_fit"
FAILED = "failed"
STATUSES = (OK, MISFIT, FAILED)
Outcome = Mapping[str, Any]
"""The outcome of a case: `status`, one of STATUSES; `row`, the columns of the results; `ops`, seconds on the critical
path by op; `reason`, in words, of a case without times; `causes` and `least_step_s` of a case with an error bar and
with lower bounds (dessim.results.error_bar, dessim.commands.support.guard)."""
_SYNC_INTERVAL_S = 1.0


def journal_file(folder: Path, number: int, of: int) -> Path:
    """The journal of shard `number` `of` several in the folder of a sweep."""
    return folder / "journal" / f"{number}-of-{of}{SUFFIX}"


def read_journals(folder: Path) -> dict[str, Outcome]:
    """The outcomes in all journals of a folder, by key. A failure counts only where no other try succeeded."""
    outcomes: dict[str, Outcome] = {}
    for file in sorted((folder / "journal").glob(f"*{SUFFIX}")):
        with file.open("rb") as lines:
            for line in lines:
                entry = _entry(line)
                if entry is not None and (entry[0] not in outcomes or outcomes[entry[0]]["status"] == FAILED):
                    outcomes[entry[0]] = entry[1]
    return outcomes


def _entry(line: bytes) -> tuple[str, Outcome] | None:
    """The key and the outcome of a line; None for a torn line, and for zeros after a loss of power."""
    if not line.endswith(b"\n"):
        return None
    try:
        entry = parse_json(line.decode("utf-8"))
    except ValueError:
        return None
    if not isinstance(entry, dict) or not isinstance(entry.get("key"), str) or entry.get("status") not in STATUSES:
        return None
    if not isinstance(entry.get("row"), dict) or not isinstance(entry.get("ops"), dict):
        return None
    return entry["key"], {key: value for key, value in entry.items() if key != "key"}


class Journal:
    """A journal to append to, locked against a second writer; a context manager. Raises UsageError if it is locked."""

    def __init__(self, file: Path) -> None:
        self.path = file
        self._lock = file.with_suffix(".lock")
        self._handle = -1
        self._size = 0
        self._synced_at = 0.0

    def __enter__(self) -> Self:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        take(self._lock, f"{self.path}")
        try:
            self._handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
            self._size = self.path.read_bytes().rfind(b"\n") + 1
            os.ftruncate(self._handle, self._size)
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        handle, self._handle = self._handle, -1
        try:
            if handle >= 0:
                try:
                    os.fsync(handle)
                finally:
                    os.close(handle)
                    if not self._size:
                        self.path.unlink(missing_ok=True)
        finally:
            release(self._lock)

    def append(self, outcomes: Iterable[tuple[str, Outcome]]) -> None:
        """Append the outcomes of cases, by key. Raises DessimError where the disk is full; earlier lines stay."""
        text = "".join(
            json.dumps({"key": key, **outcome}, allow_nan=False, ensure_ascii=True, separators=(",", ":")) + "\n"
            for key, outcome in outcomes
        ).encode()
        try:
            self._write(text)
            if time.monotonic() - self._synced_at >= _SYNC_INTERVAL_S:
                os.fsync(self._handle)
                self._synced_at = time.monotonic()
        except OSError as error:
            os.ftruncate(self._handle, self._size)
            raise DessimError(
                f"{self.path}: {error.strerror}; the cases before are kept: make room, and run the same command again"
            ) from None
        self._size += len(text)

    def _write(self, text: bytes) -> None:
        written = 0
        while written < len(text):
            written += os.write(self._handle, text[written:])
