"""Runs des_ref.bench on an emulated cluster of the lab: cases in, seconds out."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from dessim import lab
from dessim.cluster import load_cluster
from dessim.errors import LabError


def bench_on_lab(bed: str, cases: Sequence[Mapping[str, Any]], timeout: float, scale: float = 1.0) -> dict[str, Any]:
    """Build `bed` with its rates times `scale`, time `cases` (of des_ref/bench_cases.py) on it, take it down.

    Returns the file that des_ref.bench writes, and the `window` of the bed's connections in bytes. `timeout` is in
    seconds. Raises LabError.
    """
    with TemporaryDirectory() as folder:
        cases_file = Path(folder, "cases.json")
        results_file = Path(folder, "bench.json")
        cases_file.write_text(json.dumps({"cases": list(cases)}), encoding="utf-8")
        options = ["--device", "cpu", "--cases", str(cases_file), "--json", str(results_file)]
        with lab.up(load_cluster(bed), scale=scale, name=f"bench{os.getpid()}") as built:
            finished = built.run(lab.Program("des_ref.bench", options), logs=Path(folder, "logs"), timeout=timeout)
        if finished.code:
            raise LabError(f"{bed}: des_ref.bench {failure_of(finished)}")
        result: dict[str, Any] = json.loads(results_file.read_text("utf-8"))
        return result | {"window": lab.WINDOW}


def failure_of(finished: lab.Finished) -> str:
    """Why a launch failed: a timeout, or the last line that the failed rank printed."""
    if finished.rank is None:
        return "did not finish in time; is the machine busy?"
    lines = finished.logs[finished.rank].read_text("utf-8", errors="replace").strip().splitlines()
    last_line = lines[-1] if lines else "no output"
    return f"failed on rank {finished.rank} with code {finished.code}: {last_line}"
