"""Batches of messages under way, and the groups that drain them: one alone on its links, or several that share some.

What a stage took is kept in parts, by what bound the last message to arrive: the link class (or flow cap) that limited
it when it had drained, what it then still needed as latency, and as the receiver's reduction.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import NoReturn

import numpy as np
import simpy

from dessim.arrays import Bools, Floats, Ints
from dessim.cluster import Cluster
from dessim.errors import SimulationError
from dessim.sim.core.bounds import LATENCY, REDUCTION, Parts, add_parts
from dessim.sim.core.counters import Counters
from dessim.sim.fluid.drain import Chain, Fluid, start_draining
from dessim.sim.fluid.flows import (
    Flows,
    bound_kind,
    incidence,
    on_cluster,
    together,
    without_held,
)
from dessim.sim.fluid.fold import fold
from dessim.sim.fluid.maxmin import Incidence
from dessim.sim.progress import Progress
from dessim.units import format_time

_SAME = 1e-14  # relative; instants this close are one


def due(time: float, now: float) -> bool:
    """Whether `time` has come."""
    return time - now <= _SAME * now


@dataclass(slots=True, eq=False)
class Batch:
    """Messages under way. `remaining` [flows] bytes of the current stage, which began at `began`; `arrived` its latest
    arrival so far. `parts` are those of the stages that are over, `latest` of the current one as far as it has come."""

    flows: Flows
    scale: float
    repeat: int  # stages left, the current one included
    done: simpy.Event
    remaining: Floats
    began: float
    arrived: float
    fresh: bool = True  # at the start of a stage
    counted: bool = True  # whether what the stage carried so far was entered
    latest: Parts = field(default_factory=dict)
    parts: dict[str, float] = field(default_factory=dict)
    since: Floats | float = math.inf  # when each message began to wait for a way; inf where there is one
    countdown: Floats | None = None  # seconds until each message that waited for another may begin
    _ways: tuple[Incidence, Floats, Floats] | None = None  # looked up once, however often groups change

    def ways(self, cluster: Cluster) -> tuple[Incidence, Floats, Floats]:
        """The links that the messages cross, as `dessim.sim.fluid.flows.incidence` has them."""
        if self._ways is None:
            flows = self.flows
            self._ways = incidence(cluster, flows.src, flows.dst, flows.trees, flows.size)
        return self._ways

    def restart(self, now: float) -> None:
        """The next stage begins."""
        self.remaining, self.fresh, self.countdown = self.flows.size * self.scale, True, self.flows.begins
        self.began = self.arrived = now

    def land(self, now: float, bound: str, fixed: float, reduction: float) -> None:
        """A colour has drained at `now`; the one that arrives last decides what the stage took its time for."""
        fixed, reduction = self.flows.late(now - self.began, fixed, reduction)
        time = now + (fixed + reduction)
        if time >= self.arrived:
            self.arrived = time
            self.latest = {bound: now - self.began, LATENCY: fixed, REDUCTION: reduction}

    def add(self, parts: Parts, stages: int = 1) -> None:
        """`stages` are over that took `parts` each."""
        add_parts(self.parts, parts, stages)

    def move(self, before: Cluster, after: Cluster, now: float, folding: bool, counters: Counters) -> None:
        """The cluster is another: what is left, to the byte, takes the ways that it has now."""
        left, stage = self.flows.load(before, self.remaining), self.flows.bytes_by_kind * self.scale
        if not self.counted:
            counters.carried(self.began, now, np.maximum(stage - left, 0.0))
            self.counted = True
        self.flows, self._ways = self.flows.on(after, folding), None
        more = self.flows.load(after, self.remaining) - left
        stages = self.flows.bytes_by_kind * self.scale - stage
        counters.begin(self.flows.links, more + stages * (self.repeat - 1))


class Solo:
    """One batch alone on its links, from the start of a stage."""

    def __init__(self, batch: Batch, now: float, counters: Counters, progress: Progress) -> None:
        self.batches, self._counters, self._progress = [batch], counters, progress
        self._batch, self._start = batch, now
        self._period = batch.flows.alone(batch.scale)
        self._over = False

    def next_event(self) -> float:
        return self._start + self._batch.repeat * self._period

    def step(self, now: float) -> list[Batch]:
        """The only event is the arrival of the last stage."""
        batch = self._batch
        self._pass(batch.repeat, now)
        batch.latest = {}
        self._over, batch.repeat = True, 1
        return [batch]

    def _pass(self, stages: int, until: float) -> None:
        batch = self._batch
        batch.add(batch.flows.parts_alone(batch.scale), stages)
        self._counters.carried(self._start, until, batch.flows.bytes_by_kind * (batch.scale * stages))

    def release(self, now: float) -> int:
        """Stop multiplying: work out how far the current stage has come. Returns the number of solves."""
        if self._over:
            return 0
        batch, flows = self._batch, self._batch.flows
        passed = min(int((now - self._start) / self._period), batch.repeat - 1) if self._period > 0 else 0
        at = self._start + passed * self._period
        self._pass(passed, at)
        batch.repeat -= passed
        batch.restart(at)
        fluid = start_draining(flows.folded.net, flows.size[flows.folded.flow_of] * batch.scale, flows.chain())
        while not fluid.empty and not due(now, at):
            self._progress.check()
            step = min(fluid.next_finish(), now - at)
            at += step
            for colour in fluid.advance(step).tolist():
                reduction = float(flows.per_scale[colour]) * batch.scale
                batch.land(at, flows.bound[colour], float(flows.fixed[colour]), reduction)
            batch.fresh = False
        batch.remaining, batch.counted = fluid.remaining[flows.folded.colour], False
        if flows.after is not None and isinstance(fluid, Fluid):
            batch.countdown = fluid.countdown
        return fluid.solves


class Shared:
    """Batches that share links, drained together. Messages with no way left are held, for `timeout` seconds at most."""

    def __init__(
        self,
        batches: list[Batch],
        now: float,
        cluster: Cluster,
        folding: bool,
        counters: Counters,
        timeout: float,
    ) -> None:
        self.batches, self._at, self._links, self._counters = batches, now, cluster.links, counters
        counts = np.array([len(b.remaining) for b in batches])
        self._offset = np.concatenate([[0], np.cumsum(counts)])
        size = np.concatenate([b.remaining for b in batches])
        fixed = np.concatenate([b.flows.fixed[b.flows.folded.colour] for b in batches])
        reduction = np.concatenate([b.flows.per_scale[b.flows.folded.colour] * b.scale for b in batches])
        owner = np.repeat(np.arange(len(batches)), counts)
        nets = [batch.ways(cluster) for batch in batches]
        flow = np.concatenate([net.flow + o for (net, _, _), o in zip(nets, self._offset[:-1], strict=True)])
        link = np.concatenate([net.link for net, _, _ in nets])
        weight = np.concatenate([net.weight for net, _, _ in nets])
        loads = size[flow] > 0  # what has drained loads no link
        net = on_cluster(cluster, len(size), flow[loads], link[loads], weight[loads])
        net, held = without_held(net)
        self._held = np.where(held, size, 0.0)
        size = size - self._held
        chain = self._chain(batches, fixed)
        self._fold = fold(net, together(size, fixed + reduction, owner.astype(np.float64)), folding and chain is None)
        self._fluid = start_draining(self._fold.net, size[self._fold.flow_of], chain)
        self._owner: Ints = owner[self._fold.flow_of]
        self._fixed: Floats = fixed[self._fold.flow_of]
        self._reduction: Floats = reduction[self._fold.flow_of]
        self._draining = np.bincount(self._owner[self._fluid.remaining > 0], minlength=len(batches))
        self._draining += np.bincount(owner[held], minlength=len(batches))
        self._gives_up = self._wait(held, now) + timeout
        self._cluster, self._timeout = cluster, timeout
        # Bytes that each link class carries for a byte of each colour, which stands for all its flows.
        self._carries = np.zeros((len(self._owner), len(cluster.links.kinds)))
        copies = np.concatenate([copies for _, _, copies in nets])
        np.add.at(self._carries, (self._fold.colour[flow], cluster.links.kind[link]), weight * copies)
        self._left: Floats = self._fluid.remaining.copy()
        for number, batch in enumerate(batches):
            batch.fresh = False
            if not batch.counted:
                # What a stage carried while it was alone is what it does not carry from here on.
                left = np.where(self._owner == number, self._left, 0.0) @ self._carries
                whole = batch.flows.bytes_by_kind * batch.scale
                counters.carried(batch.began, now, np.maximum(whole - left, 0.0))
                batch.counted = True

    def next_event(self) -> float:
        times = [b.arrived for b, left in zip(self.batches, self._draining, strict=True) if not left]
        if not self._fluid.empty:
            times.append(self._at + self._fluid.next_finish())
        return min([*times, self._gives_up])

    def step(self, now: float) -> list[Batch]:
        """Drain until `now`. Returns the batches whose stage has arrived. Raises SimulationError for a message that
        has waited too long."""
        if due(self._gives_up, now):
            self._give_up()
        fluid = self._fluid
        if not fluid.empty:
            ends = fluid.next_finish()
            # The clock may miss a finish by a rounding error; it never runs past one.
            seconds = ends if due(self._at + ends, now) else now - self._at
            bound = fluid.bound
            for colour in fluid.advance(seconds).tolist():
                number = int(self._owner[colour])
                self._draining[number] -= 1
                kind = bound_kind(self._links, self._fold, int(bound[colour]))
                self.batches[number].land(now, kind, float(self._fixed[colour]), float(self._reduction[colour]))
            left = fluid.remaining
            self._counters.carried(self._at, now, (self._left - left) @ self._carries)
            self._left = left.copy()
        self._at = now
        return [b for b, left in zip(self.batches, self._draining, strict=True) if not left and due(b.arrived, now)]

    def release(self, now: float) -> int:
        """Give every batch its remaining bytes back. Returns the number of solves."""
        self.step(now)
        remaining = self._fluid.remaining[self._fold.colour] + self._held
        for batch, a, b in zip(self.batches, self._offset[:-1], self._offset[1:], strict=True):
            batch.remaining = remaining[a:b]
            if batch.flows.after is not None and isinstance(self._fluid, Fluid):
                batch.countdown = self._fluid.countdown[a:b]
        return self._fluid.solves

    def _chain(self, batches: list[Batch], fixed: Floats) -> Chain | None:
        """Which message each waits for, where any does."""
        if all(batch.flows.after is None for batch in batches):
            return None
        after, left = np.full(len(fixed), -1, dtype=np.int64), np.zeros(len(fixed))
        for batch, a, b in zip(batches, self._offset[:-1], self._offset[1:], strict=True):
            if batch.flows.after is not None:
                after[a:b] = np.where(batch.flows.after >= 0, batch.flows.after + a, -1)
                left[a:b] = batch.countdown if batch.countdown is not None else 0.0
        return Chain(after, fixed, left)

    def _wait(self, held: Bools, now: float) -> float:
        """Note which messages wait. Returns since when the first has; inf if none does."""
        for batch, a, b in zip(self.batches, self._offset[:-1], self._offset[1:], strict=True):
            waits = held[a:b]
            batch.since = np.where(waits, np.minimum(batch.since, now), math.inf) if waits.any() else math.inf
        return min(float(np.min(batch.since)) for batch in self.batches)

    def _give_up(self) -> NoReturn:
        batch = min(self.batches, key=lambda batch: float(np.min(batch.since)))
        first, flows = int(np.argmin(batch.since)), batch.flows
        net, _, _ = incidence(self._cluster, flows.src, flows.dst, flows.trees, flows.size)
        down = net.link[(net.flow == first) & (net.capacity[net.link] == 0)][0]
        raise SimulationError(
            f"gpu{flows.src[first]} could not reach gpu{flows.dst[first]} for {format_time(self._timeout)} from "
            f"{format_time(float(np.min(batch.since)))} on: {self._links.name(int(down))} is down, "
            "and no way is left around it"
        )
