"""Routed stages of collectives, for reuse across ops, steps and simulations of one cluster.

Routing and folding a stage costs far more than draining it. Stages with the same pattern of messages, over the same
group of GPUs and with the same relative sizes, differ by one factor only, the *scale*. An all_to_all has thousands of
patterns, so entries are small: they hold no messages (the caller has them), and patterns that use the same links share
one list of links.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np

from dessim.arrays import Floats, Ints
from dessim.cluster import Cluster
from dessim.collectives import Options, Stage
from dessim.collectives.choose import Floor
from dessim.sim.fluid.flows import Flows, route_messages
from dessim.sim.fluid.fold import FoldsTooLittle
from dessim.sim.fluid.joint import JointFolds
from dessim.sim.fluid.messages import Messages
from dessim.sim.fluid.nccl_calls import NcclGroup
from dessim.sim.progress import Progress


class RouteCache:
    """Stages routed on `cluster`.

    `folding=False` simulates every flow by itself, for tests. `tolerance` is the share of a stage's makespan by which a
    finish may be off where many different flows drain (`dessim.sim.fluid.drain.drain`).
    """

    def __init__(self, cluster: Cluster, folding: bool = True, tolerance: float = 0.0) -> None:
        self.cluster = cluster
        self.folding = folding
        self.tolerance = tolerance
        self._scaled: dict[tuple[object, ...], Flows] = {}
        self._chained: dict[tuple[object, ...], Flows] = {}
        self._refused: set[tuple[object, ...]] = set()  # stages, each with a number of colours that it exceeds
        self._links: dict[bytes, Ints] = {}
        self._groups: dict[bytes, int] = {}
        self._joint_folds = JointFolds()
        self._states: dict[bytes, RouteCache] = {}
        # Choices of the tuner (dessim.sim.fluid.tuner) and its bounds by group, which cost as much as routing.
        self.chosen: dict[tuple[object, ...], tuple[str, Options]] = {}
        self.floors: dict[tuple[int, bool], Floor] = {}
        # Groups as NCCL's model sees them, by GPUs and options.
        self.nccl: dict[tuple[bytes, Options], NcclGroup] = {}

    def on(self, cluster: Cluster) -> RouteCache:
        """The cache for another state of the cluster, such as one with a link down. Each state keeps its cache."""
        key = cluster.links.capacity.tobytes()
        if key == self.cluster.links.capacity.tobytes():
            return self
        return self._states.setdefault(key, RouteCache(cluster, self.folding, self.tolerance))

    def group(self, gpus: Ints) -> int:
        """A number for a group on these GPUs."""
        return self._groups.setdefault(gpus.tobytes(), len(self._groups))

    def stage(
        self,
        gpus: Ints,
        stage: Stage,
        progress: Progress | None = None,
        most_colours: int | None = None,
        bare: bool = False,
    ) -> tuple[Flows, float]:
        """The flows of a stage over the group on `gpus`, and the scale [bytes] by which to multiply their sizes.

        `bare` flows may lack their messages, for callers that need their times only. Raises OutOfTime when the time
        budget of `progress` is spent, and FoldsTooLittle where a stage of free messages has more than `most_colours`.
        """
        relative, scale = _scaled(stage)
        if not stage.pattern or not stage.size.any():
            return self._route(gpus, stage, relative, progress, most_colours), scale
        group = self.group(gpus)
        if stage.after is not None:
            key: tuple[object, ...] = (stage.pattern, stage.size.tobytes(), group)
            if key not in self._chained:
                self._chained[key] = self._route(gpus, stage, relative, progress)
            return self._chained[key], scale
        is_even = float(stage.size.min()) == scale
        shape = b"" if is_even else hashlib.blake2b(relative.tobytes()).digest()
        # Which receivers add up matters only where adding takes time.
        reducing = stage.reduce if self.cluster.transport.reduction_rate < np.inf else False
        reduces = reducing if isinstance(reducing, bool) else reducing.tobytes()
        key = (stage.pattern, reduces, shape, group, stage.in_flight, stage.continues)
        if key in self._scaled:
            known = self._scaled[key]
            return known if bare else known.with_messages(_messages(gpus, stage, relative)), scale
        if (key, most_colours) in self._refused:
            raise FoldsTooLittle
        try:
            flows = self._route(gpus, stage, relative, progress, most_colours)
        except FoldsTooLittle:
            self._refused.add((key, most_colours))
            raise
        used = np.zeros(len(self.cluster.links), dtype=bool)
        used[flows.links] = True
        flows = replace(flows, routed=(self._joint_folds, self._joint_folds.add_stage()))
        self._scaled[key] = flows.without_messages(self._links.setdefault(np.packbits(used).tobytes(), flows.links))
        return flows, scale

    def messages(self, gpus: Ints, stage: Stage) -> tuple[Messages, float]:
        """The messages of the flows that `stage` returns, and their scale, without routing them."""
        relative, scale = _scaled(stage)
        return _messages(gpus, stage, relative).nonempty(), scale

    def _route(
        self, gpus: Ints, stage: Stage, size: Floats, progress: Progress | None, most_colours: int | None = None
    ) -> Flows:
        return route_messages(
            self.cluster,
            _messages(gpus, stage, size),
            folding=self.folding,
            tolerance=self.tolerance,
            progress=progress,
            most_colours=most_colours,
        )


def _scaled(stage: Stage) -> tuple[Floats, float]:
    """The sizes [n_messages] with which a stage is routed, and the scale [bytes] by which to multiply them.

    Delays do not scale with size, so each size is routed by itself where messages wait for others.
    """
    largest = float(stage.size.max(initial=0.0))
    if not stage.pattern or largest == 0 or stage.after is not None:
        return stage.size, 1.0
    return np.ones(len(stage.size)) if float(stage.size.min()) == largest else stage.size / largest, largest


def _messages(gpus: Ints, stage: Stage, size: Floats) -> Messages:
    """The messages of a stage over the group on `gpus`, of `size` [n_messages] bytes."""
    return Messages(
        src=gpus[stage.src],
        dst=gpus[stage.dst],
        size=size,
        reduce=stage.reduce,
        trees=stage.trees.on(gpus) if stage.trees is not None else None,
        in_flight=stage.in_flight,
        continues=stage.continues,
        after=stage.after,
        begins=stage.begins,
    )
