"""`dessim calibrate`: measures messages on an emulated cluster of the lab, or writes what to time on a real one."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from dessim.calibrate.plan import calibration_cases
from dessim.cluster import load_cluster
from dessim.commands.support.lab_bench import bench_on_lab
from dessim.errors import UsageError
from dessim.files import write_json

_BENCH_TIMEOUT_S = 300.0
_MIN_RANKS = 3


def measure_on_lab(bed: str, on_status: Callable[[str], None]) -> dict[str, Any]:
    """Build the topology file `bed` on this machine and time messages on it.

    Returns the argument of `dessim.calibrate.profile.fit_profile`. `on_status` is called with lines about the progress.
    Raises LabError, and UsageError for a bed that is too small.
    """
    ranks = load_cluster(bed).n_gpus
    _require_ranks(ranks)
    on_status(f"calibrating on {bed}")
    bench = bench_on_lab(bed, calibration_cases(ranks), _BENCH_TIMEOUT_S)
    return {"cluster": bed, "where": this_machine(), "bench": bench}


def write_plan(path: Path, ranks: int) -> None:
    """Write the cases that `des_ref.bench --cases` times on a cluster of `ranks` ranks. Raises UsageError."""
    _require_ranks(ranks)
    write_json(path, {"cases": calibration_cases(ranks)})


def _require_ranks(ranks: int) -> None:
    if ranks < _MIN_RANKS:
        raise UsageError(
            f"{ranks} ranks are too few for a calibration; it needs {_MIN_RANKS}, to measure how messages contend"
        )


def of_files(files: Sequence[Path]) -> dict[str, str]:
    """The `where` of a profile that is fitted to files of results from another machine."""
    return {"results": ", ".join(path.name for path in files)}


def this_machine() -> dict[str, str]:
    """The `where` of a profile measured on this machine. The host's name is left out, because results are published."""
    return {
        "system": f"{platform.system()} {platform.release()}",
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
    }
