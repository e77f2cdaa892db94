"""The tenants file: the jobs that arrive at a cluster, and when. Its keys are described in docs/tenants.md.

All mistakes in a file are reported together, each with its key path.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError, model_validator

from dessim.cluster.spec.parts import Count, Seconds, Table
from dessim.cluster.spec.topology_file import problems
from dessim.errors import FileError
from dessim.files import read_toml

Gpu = Annotated[int, Field(ge=0, strict=True)]


class JobTable(Table):
    """`[[job]]`: the model and strategy of a job, its GPUs, its arrival time in seconds and its number of steps."""

    name: Annotated[str, Field(min_length=1)]
    model: str
    strategy: str
    gpus: Count | None = None
    placement: Literal["packed", "spread", "random"] | tuple[Gpu, ...] = "packed"
    seed: Annotated[int, Field(ge=0, strict=True)] | None = None
    arrival: Seconds = 0.0
    steps: Count
    batch_per_worker: Count | None = None

    @model_validator(mode="after")
    def _makes_sense(self) -> JobTable:
        if isinstance(self.placement, tuple):
            if self.gpus not in (None, len(self.placement)):
                raise ValueError(f"gpus = {self.gpus}, but placement lists {len(self.placement)}; leave gpus out")
            if not self.placement:
                raise ValueError("placement lists no GPU")
        elif self.gpus is None:
            raise ValueError("gpus is missing; give their number, or list them in placement")
        if self.seed is not None and self.placement != "random":
            raise ValueError('seed is for placement = "random" only')
        return self

    @property
    def n_gpus(self) -> int:
        return self.gpus or len(self.placement)


class TenantsFile(Table):
    """A whole file. `cluster` and models are shipped names, or paths of files."""

    cluster: str
    job: Annotated[tuple[JobTable, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _names_differ(self) -> TenantsFile:
        repeated = [name for name, count in Counter(job.name for job in self.job).items() if count > 1]
        if repeated:
            raise ValueError(f"two jobs are called {repeated[0]!r}; give them different names")
        return self


def load_tenants_file(path: Path) -> TenantsFile:
    """Read a file; models and clusters that are files beside it get their full path.

    Raises FileError, which names the file and every wrong key.
    """
    try:
        tenants = TenantsFile.model_validate(read_toml(path))
    except ValidationError as error:
        raise FileError(path, "", problems(error)) from None
    jobs = tuple(job.model_copy(update={"model": _beside(path, job.model)}) for job in tenants.job)
    return tenants.model_copy(update={"cluster": _beside(path, tenants.cluster), "job": jobs})


def _beside(tenants_path: Path, name: str) -> str:
    """The path of a file called `name` beside the tenants file, if it exists; else `name` unchanged."""
    beside = tenants_path.parent / name
    return str(beside) if beside.is_file() else name
