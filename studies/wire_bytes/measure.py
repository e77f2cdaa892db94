"""Count the bytes that training sends on the lab, by the kernel's counters, for every case of study.toml.

    sudo .venv/bin/python studies/wire_bytes/measure.py      # writes wire_bytes.csv; needs root, see docs/lab.md

The hosts' shapers are read at a barrier before the timed steps and at another after them (des_ref/steps.py).
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from dessim.commands.support.lab_training import Trained, train_on_lab
from dessim.errors import DessimError
from dessim.files import read_toml, write_text
from dessim.results.rows import data_csv

HERE = Path(__file__).parent
COLUMNS = ("model", "ranks", "strategy", "workers", "batch", "steps", "payload_bytes", "frame_bytes")
_TIMEOUT_S = 280.0


def measure(study: dict[str, Any]) -> tuple[list[dict[str, Any]], str]:
    """Train every case; return rows of bytes per step, all hosts together, and the machine's name. Raises LabError."""
    rows = []
    machine = ""
    for ranks in study["ranks"]:
        jobs = [
            {
                "name": f"{model} {strategy}",
                "model": model,
                "strategy": strategy,
                "batch": batch,
                "warmup": study["warmup"],
                "steps": study["steps"],
            }
            for model, batch in study["batch"].items()
            for strategy in study["strategies"]
        ]
        result = train_on_lab(study["bed"], jobs, _TIMEOUT_S, ranks=ranks)
        machine = result["machine"]
        if lost := sum(link["dropped"] for link in result["links"].values()):
            raise DessimError(f"{lost} packets were dropped and sent again, so frames cannot be compared with the plan")
        for job in result["jobs"]:
            trained = Trained(job)
            rows.append(
                {
                    "model": job["model"]["name"],
                    "ranks": ranks,
                    "strategy": job["strategy"],
                    "workers": trained.workers,
                    "batch": job["batch"],
                    "steps": job["counted_steps"],
                    "payload_bytes": round(trained.payload),
                    "frame_bytes": round(trained.frames),
                }
            )
    return rows, machine


def main() -> int:
    try:
        rows, machine = measure(read_toml(HERE / "study.toml"))
    except DessimError as error:
        print(f"wire_bytes: {error}", file=sys.stderr)
        return error.exit_code
    write_text(HERE / "wire_bytes.csv", f"# {machine}\n" + data_csv(rows, COLUMNS))
    return 0


if __name__ == "__main__":
    sys.exit(main())
