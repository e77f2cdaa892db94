"""Every exception dessim raises on purpose.

    DessimError                 base; `exit_code` 1
    ├── UsageError              the command line asks for something impossible; exit 2
    ├── UnitError               a quantity without a unit, or with the wrong one
    ├── FileError               a file that cannot be read as what it should be
    │   ├── ClusterError        a topology or parts file
    │   ├── ModelError          a model file
    │   └── TraceError          a trace folder
    ├── FormulaError            a size formula that does not parse or evaluate
    ├── SimulationError         the simulated system cannot go on
    │   ├── DeadlockError       ranks wait for each other; names who waits for whom
    │   └── PhysicsError        a guard broke: our own bug, never the user's
    ├── LabError                the lab cannot be built or used on this machine
    ├── OutOfTime               the budget of wall-clock time is spent; says what is known so far
    ├── CapacityError           it does not fit (cluster too small, memory too small); exit 2
    └── CheckFailed             a check ran and failed; exit 3

A message says what is wrong, where (file and key or line), and what to write instead, in one line.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path


class DessimError(Exception):
    """Base of all errors a user can cause or must hear of."""

    exit_code = 1


class UsageError(DessimError):
    """The command line asks for something impossible."""

    exit_code = 2


class UnitError(DessimError):
    """A quantity lacks its unit, or has one of the wrong kind."""


class FileError(DessimError):
    """A file cannot be read as what it should be.

    `path` is the file, `where` the key path or line in it, `problem` what is wrong and what to write instead.
    """

    def __init__(self, path: str | Path, where: str, problem: str) -> None:
        self.path, self.where, self.problem = str(path), where, problem
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
    """The simulated system cannot go on."""


class DeadlockError(SimulationError):
    """Ranks wait for each other; the message names who waits in which op for whom."""


class PhysicsError(SimulationError):
    """A conservation or capacity guard broke: a bug in dessim, please report it."""


class LabError(DessimError):
    """The lab cannot be built or used on this machine: programs or privileges are missing, or the kernel refused."""


class OutOfTime(DessimError):
    """The budget of wall-clock time is spent before the work is done.

    `so_far` says how far it came: plain values, units in the keys, `share_done` from 0 to 1 among them.
    """

    def __init__(self, line: str, so_far: Mapping[str, float]) -> None:
        self.line, self.so_far = line, dict(so_far)
        super().__init__(line, so_far)  # both, because simpy makes an exception anew from its arguments

    def __str__(self) -> str:
        return self.line


class CapacityError(DessimError):
    """The job does not fit the cluster."""

    exit_code = 2


class CheckFailed(DessimError):
    """A check ran to its end and failed."""

    exit_code = 3
