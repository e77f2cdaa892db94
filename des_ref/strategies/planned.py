"""Plan files of `dessim plan`, as the trainer reads them."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict

from dessim.errors import FileError
from dessim.workload.composed import TablePlan
from dessim.workload.id_logs.in_model import model_with_ids
from dessim.workload.model import shipped_models
from dessim.workload.plan_file import JobPlan, planned_model, read_plan


class PlanSettings(BaseModel):
    """A job of `dessim plan` in a run's settings.

    It has the plan's file, the number of workers, how each table is trained, and the number of replicas of the tables.
    `tables` is empty where one strategy trains all of them. It comes from `--plan` only.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    path: str
    gpus: int
    tables: tuple[TablePlan, ...] = ()
    replicas: int = 1


def read_job(path: Path, model: str | None, ids: str | None = None) -> tuple[str, JobPlan]:
    """A plan and its model: `model`, a file or a shipped model's name, or else the shipped model that the plan names.

    `ids`: a file of `dessim ids`, with which the job was planned. Raises FileError for a plan of another model.
    """
    if model is None:
        model = planned_model(path)
        if model not in shipped_models():
            raise FileError(path, "model", f"{model} is not a shipped model: name its file with --model")
    return model, read_plan(path, model_with_ids(model, ids))
