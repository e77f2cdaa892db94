"""A batch: messages that start together, in a stage that may repeat.

Seconds of stages are kept per bottleneck of the message that arrived last (`Parts`): the link class or flow cap that
limited it when it finished draining, its latency after that, and its reduction by the receiver.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import simpy

from dessim.arrays import Floats
from dessim.cluster import Cluster
from dessim.sim.core.bounds import LATENCY, REDUCTION, Parts, add_parts
from dessim.sim.core.counters import Counters
from dessim.sim.fluid.few_flows import Path
from dessim.sim.fluid.flows import Flows
from dessim.sim.fluid.incidence import Crossings, incidence

_RELATIVE_TIE = 1e-14  # instants this close are the same


def due(time: float, now: float) -> bool:
    """Whether `time` has been reached."""
    return time - now <= _RELATIVE_TIE * now


@dataclass(frozen=True, slots=True, eq=False)
class OneMessage:
    """One message in plain numbers: the links that it crosses, ascending, with its weight on each; its cap [bytes/s];
    and the bytes that each link class carries per byte of it [link classes]. `blocked`: it has no route."""

    path: Path
    cap: float
    carried_per_byte: Floats
    blocked: bool

    @classmethod
    def of(cls, crossings: Crossings, cluster: Cluster) -> OneMessage:
        net, _, copies = crossings
        return cls(
            path=tuple(sorted(zip(net.link.tolist(), net.weight.tolist(), strict=True))),
            cap=math.inf if net.cap is None else float(net.cap[0]),
            carried_per_byte=np.bincount(
                cluster.links.kind[net.link], net.weight * copies, len(cluster.links.kinds)
            ).astype(np.float64),
            blocked=not net.capacity[net.link].all(),
        )


@dataclass(slots=True, eq=False)
class Batch:
    """Messages in flight.

    The current stage began at `began` and has `remaining` [n_messages] bytes left. `arrived` is its latest arrival so
    far, and `latest` are the seconds per bottleneck of that arrival. `repeat` stages are left, including the current
    one. `parts` are the seconds per bottleneck of finished stages; `done` fires with them when no stage is left.
    """

    flows: Flows
    scale: float
    repeat: int
    done: simpy.Event
    remaining: Floats
    began: float
    arrived: float
    fresh: bool = True  # whether the current stage has just begun
    counted: bool = True  # whether the counters have everything that the current stage carried so far
    latest: Parts = field(default_factory=dict)
    parts: dict[str, float] = field(default_factory=dict)
    blocked_since: Floats | float = math.inf  # when each message began to wait for a route; inf if it has one
    countdown: Floats | None = None  # seconds until each message that waited for another may begin
    _crossings: Crossings | None = None
    _alone: OneMessage | None = None
    _is_single: bool | None = None

    def crossings(self, cluster: Cluster) -> Crossings:
        """The links that the messages cross. They are worked out once, however often the batch is regrouped."""
        if self.flows.crossings is not None:
            return self.flows.crossings
        if self._crossings is None:
            messages = self.flows.messages
            self._crossings = incidence(cluster, messages.src, messages.dst, messages.trees, messages.size)
        return self._crossings

    def one_message(self, cluster: Cluster) -> OneMessage:
        """The only message of the batch, in plain numbers; worked out once, like `crossings`."""
        if self._alone is None:
            self._alone = OneMessage.of(self.crossings(cluster), cluster)
        return self._alone

    def is_single(self, cluster: Cluster) -> bool:
        """Whether it is one message that waits for no other and has a route; worked out once, like `crossings`."""
        if self._is_single is None:
            is_one = len(self.remaining) == 1 and self.flows.messages.after is None
            self._is_single = is_one and not self.one_message(cluster).blocked
        return self._is_single

    def restart(self, now: float) -> None:
        """Begin the next stage."""
        self.remaining = self.flows.messages.size * self.scale
        self.countdown = self.flows.messages.begins
        self.fresh = True
        self.began = now
        self.arrived = now

    def note_drained(self, now: float, bound: str, fixed: float, reduction: float) -> None:
        """Note that a colour has drained. The colour that arrives last determines the parts of the stage."""
        fixed, reduction = self.flows.after_draining(now - self.began, fixed, reduction)
        time = now + (fixed + reduction)
        if time >= self.arrived:
            self.arrived = time
            self.latest = {bound: now - self.began, LATENCY: fixed, REDUCTION: reduction}

    def add(self, parts: Parts, stages: int = 1) -> None:
        """Note that `stages` have finished and took `parts` each."""
        add_parts(self.parts, parts, stages)

    def move(self, before: Cluster, after: Cluster, now: float, folding: bool, counters: Counters) -> None:
        """Send the remaining bytes over the routes of `after` instead of those of `before`."""
        left = self.flows.load(before, self.remaining)
        stage_before = self.flows.bytes_by_kind * self.scale
        if not self.counted:
            counters.carried(self.began, now, np.maximum(stage_before - left, 0.0))
            self.counted = True
        self.flows = self.flows.rerouted(after, folding)
        self._crossings = None
        self._alone = None
        self._is_single = None
        # Correct the announced bytes: those of the current stage by what is left of it, those of later stages in full.
        current = self.flows.load(after, self.remaining) - left
        later = self.flows.bytes_by_kind * self.scale - stage_before
        counters.begin(self.flows.links, current + later * (self.repeat - 1))
