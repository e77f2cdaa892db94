"""What happened: spans and counters, no opinions. Metrics are made from it in dessim.results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from dessim.sim.core.bounds import LATE, Parts
from dessim.sim.core.counters import Load
from dessim.trace.schema import Collective, Kind, Phase


@dataclass(frozen=True, slots=True)
class Span:
    """One op of one rank class, in seconds of simulated time.

    It was launched at `start` and over at `end`; a collective moved data from `moving`, when its last member had come,
    and `parts` are the seconds from then on by what bound them: compute, latency, a link class, the flow cap, or the
    receivers' reduction. `carried` are the bytes that each link class carried for all members of a collective together.
    It is number `index` of its class's tasks, and waited for those in `deps`.
    """

    rank_class: int
    name: str
    step: int
    phase: Phase
    kind: Kind
    stream: str
    start: float
    moving: float
    end: float
    collective: Collective | None = None
    algorithm: str | None = None
    size: float = 0.0
    group: str | None = None
    group_size: int = 0
    parts: Parts = field(default_factory=dict)
    carried: Mapping[str, float] = field(default_factory=dict)
    index: int = 0
    deps: tuple[int, ...] = ()

    @property
    def bound_by(self) -> str:
        """What took the most of its time: one of `parts`, or a late rank."""
        largest = max(self.parts, key=lambda bound: self.parts[bound])
        return LATE if self.moving - self.start > self.parts[largest] else largest


@dataclass(slots=True)
class Record:
    """A whole run. `classes[i]` are the ranks of class i; `bytes_by_kind` what each link class carried, `load` when.

    `solves` counts how often rates were solved; `flow_colours` and `link_colours` are the most that messages of one
    stage were folded to; `error` is the largest relative error of a stage that a tolerance let in.
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
