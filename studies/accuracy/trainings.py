"""The trainings of the accuracy study: their list, and how one is run and its result kept."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dessim.errors import DessimError
from dessim.files import write_json, write_text

HERE = Path(__file__).parent
ONE, DES = "one process", "DES"
EQUALITY, STALENESS = "equality", "staleness"  # the two parts of the study
FIGURES = ("auc", "logloss", "validation_auc", "best_epoch", "epochs", "samples_trained")
STALE = ("mean", "max", "missed_mean", "missed_max")  # reported by ps_async only; empty for other strategies
ABOUT = ("part", "split", "model", "method", "dtype", "seed", "workers")
COLUMNS = (*ABOUT, *FIGURES, *(f"stale_{key}" for key in STALE))
CURVE = ("method", "seed", "epoch", "validation_auc")

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Training:
    """One training: the key of its row in accuracy.csv, and how to run it.

    `processes` is the number of ranks, servers included; `flags` are the trainer's flags besides those that the model
    and the data determine. `epochs` is a fixed number of epochs, or None for early stopping.
    """

    part: str
    split: str
    model: str
    method: str
    dtype: str
    seed: int
    processes: int
    flags: tuple[str, ...]
    epochs: int | None = None

    @property
    def name(self) -> str:
        return f"{self.part}, {self.split}, {self.model}, {self.method}, seed {self.seed}"

    def settings(self, file: Path) -> str:
        """Return the settings in `file` with this split of the data and, if `epochs` is set, without early stopping."""
        text = re.sub(r'(?m)^split = "\w+"', f'split = "{self.split}"', file.read_text("utf-8"))
        if self.epochs is None:
            return text
        return re.sub(r"(?m)^(epochs|patience) = \d+", rf"\1 = {self.epochs}", text)


def trainings(study: Mapping[str, Any]) -> Iterator[Training]:
    """Yield every training in the order of accuracy.csv."""
    workers = study["workers"]
    part = study["equality"]
    for split in part["splits"]:
        for model in study["models"]:
            for method, processes in ((ONE, 1), (DES, workers)):
                for seed in part["seeds"]:
                    flags = ("--strategy", "des_all_reduce")
                    yield Training(
                        part=EQUALITY,
                        split=split,
                        model=model["name"],
                        method=method,
                        dtype=part["dtype"],
                        seed=seed,
                        processes=processes,
                        flags=flags,
                    )
    part = study["staleness"]
    for method in part["methods"]:
        flags = ("--strategy", method["strategy"], "--batch", str(method["batch"]))
        processes = method.get("processes", workers)
        if "staleness" in method:
            flags += ("--servers", "1", "--staleness", str(method["staleness"]))
            processes += 1
        for seed in part["seeds"]:
            yield Training(
                part=STALENESS,
                split=part["split"],
                model=part["model"],
                method=method["name"],
                dtype=part["dtype"],
                seed=seed,
                processes=processes,
                flags=flags,
                epochs=part["epochs"],
            )


def result(training: Training, study: Mapping[str, Any], runs: Path) -> tuple[Row, list[Row]]:
    """Return the training's row of accuracy.csv and its rows of curves.csv, from `runs` if kept there.

    Trains and keeps the result in `runs` otherwise. Raises DessimError.
    """
    kept = runs / (re.sub(r"\W+", "-", training.name) + ".json")
    if not kept.exists():
        runs.mkdir(parents=True, exist_ok=True)
        write_json(kept, train(training, study))
    row, curve = json.loads(kept.read_text("utf-8"))
    return row, curve


def train(training: Training, study: Mapping[str, Any]) -> tuple[Row, list[Row]]:
    """Run one training; return its row of accuracy.csv and its rows of curves.csv. Raises DessimError."""
    model = next(m for m in study["models"] if m["name"] == training.model)
    file = HERE / model["model"] if model["model"].endswith(".toml") else model["model"]
    with tempfile.TemporaryDirectory() as scratch:
        settings = Path(scratch) / "settings.toml"
        log = Path(scratch) / "epochs.jsonl"
        write_text(settings, training.settings(HERE / model["settings"]))
        flags = ["--config", settings, "--model", file, "--data", study["data"], "--dtype", training.dtype]
        flags += ["--seed", training.seed, "--device", "cpu", *training.flags, "--epoch-log", log, "--json"]
        summary = _launch(training.processes, list(map(str, flags)))
        epochs = [json.loads(line) for line in log.read_text("utf-8").splitlines()]
    if summary["data"] != study["data"]:
        raise DessimError(f"{study['data']} is not available: {summary['fallback_reason']}")
    stale = summary["staleness"] or dict.fromkeys(STALE, "")
    t = training
    key = (t.part, t.split, t.model, t.method, t.dtype, t.seed, summary["world_size"])
    row = dict(zip(COLUMNS, (*key, *(summary[f] for f in FIGURES), *(stale[s] for s in STALE)), strict=True))
    curve = [(t.method, t.seed, e["epoch"], e["validation_auc"]) for e in epochs if t.part == STALENESS]
    return row, [dict(zip(CURVE, values, strict=True)) for values in curve]


def _launch(processes: int, flags: Sequence[str]) -> dict[str, Any]:
    """Run the trainer on `processes` ranks and return its JSON summary. Raises DessimError with its error message."""
    launcher = ["torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", "-m"]
    command = [sys.executable, "-m", *(launcher if processes > 1 else []), "des_ref.train", *flags]
    # One thread per process keeps the order of floating-point sums independent of the machine.
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no message"]
        raise DessimError(next((line for line in lines if line.startswith("des_ref.train: error: ")), lines[-1]))
    summary: dict[str, Any] = json.loads(done.stdout)
    return summary
