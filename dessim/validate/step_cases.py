"""The training steps of steps.toml: each table expanded to its cases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from dessim.cluster import Cluster, load_cluster
from dessim.files import read_toml
from dessim.validate.beds import slowed
from dessim.workload.model import load_model
from dessim.workload.strategies import spec_of

STEPS = Path(__file__).with_name("steps.toml")
"""The shipped cases: package data."""
_RANKS_PER_SERVER = 4


@dataclass(frozen=True, slots=True)
class StepCase:
    """A step of `strategy` with the `model` of that name in the file, `batch` samples per worker.

    Links run at `scale` times the rates of the bed's file. `overlapped` cases are predicted from traces of pipelined
    steps.
    """

    name: str
    split: str
    bed: str
    scale: float
    model: str
    strategy: str
    pipeline: bool
    overlapped: bool
    batch: int
    workers: int
    servers: int

    def cluster(self) -> Cluster:
        """Return the bed at the case's scale."""
        return slowed(load_cluster(self.bed), self.scale)

    def to_job(self, table: Mapping[str, Any]) -> dict[str, Any]:
        """Return the case as a job for des_ref.steps."""
        return {
            "name": self.name,
            "model": model_of(table["models"][self.model]["file"]),
            "strategy": self.strategy,
            "batch": self.batch * self.workers,
            "pipeline": self.pipeline,
            "servers": max(self.servers, 1),
            "samples": samples_of(table, self.batch * self.workers),
            **table["measure"],
        }


def samples_of(table: Mapping[str, Any], batch: int) -> int:
    """Return the samples to generate for an epoch of `[data] batches` batches; four fifths of them are for training."""
    return int(table["data"]["batches"]) * batch * 5 // 4


def model_of(file: str) -> dict[str, Any]:
    """Return the model `file`: a shipped one, or a file beside steps.toml. Raises ModelError."""
    beside = STEPS.parent / f"{file}.toml"
    return load_model(str(beside) if beside.exists() else file).model_dump(mode="json")


@cache
def read_steps(path: Path = STEPS) -> dict[str, Any]:
    """Read the tables of steps.toml. Raises FileError."""
    return read_toml(path)


def step_cases(table: Mapping[str, Any], splits: Sequence[str], quick: bool) -> list[StepCase]:
    """Return the cases of `[[steps]]` in `splits`, in the order of the file; with `quick` those of quick entries."""
    cases = []
    for entry in table["steps"]:
        if entry["split"] in splits and (not quick or entry.get("quick", False)):
            ranks = load_cluster(entry["bed"]).n_gpus
            cases += [_case(entry, strategy, ranks, table["models"]) for strategy in entry["strategies"]]
    return cases


def _case(entry: Mapping[str, Any], strategy: str, ranks: int, models: Mapping[str, Any]) -> StepCase:
    servers = max(1, ranks // _RANKS_PER_SERVER) if spec_of(strategy).dedicated_servers else 0
    pipeline = bool(entry.get("pipeline", True))
    overlapped = bool(entry.get("overlapped", False))
    scale = float(entry.get("scale", 1.0))
    bed_name = Path(entry["bed"]).stem
    name = [bed_name if scale == 1 else f"{bed_name} x {scale:g}", entry["model"]]
    if not pipeline:
        name.append("no pipeline")
    if overlapped:
        name.append("from overlapped traces")
    return StepCase(
        name=f"{', '.join(name)}: {strategy}",
        split=entry["split"],
        bed=entry["bed"],
        scale=scale,
        model=entry["model"],
        strategy=strategy,
        pipeline=pipeline,
        overlapped=overlapped,
        batch=int(models[entry["model"]]["batch"]),
        workers=ranks - servers,
        servers=servers,
    )
