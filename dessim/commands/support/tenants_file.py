"""The tenants page: which jobs come to a cluster, and when, as a person writes it. Keys: docs/tenants.md.

All mistakes of a page are reported together, each with its key path.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError, model_validator

from dessim.cluster.spec.parts import Count, Seconds, Table
from dessim.cluster.spec.topology_file import problems
from dessim.errors import FileError
from dessim.files import read_toml

Gpu = Annotated[int, Field(ge=0, strict=True)]


class JobTable(Table):
    """`[[job]]`: what it trains and how, on which GPUs, from when on, for how many steps."""

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
            raise ValueError("gpus is missing; say how many, or list them in placement")
        if self.seed is not None and self.placement != "random":
            raise ValueError('seed is for placement = "random" only')
        return self

    @property
    def n_gpus(self) -> int:
        return self.gpus or len(self.placement)


class TenantsPage(Table):
    """A whole page. `cluster` and models are shipped names, or files beside the page."""

    cluster: str
    job: Annotated[tuple[JobTable, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _names_differ(self) -> TenantsPage:
        names = [job.name for job in self.job]
        twice = [name for name in names if names.count(name) > 1]
        if twice:
            raise ValueError(f"two jobs are called {twice[0]!r}; give each a name of its own")
        return self


def load_page(path: Path) -> TenantsPage:
    """The page of a file, its file names made absolute. Raises FileError that names the file and every wrong key."""
    try:
        page = TenantsPage.model_validate(read_toml(path))
    except ValidationError as error:
        raise FileError(path, "", problems(error)) from None
    jobs = tuple(job.model_copy(update={"model": _beside(path, job.model)}) for job in page.job)
    return page.model_copy(update={"cluster": _beside(path, page.cluster), "job": jobs})


def _beside(page: Path, name: str) -> str:
    """A file beside the page, where there is one; else the name as it is."""
    beside = page.parent / name
    return str(beside) if beside.is_file() else name
