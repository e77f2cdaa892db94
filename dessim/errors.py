"""All exceptions that dessim raises on purpose.

    DessimError                 base; `exit_code` 1
    ├── UsageError              the command line asks for something impossible; exit 2
    ├── UnitError               a quantity without a unit, or with the wrong one
    ├── FileError               a file that does not have the expected content
    │   ├── ClusterError        a topology or parts file
    │   ├── ModelError          a model file
    │   └── TraceError          a trace folder
    ├── FormulaError            a size formula that does not parse or evaluate
    ├── SimulationError         the simulated system cannot continue
    │   ├── DeadlockError       ranks wait for each other; the message names them
    │   └── PhysicsError        a conservation or capacity check failed: a bug in dessim
    ├── LabError                the lab cannot be built or used on this machine
    ├── OutOfTime               the budget of wall-clock time is spent; carries the partial result
    ├── CapacityError           the job does not fit the cluster or its memory; exit 2
    └── CheckFailed             a check ran and failed; exit 3

A message is one line that says what is wrong, where (file and key or line), and what to write instead.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
"""Characters that control a terminal, except tab and newline; other line separators; surrogates."""
_LONGEST_LINE = 2000
"""Characters of a message; a longer one quotes much of a file."""


def is_printable(text: str) -> bool:
    """Whether a terminal shows every character of `text` and obeys none; tabs and newlines are fine."""
    return _CONTROLS.search(text) is None


def printable(text: str) -> str:
    """`text` with escapes, such as \\x1b, in place of the characters that control a terminal."""
    return _CONTROLS.sub(lambda found: ascii(found[0])[1:-1], text)


def one_line(error: object) -> str:
    """The message of an error as one line that is safe on a terminal; the middle of a very long one is left out."""
    line = printable(" ".join(str(error).split()))
    left_out = len(line) - _LONGEST_LINE
    if left_out <= 0:
        return line
    half = _LONGEST_LINE // 2
    return f"{line[:half]} [{left_out:,} characters left out] {line[-half:]}"


class DessimError(Exception):
    """Base of all errors that a user can cause or needs to know about."""

    exit_code = 1


class UsageError(DessimError):
    """A command line or a call asks for something impossible."""

    exit_code = 2


class UnitError(DessimError):
    """A quantity lacks its unit, or has one of the wrong kind."""


class FileError(DessimError):
    """A file does not have the expected content.

    `path` is the file, `where` is the key path or line in it (maybe empty), and `problem` says what is wrong and what
    to write instead.
    """

    def __init__(self, path: str | Path, where: str, problem: str) -> None:
        self.path = str(path)
        self.where = where
        self.problem = problem
        super().__init__(f"{path}{':' if where else ''}{where}: {problem}")


class ClusterError(FileError):
    """A topology or parts file is wrong."""


class ModelError(FileError):
    """A model file is wrong."""


class TraceError(FileError):
    """A trace folder is wrong."""


class FormulaError(DessimError):
    """A size formula does not parse, names an unknown symbol, or does not evaluate."""


class SimulationError(DessimError):
    """The simulated system cannot continue."""


class DeadlockError(SimulationError):
    """Ranks wait for each other; the message names each waiting rank, its op, and the ranks it waits for."""


class PhysicsError(SimulationError):
    """A conservation or capacity check failed, which is a bug in dessim; please report it."""


class LabError(DessimError):
    """The lab cannot be built or used on this machine: programs or privileges are missing, or the kernel refused."""


class OutOfTime(DessimError):
    """The budget of wall-clock time was spent before the work was done.

    `line` is the message. `so_far` describes the progress in plain values with units in the keys, among them
    `share_done` from 0 to 1.
    """

    def __init__(self, line: str, so_far: Mapping[str, float]) -> None:
        self.line = line
        self.so_far = dict(so_far)
        super().__init__(line, so_far)  # all arguments, because simpy copies an exception from them

    def __str__(self) -> str:
        return self.line


class CapacityError(DessimError):
    """The job does not fit the cluster or its memory."""

    exit_code = 2


class CheckFailed(DessimError):
    """A check ran to completion and failed."""

    exit_code = 3
