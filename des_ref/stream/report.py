"""Reports of a run on a stream: a line on the terminal, a JSON line in a log, and events for TensorBoard.

A report is one flat dictionary of numbers, the same in all three. On a terminal the line is rewritten in place, at most
twice a second; elsewhere each report is a new line.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from des_ref.line_log import LineLog
from dessim.errors import FileError, UsageError
from dessim.units import format_count, format_size

Report = Mapping[str, Any]

_REWRITE_EVERY_S = 0.5


class Reports:
    """Writes the reports of one run.

    `step` is the step that the run resumes from; reports of later steps are removed from the log. Raises FileError.
    """

    def __init__(self, log: Path | None, tensorboard: Path | None, step: int, screen: IO[str] = sys.stderr) -> None:
        self._log = _open_log(log, step) if log is not None else None
        self._events = _open_events(tensorboard, step) if tensorboard is not None else None
        self._screen = screen
        self._is_terminal = screen.isatty()
        self._shown_at = 0.0
        self._last: dict[str, Any] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._is_terminal and self._shown_at:
            self._screen.write("\n")
        if self._log is not None:
            self._log.close()
        if self._events is not None:
            with suppress(OSError):  # closing retries a failed write, which `give` has reported already
                self._events.close()

    def give(self, report: Report) -> None:
        """Show and write a report. Raises FileError where it cannot be written."""
        self._last = dict(report)
        self._show(line_of(report))
        if self._log is not None:
            self._log.add(report)
        if self._events is not None:
            try:
                for name, value in report.items():
                    if name not in ("step", "position") and value is not None:
                        self._events.add_scalar(f"stream/{name}", value, report["step"])
                self._events.flush()
            except OSError as error:
                raise FileError(self._events.log_dir, "", f"cannot be written: {error.strerror}") from None

    def tick(self, step: int, rows: int, rows_per_s: float) -> None:
        """Between two reports, update the progress on the terminal's line."""
        if self._is_terminal and self._last and time.monotonic() - self._shown_at >= _REWRITE_EVERY_S:
            ids_per_s = self._last["ids_per_s"] / self._last["rows_per_s"] * rows_per_s
            update = {"step": step, "rows": rows, "rows_per_s": rows_per_s, "ids_per_s": ids_per_s}
            self._show(line_of(self._last | update))

    def _show(self, line: str) -> None:
        self._screen.write(f"\r\x1b[K{line}" if self._is_terminal else f"{line}\n")
        self._screen.flush()
        self._shown_at = time.monotonic()


def line_of(report: Report) -> str:
    """A report in one line, for people."""
    auc = "undefined" if report["auc"] is None else f"{report['auc']:.4f}"
    parts = [
        f"step {report['step']:,}",
        f"{format_count(report['rows'])} rows",
        f"{format_count(report['rows_per_s'], 3)} rows/s",
        f"{format_count(report['ids_per_s'], 3)} ids/s",
        f"AUC {auc}",
        f"log loss {report['logloss']:.4f}",
        f"table {format_count(report['table_rows'], 3)} rows",
        format_size(report["memory_bytes"], 3),
        f"{report['batches_ahead']} batches ahead",
    ]
    return "  ".join(parts)


def _open_log(path: Path, step: int) -> LineLog:
    """The log, with the lines of steps up to `step`. Raises FileError where the file is another one."""

    def keep(lines: list[str]) -> list[str]:
        return [line for line in lines if json.loads(line)["step"] <= step]

    try:
        return LineLog(path, keep if step else None)
    except (ValueError, KeyError, TypeError):
        raise FileError(path, "", "exists and is not a log of reports: name another file") from None


def check_tensorboard() -> None:
    """Raises UsageError where the package tensorboard is missing."""
    if find_spec("tensorboard") is None:
        need = "--tensorboard (stream.tensorboard) needs the package tensorboard"
        raise UsageError(f"{need}: pip install 'dessim[tensorboard]'")


def _open_events(folder: Path, step: int) -> Any:
    check_tensorboard()
    from torch.utils.tensorboard import SummaryWriter

    try:
        # TensorBoard hides events of later steps, which a killed run has left.
        return SummaryWriter(str(folder), purge_step=step + 1 if step else None)
    except OSError as error:
        raise FileError(folder, "", f"cannot be written: {error.strerror}") from None
