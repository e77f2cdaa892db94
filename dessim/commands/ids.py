"""The tables of a model file, measured in a click log."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dessim.errors import UsageError
from dessim.files import write_text
from dessim.workload.id_logs.as_toml import as_toml
from dessim.workload.id_logs.measure import MeasuredLog, measure
from dessim.workload.id_logs.open_log import open_log


@dataclass(frozen=True, slots=True)
class IdsRequest:
    """The files of a log, in their order, and the file of tables to write."""

    logs: tuple[Path, ...]
    out: Path


def run_ids(request: IdsRequest) -> MeasuredLog:
    """Read the log once, fit its tables, and write them.

    Raises UsageError and FileError; nothing is written then.
    """
    if request.out.resolve() in {path.resolve() for path in request.logs}:
        raise UsageError(f"{request.out}: -o names a file of the log, which would be overwritten")
    log = open_log(request.logs)
    measured = measure(log.names, log.parts, ", ".join(str(path) for path in request.logs))
    write_text(request.out, as_toml(measured, request.logs))
    return measured
