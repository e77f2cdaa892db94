"""The fault file: what goes wrong in a run, as a person writes it. Keys and an example: docs/faults.md.

All mistakes of a file are reported together, each with its key path.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationError, model_validator

from dessim.cluster import Cluster
from dessim.cluster.spec.parts import Count, Percent, Seconds, Table
from dessim.cluster.spec.topology_file import problems
from dessim.errors import FileError
from dessim.files import read_toml
from dessim.sim.faults.faults import Fault, Faults
from dessim.sim.faults.stragglers import Stragglers
from dessim.sim.fluid.fabric import RETRY_TIMEOUT_S
from dessim.workload.dag import Workload


class FaultTable(Table):
    """`[[fault]]`: what, from when, until when, how bad; `every` and `times`: it happens again."""

    link: str | None = None
    switch: str | None = None
    nic: str | None = None
    at: Seconds
    until: Seconds | None = None
    rate: Percent = 0.0
    every: Seconds | None = None
    times: Count | None = None

    @model_validator(mode="after")
    def _makes_sense(self) -> FaultTable:
        if sum(what is not None for what in (self.link, self.switch, self.nic)) != 1:
            raise ValueError('name one thing: link = "leaf3 -> spine1", switch = "spine1" or nic = "node0/nic1"')
        if self.link is not None and "->" not in self.link:
            raise ValueError(f'link = {self.link!r}: write "leaf3 -> spine1" or "leaf3 <-> spine1"')
        if self.until is not None and self.until <= self.at:
            raise ValueError("until must be later than at")
        if (self.every is None) != (self.times is None):
            raise ValueError("every and times belong together")
        if self.every is not None and (self.until is None or self.at + self.every < self.until):
            raise ValueError("what happens every so often must be over by then; write until")
        return self

    def build(self) -> list[Fault]:
        which = self.link or self.switch or self.nic or ""
        end = math.inf if self.until is None else self.until
        shifts = [number * (self.every or 0.0) for number in range(self.times or 1)]
        return [Fault(which, self.at + shift, end + shift, self.rate) for shift in shifts]


class StragglersTable(Table):
    """`[stragglers]`."""

    sigma: Annotated[float, Field(ge=0, le=3)]
    seed: Annotated[int, Field(ge=0)] = 0


class SlowTable(Table):
    """`[[slow_gpu]]`."""

    rank: Annotated[int, Field(ge=0, strict=True)]
    factor: Annotated[float, Field(gt=0)]


class FaultFile(Table):
    """A whole fault file."""

    timeout: Annotated[Seconds, Field(gt=0)] = RETRY_TIMEOUT_S
    fault: tuple[FaultTable, ...] = ()
    stragglers: StragglersTable = StragglersTable(sigma=0.0)
    slow_gpu: tuple[SlowTable, ...] = ()

    @model_validator(mode="after")
    def _says_something(self) -> FaultFile:
        if not (self.fault or self.slow_gpu or self.stragglers.sigma):
            raise ValueError("nothing goes wrong; write [[fault]], [stragglers] or [[slow_gpu]]")
        ranks = [slow.rank for slow in self.slow_gpu]
        twice = sorted({rank for rank in ranks if ranks.count(rank) > 1})
        if twice:
            raise ValueError(f"slow_gpu: rank {twice[0]} is there twice")
        return self


@dataclass(frozen=True, slots=True)
class Scenario:
    """What goes wrong: with links, and with compute (None: nothing). `path` is the file that says so."""

    path: Path
    faults: Faults | None
    stragglers: Stragglers | None

    def slowed(self, workload: Workload) -> Workload:
        """The workload with its stragglers."""
        return self.stragglers.slowed(workload) if self.stragglers is not None else workload

    def __str__(self) -> str:
        parts = []
        if self.faults is not None:
            count = len(self.faults.faults)
            parts.append(f"{count} fault{'s' if count > 1 else ''} of links")
        if self.stragglers is not None and self.stragglers.slow:
            parts.append(f"{len(self.stragglers.slow)} slow GPU{'s' if len(self.stragglers.slow) > 1 else ''}")
        if self.stragglers is not None and self.stragglers.sigma:
            parts.append(f"stragglers of sigma {self.stragglers.sigma:g}, seed {self.stragglers.seed}")
        return f"assumed: {', '.join(parts)}, as {self.path} says"


def load_faults(path: Path, cluster: Cluster) -> Scenario:
    """The scenario of a fault file on a cluster. Raises FileError that names the file and each mistaken key."""
    try:
        file = FaultFile.model_validate(read_toml(path))
    except ValidationError as error:
        raise FileError(path, "", problems(error)) from None
    beyond = [slow.rank for slow in file.slow_gpu if slow.rank >= cluster.n_gpus]
    if beyond:
        raise FileError(path, "slow_gpu", f"rank {beyond[0]} is none of the {cluster.n_gpus:,} GPUs of {cluster.name}")
    faults = Faults(tuple(one for table in file.fault for one in table.build()), file.timeout, path)
    faults.states(cluster)  # so that a wrong name is told before anything runs
    slow = {table.rank: table.factor for table in file.slow_gpu}
    compute = Stragglers(slow, file.stragglers.sigma, file.stragglers.seed)
    return Scenario(path, faults if file.fault else None, compute if slow or file.stragglers.sigma else None)
