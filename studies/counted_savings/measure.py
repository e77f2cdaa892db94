"""Count the bytes that DES and a parameter server send in a step, by the kernel's counters, for every case.

    sudo .venv/bin/python studies/counted_savings/measure.py            # writes counted.csv; root; about 10 minutes
    sudo .venv/bin/python studies/counted_savings/measure.py --quick    # two hosts, one seed; writes nothing

The hosts' shapers are read at a barrier before the timed steps and at another after them (des_ref/steps.py).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dessim.commands.support.lab_training import Trained, train_on_lab
from dessim.errors import DessimError
from dessim.files import read_toml, write_text
from dessim.results.rows import data_csv
from dessim.results.study import run_study

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
from formula import model_of  # noqa: E402

COLUMNS = ("model", "ids_per_sample", "hosts", "strategy", "seed", "payload_bytes", "frame_bytes")
_TIMEOUT_S = 900.0  # of a launch, one per number of hosts


def measure(study: Mapping[str, Any]) -> tuple[list[dict[str, Any]], str]:
    """Train every case; return rows of bytes per step, all hosts together, and the machine's name. Raises LabError."""
    rows = []
    machine = ""
    for hosts in study["hosts"]:
        jobs = _jobs(study, hosts)
        print(f"{len(jobs)} trainings on {hosts} hosts", file=sys.stderr, flush=True)
        result = train_on_lab(study["bed"], list(jobs.values()), _TIMEOUT_S, ranks=hosts, scale=study["scale"])
        machine = result["machine"]
        if lost := sum(link["dropped"] for link in result["links"].values()):
            raise DessimError(f"{lost} packets were dropped and sent again, so frames cannot be compared with the plan")
        for (model, ids, strategy, seed), job in zip(jobs, result["jobs"], strict=True):
            trained = Trained(job)
            values = (model, ids, hosts, strategy, seed, round(trained.payload), round(trained.frames))
            rows.append(dict(zip(COLUMNS, values, strict=True)))
    return rows, machine


def _jobs(study: Mapping[str, Any], hosts: int) -> dict[tuple[str, int, str, int], dict[str, Any]]:
    """The jobs for des_ref.steps on `hosts` hosts, by model, ids a sample, strategy and seed."""
    batch = study["batch_per_worker"] * hosts
    batches = study["warmup"] + study["steps"]
    return {
        (entry["name"], ids, strategy, seed): {
            "name": f"{entry['name']}, {ids} ids, {strategy}, seed {seed}",
            "model": model_of(study, entry, ids).model_dump(mode="json"),
            "strategy": strategy,
            "batch": batch,
            "seed": seed,
            "samples": batches * batch * 5 // 4,  # four fifths are for training: no batch comes twice
            "warmup": study["warmup"],
            "steps": study["steps"],
        }
        for entry in study["models"]
        for ids in study["ids_per_sample"]
        for strategy in study["strategies"]
        for seed in study["seeds"]
    }


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="two hosts and one seed; print the rows and write nothing")
    options = parser.parse_args(arguments)
    study = read_toml(HERE / "study.toml")
    if options.quick:
        study |= {"hosts": study["hosts"][:1], "seeds": study["seeds"][:1]}
    rows, machine = measure(study)
    text = f"# {machine}\n" + data_csv(rows, COLUMNS)
    if options.quick:
        print(text, end="")
    else:
        write_text(HERE / "counted.csv", text)
    return 0


if __name__ == "__main__":
    sys.exit(run_study(main, HERE))
