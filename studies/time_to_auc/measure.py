"""Train the study's model on the lab: traces whose compute times the predictions use, and steps to check them by.

    sudo .venv/bin/python studies/time_to_auc/measure.py     # writes measured.json, about 2 minutes; see docs/lab.md

Compute times are CPU times of the ranks' threads, so they hardly depend on what else the machine does; steps do.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from dessim.errors import DessimError
from dessim.files import read_toml, write_json
from dessim.validate.step_cases import step_cases
from dessim.validate.steps import measure

HERE = Path(__file__).parent


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main() -> int:
    os.chdir(HERE)  # study.toml names its files by paths relative to this folder
    study = read_toml(Path("study.toml"))
    before = os.getloadavg()[0]
    try:
        measured = measure(study, step_cases(study, ["held_out"], quick=False), say)
    except DessimError as error:
        say(f"time_to_auc: {error}")
        return error.exit_code
    write_json(Path("measured.json"), {"load_before": before, **measured})
    return 0


if __name__ == "__main__":
    sys.exit(main())
