"""des_ref.bench on a bed of the lab: cases in, seconds out."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from dessim import lab
from dessim.cluster import load_cluster
from dessim.errors import LabError
from dessim.lab.priority import first


def bench_on_lab(bed: str, cases: Sequence[Mapping[str, Any]], timeout: float, scale: float = 1.0) -> dict[str, Any]:
    """Build `bed` with its rates times `scale`, time `cases` (des_ref/bench_ops.py) on it in one launch, take it down.

    Returns the file that des_ref.bench writes, and the `window` of the bed's connections in bytes; `timeout` is in
    seconds. Raises LabError.
    """
    with TemporaryDirectory() as folder:
        asked, out = Path(folder, "cases.json"), Path(folder, "bench.json")
        asked.write_text(json.dumps({"cases": list(cases)}), encoding="utf-8")
        program = [sys.executable, "-m", "des_ref.bench", "--device", "cpu"]
        command = first([*program, "--cases", str(asked), "--json", str(out)])
        with lab.up(load_cluster(bed), scale=scale, name=f"bench{os.getpid()}") as up:
            done = up.run(command, logs=Path(folder, "logs"), timeout=timeout)
        if done.code:
            raise LabError(f"{bed}: des_ref.bench {_why(done)}")
        result: dict[str, Any] = json.loads(out.read_text("utf-8"))
        return result | {"window": lab.WINDOW}


def _why(done: lab.Finished) -> str:
    """The last line that the rank which failed printed."""
    if done.rank is None:
        return "was not done in time; is the machine busy?"
    lines = done.logs[done.rank].read_text("utf-8", errors="replace").strip().splitlines()
    return f"failed on rank {done.rank} with code {done.code}: {lines[-1] if lines else 'no output'}"
