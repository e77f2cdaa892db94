"""The fault file: link faults and slow GPUs of a run, as a user writes them. Keys and an example: docs/faults.md.

All mistakes in a file are reported together, each with its key path.
"""

from __future__ import annotations

import math
from collections import Counter
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
from dessim.units import counted
from dessim.workload.dag import Workload

MOST_TIMES = 100_000
"""How often the faults of a file may strike together."""


class FaultTable(Table):
    """`[[fault]]`: a link, switch or NIC, from when to when, and the rate left; `every` and `times` repeat it."""

    link: str | None = None
    switch: str | None = None
    nic: str | None = None
    at: Seconds
    until: Seconds | None = None
    rate: Percent = 0.0
    every: Seconds | None = None
    times: Count | None = None

    @model_validator(mode="after")
    def _is_consistent(self) -> FaultTable:
        if sum(what is not None for what in (self.link, self.switch, self.nic)) != 1:
            raise ValueError('name one thing: link = "leaf3 -> spine1", switch = "spine1" or nic = "node0/nic1"')
        if self.link is not None and "->" not in self.link:
            raise ValueError(f'link = {self.link!r}: write "leaf3 -> spine1" or "leaf3 <-> spine1"')
        if self.until is not None and self.until <= self.at:
            raise ValueError("until must be later than at")
        if (self.every is None) != (self.times is None):
            raise ValueError("every and times belong together")
        if self.every is not None and (self.until is None or self.at + self.every < self.until):
            raise ValueError("a repeated fault must end before it repeats; add until, at most at + every")
        return self

    def build(self) -> list[Fault]:
        name = self.link or self.switch or self.nic or ""
        end = math.inf if self.until is None else self.until
        shifts = [number * (self.every or 0.0) for number in range(self.times or 1)]
        return [Fault(name, self.at + shift, end + shift, self.rate) for shift in shifts]


class StragglersTable(Table):
    """`[stragglers]`: every rank's compute takes longer by a random factor."""

    sigma: Annotated[float, Field(ge=0, le=3)]
    seed: Annotated[int, Field(ge=0)] = 0


class SlowTable(Table):
    """`[[slow_gpu]]`: one rank's compute takes longer by a fixed factor."""

    rank: Annotated[int, Field(ge=0, strict=True)]
    factor: Annotated[float, Field(gt=0)]


class FaultFile(Table):
    """A whole fault file."""

    timeout: Annotated[Seconds, Field(gt=0)] = RETRY_TIMEOUT_S
    fault: tuple[FaultTable, ...] = ()
    stragglers: StragglersTable = StragglersTable(sigma=0.0)
    slow_gpu: tuple[SlowTable, ...] = ()

    @model_validator(mode="after")
    def _is_not_empty(self) -> FaultFile:
        if not (self.fault or self.slow_gpu or self.stragglers.sigma):
            raise ValueError("the file has no faults; add [[fault]], [stragglers] or [[slow_gpu]]")
        repeated = [rank for rank, count in Counter(slow.rank for slow in self.slow_gpu).items() if count > 1]
        if repeated:
            raise ValueError(f"slow_gpu: rank {min(repeated)} is listed twice")
        if sum(fault.times or 1 for fault in self.fault) > MOST_TIMES:
            raise ValueError(f"the faults strike more than {MOST_TIMES:,} times together; repeat them less often")
        return self


@dataclass(frozen=True, slots=True)
class Scenario:
    """The faults of links and the stragglers that a fault file describes; None where it describes none."""

    path: Path
    faults: Faults | None
    stragglers: Stragglers | None

    def slowed(self, workload: Workload) -> Workload:
        """The workload with the compute times of its stragglers."""
        return self.stragglers.slowed(workload) if self.stragglers is not None else workload

    def __str__(self) -> str:
        parts = []
        if self.faults is not None:
            count = len(self.faults.faults)
            parts.append(counted(count, "link fault"))
        if self.stragglers is not None and self.stragglers.slow:
            parts.append(counted(len(self.stragglers.slow), "slow GPU"))
        if self.stragglers is not None and self.stragglers.sigma:
            parts.append(f"stragglers of sigma {self.stragglers.sigma:g}, seed {self.stragglers.seed}")
        return f"assumed: {', '.join(parts)} ({self.path})"


def load_faults(path: Path, cluster: Cluster) -> Scenario:
    """The scenario of a fault file on a cluster. Raises FileError that names the file and each mistaken key."""
    try:
        file = FaultFile.model_validate(read_toml(path))
    except ValidationError as error:
        raise FileError(path, "", problems(error)) from None
    beyond = [slow.rank for slow in file.slow_gpu if slow.rank >= cluster.n_gpus]
    if beyond:
        raise FileError(
            path,
            "slow_gpu",
            f"rank {beyond[0]} is not on {cluster.name}, which has {cluster.n_gpus:,} GPUs",
        )
    faults = Faults(tuple(fault for table in file.fault for fault in table.build()), file.timeout, path)
    faults.check_names(cluster)
    slow = {table.rank: table.factor for table in file.slow_gpu}
    compute = Stragglers(slow, file.stragglers.sigma, file.stragglers.seed)
    return Scenario(path, faults if file.fault else None, compute if slow or file.stragglers.sigma else None)
