"""Train every case of study.toml on the lab, after recording the traces and the calibration that predict it.

    sudo .venv/bin/python studies/des_against_ps/measure.py     # writes measured.json, about 6 minutes; see docs/lab.md

The calibration is the one of `dessim validate --lab`: single messages between 8 hosts at 50 Mb/s.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from dessim.commands.calibrate import measure_on_lab
from dessim.files import read_toml, write_json
from dessim.results.study import run_study
from dessim.validate.request import read_cases
from dessim.validate.step_cases import step_cases
from dessim.validate.steps import measure

HERE = Path(__file__).parent


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main() -> int:
    os.chdir(HERE)  # study.toml names its beds by paths relative to this folder
    study = read_toml(Path("study.toml"))
    calibration = measure_on_lab(read_cases()["calibration"]["bed"], say)
    measured = measure(study, step_cases(study, ["held_out"], quick=False), say)
    write_json(Path("measured.json"), {"calibration": calibration, **measured})
    return 0


if __name__ == "__main__":
    sys.exit(run_study(main, HERE))
