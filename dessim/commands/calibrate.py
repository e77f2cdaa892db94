"""`dessim calibrate`: messages measured on a bed of the lab."""

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

_TIMEOUT_S = 300.0


def measure_on_lab(bed: str, say: Callable[[str], None]) -> dict[str, Any]:
    """What `dessim.calibrate.profile.fit_profile` takes, of a topology file built on this machine. Raises LabError."""
    ranks = load_cluster(bed).n_gpus
    _require(ranks)
    say(f"calibrating on {bed}")
    bench = bench_on_lab(bed, calibration_cases(ranks), _TIMEOUT_S)
    return {"cluster": bed, "where": this_machine(), "bench": bench}


def write_plan(path: Path, ranks: int) -> None:
    """What to time on a cluster of so many ranks, for des_ref.bench --cases."""
    _require(ranks)
    write_json(path, {"cases": calibration_cases(ranks)})


def _require(ranks: int) -> None:
    if ranks < 3:
        raise UsageError(f"{ranks} ranks are too few for a calibration; it needs 3, to see how messages meet")


def of_files(files: Sequence[Path]) -> dict[str, str]:
    """Where results come from that somebody else measured."""
    return {"results": ", ".join(path.name for path in files)}


def this_machine() -> dict[str, str]:
    """What a measurement on the lab depends on. Not the host's name: results are published."""
    return {
        "system": f"{platform.system()} {platform.release()}",
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
    }
