"""The record of a run: spans and counters, uninterpreted. dessim.results makes metrics from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from dessim.sim.core.bounds import LATE, Parts
from dessim.sim.core.counters import Load
from dessim.trace.schema import Collective, Kind, Phase
from dessim.workload.dag import Task


@dataclass(frozen=True, slots=True)
class Span:
    """One op of one rank class, in seconds of simulated time.

    `task` was launched at `start` and had finished at `end`. A collective moved data from `moving_since` on, when its
    last rank had arrived. `parts` are the seconds from then on per bottleneck (dessim.sim.core.bounds). `carried` are
    the bytes that each link class carried for all ranks of a collective together. The op is number `index` of its rank
    class's tasks; `group_size` is the number of ranks in its group, 0 without one.
    """

    rank_class: int
    task: Task
    start: float
    moving_since: float
    end: float
    algorithm: str | None = None
    group_size: int = 0
    parts: Parts = field(default_factory=dict)
    carried: Mapping[str, float] = field(default_factory=dict)
    index: int = 0

    @property
    def name(self) -> str:
        return self.task.name

    @property
    def step(self) -> int:
        return self.task.step

    @property
    def phase(self) -> Phase:
        return self.task.phase

    @property
    def kind(self) -> Kind:
        return self.task.kind

    @property
    def stream(self) -> str:
        return self.task.stream

    @property
    def collective(self) -> Collective | None:
        return self.task.collective

    @property
    def group(self) -> str | None:
        return self.task.group

    @property
    def size(self) -> float:
        """S in bytes, as nccl-tests counts it."""
        return self.task.size

    @property
    def deps(self) -> tuple[int, ...]:
        """Indices of the tasks that it waited for."""
        return self.task.deps

    @property
    def bound_by(self) -> str:
        """The largest bottleneck of the op: one of `parts`, or a late rank."""
        largest = max(self.parts, key=lambda bound: self.parts[bound])
        return LATE if self.moving_since - self.start > self.parts[largest] else largest


@dataclass(slots=True)
class Record:
    """A whole run of a workload.

    `classes[i]` are the ranks of class i; `bytes_by_kind` are the bytes that each link class carried, and `load` their
    distribution over time. `end` is in seconds. `solves` counts how often rates were solved; `flow_colours` and
    `link_colours` are the most classes of flows and links that one stage was folded to; `error` is the largest relative
    error of a stage that a tolerance allowed.
    """

    n_ranks: int
    classes: tuple[Sequence[int], ...]
    spans: list[Span] = field(default_factory=list)
    bytes_by_kind: Mapping[str, float] = field(default_factory=dict)
    load: Load = field(default_factory=Load.nothing)
    end: float = 0.0
    solves: int = 0
    flow_colours: int = 0
    link_colours: int = 0
    error: float = 0.0
