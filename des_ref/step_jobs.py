"""The jobs that des_ref.steps times, and the JSON file that lists them.

    {"jobs": [{"name": "wide", "model": "deepfm", "strategy": "mesh", "batch": 1024, "pipeline": true,
               "warmup": 3, "steps": 8, "servers": 1, "samples": 5120,
               "trace": "folder to record a trace into", "traced": 3},
              {"model": "deepfm", "tables": [{"strategy": "table_wise", "ranks": [0], "columns": [16]}, ...]}]}

A job needs `model`, and either `strategy` or `tables`; the rest have defaults (see `Job`). `model` is the name of a
model, or an object with the content of a model file.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from des_ref.cli import is_rank_0
from des_ref.strategies import check_strategy
from dessim.errors import FileError
from dessim.files import read_json
from dessim.trace.io import check_free
from dessim.workload.composed import TablePlan, compose
from dessim.workload.model import Model, load_model, parse_model
from dessim.workload.operators import Positive
from dessim.workload.plan import Plan
from dessim.workload.strategies import plan, spec_of


class Job(BaseModel):
    """A training to time.

    tables    how each table is trained, instead of one strategy for all of them
    optimizer of rows
    batch     samples in the global batch
    warmup    steps before the timed ones
    servers   server processes of ps_async
    samples   synthetic samples to generate; None: ten global batches; epochs repeat them
    seed      of the samples and of the initial values
    trace     folder to record a trace of `traced` steps into, before the warm-up; None: no trace
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    name: str
    model: Model
    strategy: str = ""
    tables: tuple[TablePlan, ...] = ()
    optimizer: Literal["sgd", "rowwise_adagrad", "adagrad", "adam", "ftrl"] = "rowwise_adagrad"
    batch: Positive = 1024
    pipeline: bool = True
    warmup: Annotated[int, Field(ge=0)] = 3
    steps: Positive = 8
    servers: Positive = 1
    samples: Positive | None = None
    seed: Annotated[int, Field(ge=0)] = 0
    trace: str | None = None
    traced: Positive = 3

    @property
    def has_servers(self) -> bool:
        return not self.tables and spec_of(self.strategy).dedicated_servers

    @property
    def plan(self) -> Plan:
        """The plan of a step."""
        return compose(self.model, self.tables) if self.tables else plan(self.strategy, self.model)

    @property
    def generated_samples(self) -> int:
        """Samples to generate. The default leaves a few batches of training samples."""
        return self.samples or 10 * self.batch


def load_jobs(path: Path) -> list[Job]:
    """The jobs of a file. Raises FileError for a wrong file, UsageError for an unknown strategy."""
    try:
        raw = read_json(path)["jobs"]
        return [_job(entry, path) for entry in raw]
    except ValidationError as error:
        problems = "; ".join(f"{e['loc'][0]}: {e['msg']}" for e in error.errors())
        raise FileError(path, "jobs", f"{problems} (see des_ref/step_jobs.py)") from None
    except (ValueError, KeyError, TypeError) as error:
        raise FileError(path, "", f"not a file of jobs (see des_ref/step_jobs.py): {error}") from None


def _job(raw: Mapping[str, Any], path: Path) -> Job:
    values = dict(raw)
    model = values.pop("model")
    model = load_model(model) if isinstance(model, str) else parse_model(model, path)
    job = Job(**{"name": values.get("strategy", "plan"), **values, "model": model})
    if bool(job.strategy) == bool(job.tables):
        raise FileError(path, job.name, "give either strategy or tables")
    if job.strategy:
        check_strategy(job.strategy)
    elif len(job.tables) != model.input.fields:
        raise FileError(path, job.name, f"plans {len(job.tables)} tables; {model.name} has {model.input.fields}")
    if job.trace is not None:
        check_free(Path(job.trace), is_writer=is_rank_0())
    return job
