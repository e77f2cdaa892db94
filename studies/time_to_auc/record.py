"""Train every case of study.toml on MovieLens-100K and predict the time of its steps.

    python studies/time_to_auc/record.py             # writes curves.csv and times.json
    python studies/time_to_auc/record.py --keep FILE # keeps each case in FILE and continues after an interruption
    python studies/time_to_auc/record.py --quick     # two cases for an epoch, and a prediction; writes nothing

measured.json, the lab's traces, comes from measure.py. The data set comes from the user's cache or from PyPI; without
it the program says so and exits with 1. Exits with 3 when --quick finds other values than those recorded.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from des_ref.data.batch import Examples, InMemory
from des_ref.data.movielens import FIELDS, open_movielens
from des_ref.embedding.optim import ROW_OPTIMIZERS
from dessim.commands.support.lab_training import machine
from dessim.files import read_json, read_toml, write_json, write_text
from dessim.results.rows import data_csv
from dessim.results.study import run_study

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
from stale import Data, Model, train  # noqa: E402
from step_times import SYNCHRONOUS, Served, StepTimes  # noqa: E402

WIDTH = 16  # floats of an embedding
SYNC, ASYNC = "sync", "async"
CASE = ("split", "optimizer", "rate", "mode", "workers")
DIGITS = 5
SAME_AUC = 2e-3  # between a recorded AUC and one of another machine, whose sums may round differently

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Case:
    """One case, trained with every seed. `lags[e]` are the lags of the updates of epoch e; none: synchronous."""

    split: str
    optimizer: str
    rate: float
    mode: str
    workers: int
    lags: tuple[Sequence[int], ...] = ()

    @property
    def name(self) -> str:
        return f"{self.split}, {self.optimizer} {self.rate:g}, {self.mode} {self.workers}"

    def run(self, study: Mapping[str, Any], data: Data, epochs: int) -> Iterator[Row]:
        """Train; yield a row of curves.csv for each seed."""
        part = study["training"]
        size = part["batch_per_worker"]
        model = Model(data, ROW_OPTIMIZERS[self.optimizer](rate=self.rate), WIDTH)
        points = train(
            data,
            model,
            epochs,
            size if self.lags else size * self.workers,
            self.lags or None,
            workers=1 if self.lags else self.workers,
            parts=part["parts"],
        )
        key = (self.split, self.optimizer, self.rate, self.mode, self.workers)
        for s, seed in enumerate(data.seeds):
            row = dict(zip(CASE, key, strict=True)) | {"seed": seed}
            row |= {f"validation_{p.epochs:g}": round(p.validation[s], DIGITS) for p in points}
            yield row | {f"test_{p.epochs:g}": round(p.test[s], DIGITS) for p in points}


def cases(study: Mapping[str, Any], lags: Mapping[int, Sequence[Sequence[int]]]) -> Iterator[Case]:
    """Every case, in the order of curves.csv. `lags` are those of each number of workers."""
    part = study["training"]
    for split in part["splits"]:
        for optimizer, rates in part["rates"].items():
            for rate in rates:
                for workers in part["workers"]:
                    yield Case(split, optimizer, rate, SYNC, workers)
                    yield Case(split, optimizer, rate, ASYNC, workers, tuple(lags[workers]))


def columns(study: Mapping[str, Any]) -> list[str]:
    """The columns of curves.csv."""
    part = study["training"]
    points = [*part["parts"], *range(1, part["epochs"] + 1)]
    return [*CASE, "seed", *(f"{name}_{point:g}" for name in ("validation", "test") for point in points)]


def is_timed(study: Mapping[str, Any], workers: int) -> bool:
    """Whether synchronous steps of `workers` workers are simulated."""
    return workers in study["hosts"]["timed_workers"]


def updates_of(study: Mapping[str, Any], samples: int) -> int:
    """Updates of asynchronous servers in an epoch."""
    return samples // int(study["training"]["batch_per_worker"])


def simulated_orders(study: Mapping[str, Any], steps: StepTimes, updates: int) -> dict[int, list[Served]]:
    """Asynchronous training for each number of workers: epochs with other compute times."""
    return {
        workers: [steps.asynchronous(workers, updates, seed) for seed in range(study["hosts"]["orders"])]
        for workers in study["training"]["workers"]
    }


def _times(workers: int, served: Sequence[Served], synchronous: Mapping[str, float]) -> Row:
    late = np.concatenate([one.lags for one in served])
    return {
        "workers": workers,
        "step_s": {**synchronous, "ps_async": float(np.mean([one.step_s for one in served]))},
        "lag": {"mean": float(late.mean()), "p95": float(np.percentile(late, 95)), "max": int(late.max())},
    }


def unseen_share(source: InMemory) -> float:
    """The share of the test's samples whose user rated nothing in the training samples."""

    def users(examples: Examples) -> torch.Tensor:
        return examples.ids[examples.field == FIELDS.index("user")]  # one for each sample

    return float((~torch.isin(users(source.test), users(source.train))).float().mean())


def record(study: Mapping[str, Any], steps: StepTimes, keep: Path | None) -> None:
    """Write times.json and curves.csv. The rows of cases that are in the file `keep` are taken from it."""
    began = time.process_time()
    kept = _kept(keep)
    part = study["training"]
    sources = {split: open_movielens(None, split, 0) for split in part["splits"]}
    updates = updates_of(study, len(sources[part["splits"][0]].train))
    served = simulated_orders(study, steps, updates)
    lags = {workers: [one.lags for one in orders] for workers, orders in served.items()}
    unseen = {split: unseen_share(source) for split, source in sources.items()}
    rows: list[Row] = []
    data: dict[str, Data] = {}
    spent = 0.0
    for case in cases(study, lags):
        if case.name not in kept:
            if case.split not in data:
                data = {case.split: Data.of(sources[case.split], part["seeds"])}  # frees the batches of the other split
            trained = list(case.run(study, data[case.split], part["epochs"]))
            kept[case.name] = {"rows": trained, "cpu_seconds": time.process_time() - began}
            began = time.process_time()
            if keep is not None:
                with keep.open("a", encoding="utf-8") as file:
                    file.write(json.dumps([case.name, kept[case.name]]) + "\n")
            last = f"test_{part['epochs']}"
            say(f"{case.name}: {trained[-1][last]:.4f}")
        rows += kept[case.name]["rows"]
        spent += kept[case.name]["cpu_seconds"]
    write_text(HERE / "curves.csv", data_csv(rows, columns(study)))
    times = [
        _times(
            workers,
            orders,
            {name: steps.synchronous(name, workers) for name in SYNCHRONOUS if is_timed(study, workers)},
        )
        for workers, orders in served.items()
    ]
    about = {"machine": machine(), "cpu_seconds": round(spent), "unseen_users": unseen, "updates": updates}
    write_json(HERE / "times.json", {**about, "steps": times})


def _kept(keep: Path | None) -> dict[str, dict[str, Any]]:
    """The cases in the file `keep`, by name."""
    lines = keep.read_text("utf-8").splitlines() if keep is not None and keep.exists() else []
    return dict(json.loads(line) for line in lines)


def check(study: Mapping[str, Any], steps: StepTimes) -> int:
    """Repeat two cases for one epoch and one prediction; return 3 when they differ from what is recorded."""
    part = study["training"]
    workers = part["workers"][0]
    source = open_movielens(None, part["splits"][0], 0)
    kept = read_json(HERE / "times.json")["steps"][0]["step_s"][SYNCHRONOUS[0]]
    found = steps.synchronous(SYNCHRONOUS[0], workers)
    differ = [] if abs(found / kept - 1) < 1e-3 else [f"a step takes {found:.4g} s, recorded is {kept:.4g} s"]
    lags = {workers: [steps.asynchronous(workers, updates_of(study, len(source.train)), part["seeds"][0]).lags]}
    some = {**part, "workers": [workers], "splits": part["splits"][:1], "rates": {"adam": part["rates"]["adam"][-1:]}}
    data = Data.of(source, part["seeds"])
    rows = list(csv.DictReader((HERE / "curves.csv").read_text("utf-8").splitlines()))
    for case in cases({**study, "training": some}, lags):
        for row in case.run(study, data, 1):
            (same,) = (r for r in rows if all(r[key] == str(row[key]) for key in (*CASE, "seed")))
            if abs(row["test_1"] - float(same["test_1"])) > SAME_AUC:
                differ.append(f"{case.mode}, seed {row['seed']}: AUC {row['test_1']}, recorded is {same['test_1']}")
    for line in differ:
        say(line)
    say("as recorded" if not differ else "differs from what is recorded")
    return 3 if differ else 0


def say(line: str) -> None:
    print(f"time_to_auc: {line}", file=sys.stderr, flush=True)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="repeat a part and compare it with what is recorded")
    parser.add_argument("--keep", type=Path, metavar="FILE", help="keep each case in FILE, and take kept cases from it")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    study = read_toml(HERE / "study.toml")
    steps = StepTimes(study, read_json(HERE / "measured.json"))
    if options.quick:
        return check(study, steps)
    record(study, steps, options.keep)
    return 0


if __name__ == "__main__":
    sys.exit(run_study(main, HERE))
