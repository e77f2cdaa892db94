"""The jobs of plans.toml: each bed and model, with its plans."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from dessim.cluster import Cluster, Gpu, load_cluster
from dessim.cluster.parts import Transport
from dessim.files import read_toml
from dessim.validate.beds import slowed
from dessim.validate.outcome import SPLITS
from dessim.validate.step_cases import model_of, samples_of
from dessim.workload.composed import GROUPED, TablePlan
from dessim.workload.model import Model, parse_model
from dessim.workload.plan_file import JobPlan

PLANS = Path(__file__).with_name("plans.toml")
"""The shipped jobs: package data."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedJob:
    """A model on a bed whose links run at `scale` times the rates of its file, and the plans that are trained for it.

    `batch`: samples per worker.
    """

    name: str
    split: str
    bed: str
    scale: float
    model: Model
    batch: int
    plans: Mapping[str, JobPlan]

    def cluster(self, transport: Transport, device: Gpu) -> Cluster:
        """The bed with this device."""
        return replace(slowed(load_cluster(self.bed), self.scale).with_gpu(device), transport=transport)

    def to_training(self, table: Mapping[str, Any], name: str, plan: JobPlan) -> dict[str, Any]:
        """A plan as a job for des_ref.steps."""
        tables = [asdict(table) for table in plan.tables]
        return {
            "name": name,
            "model": self.model.model_dump(mode="json"),
            **({"tables": tables} if tables else {"strategy": plan.strategy}),
            "optimizer": self.model.embedding.optimizer,
            "batch": plan.batch,
            "samples": samples_of(table, plan.batch),
            **table["measure"],
        }


@cache
def read_plans(path: Path = PLANS) -> dict[str, Any]:
    """Read the tables of plans.toml. Raises FileError."""
    return read_toml(path)


def planned_jobs(table: Mapping[str, Any], splits: Sequence[str] = SPLITS) -> list[PlannedJob]:
    """The jobs of `[[jobs]]` in `splits`, in the order of the file. Raises ModelError."""
    entries = [entry for entry in table["jobs"] if entry["split"] in splits]
    return [_job(entry, name, table) for entry in entries for name in entry["models"]]


def _job(entry: Mapping[str, Any], name: str, table: Mapping[str, Any]) -> PlannedJob:
    settings = table["models"][name]
    model = parse_model(model_of(settings["file"]), PLANS)
    workers = load_cluster(entry["bed"]).n_gpus
    scale = float(entry["scale"])
    batch = int(settings["batch"])
    plans = {
        plan: JobPlan(workers, batch * workers, *_tables_and_strategy(chosen, model))
        for plan, chosen in settings["plans"].items()
    }
    bed = Path(entry["bed"]).stem
    return PlannedJob(
        name=f"{bed} x {scale:g}, {name}",
        split=entry["split"],
        bed=entry["bed"],
        scale=scale,
        model=model,
        batch=batch,
        plans=plans,
    )


def _tables_and_strategy(chosen: str | Sequence[Any], model: Model) -> tuple[tuple[TablePlan, ...], str]:
    """A plan of the file: a strategy for the whole model, or an entry for each table."""
    if isinstance(chosen, str):
        return (), chosen
    return tuple(_table(entry, width) for entry, width in zip(chosen, model.widths, strict=True)), ""


def _table(entry: str | int | Sequence[int], width: int) -> TablePlan:
    if isinstance(entry, str):
        return TablePlan(entry)
    ranks = (entry,) if isinstance(entry, int) else tuple(entry)
    return TablePlan(GROUPED[0], ranks, (width // len(ranks),) * len(ranks))
