"""Count what training really sends: every case of study.toml on the lab, counted by the kernel.

    sudo .venv/bin/python studies/wire_bytes/measure.py      # writes wire_bytes.csv; needs root, see docs/lab.md

The hosts' shapers are read at a barrier before the timed steps and at one after them (des_ref/steps.py).
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
    """Rows, bytes a step of all hosts together, and the machine they were measured on. Raises LabError."""
    rows, machine = [], ""
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
            raise DessimError(f"{lost} packets were dropped, and sent twice: their bytes are no witness")
        for found in result["jobs"]:
            ran = Trained(found)
            rows.append(
                {
                    "model": found["model"]["name"],
                    "ranks": ranks,
                    "strategy": found["strategy"],
                    "workers": ran.workers,
                    "batch": found["batch"],
                    "steps": found["counted_steps"],
                    "payload_bytes": round(ran.payload),
                    "frame_bytes": round(ran.frames),
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
