"""The choice of an algorithm and its chunks: the fastest on an idle network, as a tuner would choose."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from dessim.arrays import Floats, Ints
from dessim.collectives import Layout, Options, Stage, algorithms_for, schedule, variants
from dessim.collectives.choose import Floor, fastest
from dessim.sim.fluid.fold import FoldsTooLittle
from dessim.sim.fluid.route_cache import RouteCache
from dessim.sim.progress import Progress
from dessim.trace.schema import Collective

AUTO = "auto"
MOST_COLOURS = 2**14
"""`auto` leaves out an algorithm if a stage has more different flows: draining them would take too long."""

Choice = tuple[str, Options]
"""An algorithm and its options."""


@dataclass(frozen=True, slots=True, eq=False)
class Wanted:
    """A collective `op` over `group` on S = `size` bytes, or on `sizes` [n, n] bytes from each rank to each other.

    `algorithm` is a name, or `AUTO`. With `bytes_only`, latency and overhead are counted elsewhere.
    """

    op: Collective
    group: str
    size: float
    sizes: Floats | None = None
    algorithm: str = AUTO
    bytes_only: bool = False


class Tuner:
    """Chooses for groups with the given `gpus` and `layouts`, by times on `routed`, whose cluster is as built."""

    def __init__(
        self,
        routed: RouteCache,
        gpus: Mapping[str, Ints],
        layouts: Mapping[str, Layout],
        options: Options | None = None,
    ) -> None:
        self._routed = routed
        self._gpus = gpus
        self._layouts = layouts
        self._options = options

    def choices(self, wanted: Wanted) -> list[Choice]:
        """The candidates: algorithms, and for pipelines each number of chunks."""
        names: Sequence[str] = (wanted.algorithm,)
        if wanted.algorithm == AUTO:
            offered = self._routed.cluster.transport.algorithms.get(wanted.op, ())
            names = algorithms_for(wanted.op, self._layouts[wanted.group], wanted.sizes is not None, offered)
        return [(name, options) for name in names for options in variants(wanted.op, name, self._options)]

    def choose(self, wanted: Wanted, choices: Sequence[Choice], progress: Progress) -> Choice:
        """The fastest of `choices`."""
        if len(choices) == 1:
            return choices[0]
        if wanted.bytes_only and wanted.sizes is None:
            wanted = replace(wanted, size=1.0)  # without latency, all times are proportional to the size
        sizes = None if wanted.sizes is None else wanted.sizes.tobytes()
        group = self._routed.group(self._gpus[wanted.group])
        key = (wanted.op, group, wanted.size, sizes, wanted.algorithm, wanted.bytes_only, self._options)
        if key not in self._routed.chosen:
            self._routed.chosen[key] = self._fastest(choices, wanted, progress)
        return self._routed.chosen[key]

    def _fastest(self, choices: Sequence[Choice], wanted: Wanted, progress: Progress) -> Choice:
        gpus = self._gpus[wanted.group]
        layout = self._layouts[wanted.group]
        floor = self._floor(wanted)
        bounded = 0
        priced = 0

        def bound(stage: Stage) -> float:
            nonlocal bounded
            progress.check()
            bounded += 1
            return floor(stage)

        def price(stage: Stage) -> float:
            nonlocal priced
            within = progress.within(priced, bounded, "stages_priced")
            priced += 1
            try:
                flows, scale = self._routed.stage(gpus, stage, within, MOST_COLOURS, bare=True)
            except FoldsTooLittle:
                return math.inf
            return (flows.without_latency() if wanted.bytes_only else flows).alone(scale)

        return fastest(
            choices,
            lambda choice: schedule(wanted.op, choice[0], layout, wanted.size, sizes=wanted.sizes, options=choice[1]),
            bound,
            price,
        )

    def _floor(self, wanted: Wanted) -> Floor:
        """The lower bound for stages of the group, which keeps what it learns of them."""
        gpus = self._gpus[wanted.group]
        key = (self._routed.group(gpus), wanted.bytes_only)
        if key not in self._routed.floors:
            self._routed.floors[key] = Floor(self._routed.cluster, gpus, wanted.bytes_only)
        return self._routed.floors[key]
