"""The tables of steps.toml, spelled out: each job to train, and on which bed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from dessim.cluster import Cluster, load_cluster
from dessim.cluster.scaled import scaled
from dessim.files import read_toml
from dessim.workload.model import load_model
from dessim.workload.strategies import spec_of

STEPS = Path(__file__).with_name("steps.toml")
"""The shipped cases: package data."""
_RANKS_A_SERVER = 4
_QUICK = "quick"


@dataclass(frozen=True, slots=True)
class StepCase:
    """A step of `strategy` for the model of that name in the file, `batch` samples a worker; links are `scale` times as
    fast as the bed's file says. `overlapped`: predicted from traces of steps with a pipeline."""

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
        """The bed as the case uses it."""
        bed = load_cluster(self.bed)
        for knob in ("nic_rate", "uplink_rate"):
            bed = scaled(bed, knob, self.scale)
        return bed

    def to_job(self, table: Mapping[str, Any]) -> dict[str, Any]:
        """As des_ref.steps takes it."""
        return {
            "name": self.name,
            "model": model_of(table, self.model),
            "strategy": self.strategy,
            "batch": self.batch * self.workers,
            "pipeline": self.pipeline,
            "servers": max(self.servers, 1),
            "samples": samples_of(table, self.batch * self.workers),
            **table["measure"],
        }


def samples_of(table: Mapping[str, Any], batch: int) -> int:
    """Samples to make for epochs of `batches` training batches: four fifths of all are for training."""
    return int(table["data"]["batches"]) * batch * 5 // 4


def model_of(table: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The model of `[models.NAME]`: that of `file`, with its `ids_per_sample` if it says so. Raises ModelError."""
    entry = table["models"][name]
    model: dict[str, Any] = load_model(entry["file"]).model_dump(mode="json")
    model["input"]["ids_per_sample"] = float(entry.get("ids_per_sample", model["input"]["ids_per_sample"]))
    return model


@cache
def read_steps(path: Path = STEPS) -> dict[str, Any]:
    """The tables of steps.toml. Raises FileError."""
    return read_toml(path)


def step_cases(table: Mapping[str, Any], splits: Sequence[str], quick: bool) -> list[StepCase]:
    """All cases of `[[steps]]` in the splits wanted, in the file's order; those of entries with `quick` alone."""
    found = []
    for entry in table["steps"]:
        if entry["split"] in splits and (not quick or entry.get(_QUICK, False)):
            ranks = load_cluster(entry["bed"]).n_gpus
            found += [_case(entry, strategy, ranks, table["models"]) for strategy in entry["strategies"]]
    return found


def _case(entry: Mapping[str, Any], strategy: str, ranks: int, models: Mapping[str, Any]) -> StepCase:
    servers = max(1, ranks // _RANKS_A_SERVER) if spec_of(strategy).dedicated_servers else 0
    pipeline = bool(entry.get("pipeline", True))
    overlapped = bool(entry.get("overlapped", False))
    scale = float(entry.get("scale", 1.0))
    apart = [
        Path(entry["bed"]).stem + (f" x {scale:g}" if scale != 1 else ""),
        entry["model"],
        *([] if pipeline else ["no pipeline"]),
        *(["from overlapped traces"] if overlapped else []),
    ]
    return StepCase(
        name=f"{', '.join(apart)}: {strategy}",
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
