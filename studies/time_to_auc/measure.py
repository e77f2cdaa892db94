"""Train the study's model on the lab: traces whose compute times the predictions use, and steps to check them by.

    sudo .venv/bin/python studies/time_to_auc/measure.py     # writes measured.json, about 2 minutes; see docs/lab.md

Compute times are CPU times of the ranks' threads, so they hardly depend on what else the machine does; steps do.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from dessim.files import read_toml, write_json
from dessim.results.study import run_study
from dessim.validate.step_cases import step_cases
from dessim.validate.steps import measure

HERE = Path(__file__).parent


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main() -> int:
    os.chdir(HERE)  # study.toml names its files by paths relative to this folder
    study = read_toml(Path("study.toml"))
    before = os.getloadavg()[0]
    measured = measure(study, step_cases(study, ["held_out"], quick=False), say)
    write_json(Path("measured.json"), {"load_before": before, **measured})
    return 0


if __name__ == "__main__":
    sys.exit(run_study(main, HERE))
