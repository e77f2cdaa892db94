"""Groups of batches that drain together: a batch that is alone on its links, or several that share links.

A stage that runs alone takes the time that was computed when it was routed, so `Solo` multiplies it by the number of
repetitions. `Shared` simulates every finish.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NoReturn

import numpy as np

from dessim.arrays import Bools, Floats, Ints
from dessim.cluster import Cluster
from dessim.errors import SimulationError
from dessim.sim.core.counters import Counters
from dessim.sim.fluid.batches import Batch, due
from dessim.sim.fluid.drain import Chain, Fluid, start_draining
from dessim.sim.fluid.incidence import bound_name, incidence
from dessim.sim.fluid.joint import Joint, JointFolds, is_large, join
from dessim.sim.progress import Progress
from dessim.units import format_time


class Solo:
    """One batch alone on its links, from the start of a stage."""

    def __init__(self, batch: Batch, now: float, counters: Counters, progress: Progress) -> None:
        self.batches = [batch]
        self._batch = batch
        self._start = now
        self._counters = counters
        self._progress = progress
        self._stage_s = batch.flows.alone(batch.scale)
        self._finished = False

    def next_event(self) -> float:
        return self._start + self._batch.repeat * self._stage_s

    def step(self, now: float) -> list[Batch]:
        """End the batch: the only event is the arrival of its last stage."""
        batch = self._batch
        self._finish_stages(batch.repeat, now)
        # The caller adds the parts of one more stage; all stages have been added here.
        batch.latest = {}
        batch.repeat = 1
        self._finished = True
        return [batch]

    def release(self, now: float) -> int:
        """Stop multiplying: drain the current stage up to `now`. Returns the number of solves."""
        if self._finished:
            return 0
        batch = self._batch
        flows = batch.flows
        passed = min(int((now - self._start) / self._stage_s), batch.repeat - 1) if self._stage_s > 0 else 0
        time = self._start + passed * self._stage_s
        self._finish_stages(passed, time)
        batch.repeat -= passed
        batch.restart(time)
        size = flows.messages.size[flows.folded.flow_of] * batch.scale
        fluid = start_draining(flows.folded.net, size, flows.chain())
        while not fluid.empty and not due(now, time):
            self._progress.check()
            step = min(fluid.next_finish(), now - time)
            time += step
            for colour in fluid.advance(step).tolist():
                reduction = float(flows.reduction[colour]) * batch.scale
                batch.note_drained(time, flows.bound[colour], float(flows.fixed[colour]), reduction)
            batch.fresh = False
        batch.remaining = fluid.remaining[flows.folded.colour]
        batch.counted = False
        if flows.messages.after is not None and isinstance(fluid, Fluid):
            batch.countdown = fluid.countdown
        return fluid.solves

    def _finish_stages(self, stages: int, until: float) -> None:
        batch = self._batch
        batch.add(batch.flows.parts_alone(batch.scale), stages)
        self._counters.carried(self._start, until, batch.flows.bytes_by_kind * (batch.scale * stages))


@dataclass(frozen=True, slots=True, eq=False)
class _Joined:
    """The messages of several batches, one batch after the other.

    Per batch, `rows` are its messages. Per message: its `batch`, the bytes that remain of it (`size`), and the seconds
    that it needs after it has drained, `fixed` for latency and overhead and `reduction` for its receiver.
    """

    rows: list[slice]
    batch: Ints
    size: Floats
    fixed: Floats
    reduction: Floats
    chain: Chain | None

    @classmethod
    def of(cls, batches: list[Batch]) -> _Joined:
        counts = np.array([len(b.remaining) for b in batches])
        ends = np.cumsum(counts).tolist()
        rows = [slice(end - count, end) for end, count in zip(ends, counts.tolist(), strict=True)]
        fixed = np.concatenate([b.flows.fixed[b.flows.folded.colour] for b in batches])
        return cls(
            rows=rows,
            batch=np.repeat(np.arange(len(batches)), counts),
            size=np.concatenate([b.remaining for b in batches]),
            fixed=fixed,
            reduction=np.concatenate([b.flows.reduction[b.flows.folded.colour] * b.scale for b in batches]),
            chain=_chain(batches, rows, fixed),
        )

    def folded(self, batches: list[Batch], cluster: Cluster, folding: bool) -> Joint:
        """The joint fold of the messages. Large ones are kept for the next time that the same stages share links."""
        after = self.fixed + self.reduction
        number = self.batch.astype(np.float64)
        folding = folding and self.chain is None

        def fold_anew() -> Joint:
            crossings = [batch.crossings(cluster) for batch in batches]
            return join(cluster, crossings, self.size, after, number, folding)

        # Folds of a cluster with links that are down are not kept.
        is_kept = folding and is_large(len(self.size)) and cluster.links.capacity.all()
        kept = _kept_folds(batches) if is_kept else None
        if kept is None:
            return fold_anew()
        folds, stages = kept
        return folds.joint(stages, self.size, after, number, fold_anew)


def _kept_folds(batches: list[Batch]) -> tuple[JointFolds, list[int]] | None:
    """The store of the joint folds of the batches' stages, and the stages' numbers in it; None if they have none."""
    routed = [batch.flows.routed for batch in batches if batch.flows.routed is not None]
    if len(routed) < len(batches) or any(folds is not routed[0][0] for folds, _ in routed):
        return None
    return routed[0][0], [stage for _, stage in routed]


def _chain(batches: list[Batch], rows: list[slice], fixed: Floats) -> Chain | None:
    """Which messages wait for others; None if none does."""
    if all(batch.flows.messages.after is None for batch in batches):
        return None
    after = np.full(len(fixed), -1, dtype=np.int64)
    left = np.zeros(len(fixed))
    for batch, at in zip(batches, rows, strict=True):
        waits_for = batch.flows.messages.after
        if waits_for is not None:
            after[at] = np.where(waits_for >= 0, waits_for + at.start, -1)
            left[at] = batch.countdown if batch.countdown is not None else 0.0
    return Chain(after, fixed, left)


class Shared:
    """Batches that share links and drain together.

    Messages without a route are blocked; `step` raises SimulationError when one has been blocked for `timeout` seconds.
    """

    def __init__(
        self,
        batches: list[Batch],
        now: float,
        cluster: Cluster,
        folding: bool,
        counters: Counters,
        timeout: float,
    ) -> None:
        self.batches = batches
        self._now = now
        self._cluster = cluster
        self._counters = counters
        self._timeout = timeout
        joined = _Joined.of(batches)
        self._rows = joined.rows
        joint = joined.folded(batches, cluster, folding)
        self._fold = joint.fold
        blocked = joint.blocked
        self._blocked_size = np.where(blocked, joined.size, 0.0)
        size = joined.size - self._blocked_size
        flow_of = self._fold.flow_of
        self._fluid = start_draining(self._fold.net, size[flow_of], joined.chain)
        # Per colour: its batch, and its seconds after draining.
        self._batch_of: Ints = joined.batch[flow_of]
        self._fixed: Floats = joined.fixed[flow_of]
        self._reduction: Floats = joined.reduction[flow_of]
        # Per batch: how many colours and blocked messages have not drained.
        self._draining = np.bincount(self._batch_of[self._fluid.remaining > 0], minlength=len(batches))
        self._draining += np.bincount(joined.batch[blocked], minlength=len(batches))
        self._deadline = self._note_blocked(blocked) + timeout
        self._carried_per_byte = joint.carried_per_byte
        self._left: Floats = self._fluid.remaining.copy()
        self._count_stages_so_far()

    def next_event(self) -> float:
        times = [b.arrived for b, draining in zip(self.batches, self._draining, strict=True) if not draining]
        if not self._fluid.empty:
            times.append(self._now + self._fluid.next_finish())
        return min([*times, self._deadline])

    def step(self, now: float) -> list[Batch]:
        """Drain until `now`. Returns the batches whose stage has arrived.

        Raises SimulationError when a message has been blocked for too long.
        """
        if due(self._deadline, now):
            self._fail()
        if not self._fluid.empty:
            self._drain(now)
        self._now = now
        return [
            batch
            for batch, draining in zip(self.batches, self._draining, strict=True)
            if not draining and due(batch.arrived, now)
        ]

    def release(self, now: float) -> int:
        """Return the remaining bytes to the batches. Returns the number of solves."""
        self.step(now)
        remaining = self._fluid.remaining[self._fold.colour] + self._blocked_size
        for batch, at in zip(self.batches, self._rows, strict=True):
            batch.remaining = remaining[at]
            if batch.flows.messages.after is not None and isinstance(self._fluid, Fluid):
                batch.countdown = self._fluid.countdown[at]
        return self._fluid.solves

    def _drain(self, now: float) -> None:
        fluid = self._fluid
        until_finish = fluid.next_finish()
        # Rounding may put `now` just before a finish, but never after it.
        seconds = until_finish if due(self._now + until_finish, now) else now - self._now
        bound = fluid.bound
        for colour in fluid.advance(seconds).tolist():
            number = int(self._batch_of[colour])
            self._draining[number] -= 1
            name = bound_name(self._cluster.links, self._fold, int(bound[colour]))
            fixed = float(self._fixed[colour])
            self.batches[number].note_drained(now, name, fixed, float(self._reduction[colour]))
        left = fluid.remaining
        self._counters.carried(self._now, now, (self._left - left) @ self._carried_per_byte)
        self._left = left.copy()

    def _count_stages_so_far(self) -> None:
        """Enter the bytes that current stages carried while their batches were alone: all but those that are left."""
        for number, batch in enumerate(self.batches):
            batch.fresh = False
            if not batch.counted:
                left = np.where(self._batch_of == number, self._left, 0.0) @ self._carried_per_byte
                whole = batch.flows.bytes_by_kind * batch.scale
                self._counters.carried(batch.began, self._now, np.maximum(whole - left, 0.0))
                batch.counted = True

    def _note_blocked(self, blocked: Bools) -> float:
        """Note which messages are `blocked` [n_messages]. Returns the time since which the first is; inf if none is."""
        for batch, at in zip(self.batches, self._rows, strict=True):
            mine = blocked[at]
            earliest = np.minimum(batch.blocked_since, self._now)
            batch.blocked_since = np.where(mine, earliest, math.inf) if mine.any() else math.inf
        return min(float(np.min(batch.blocked_since)) for batch in self.batches)

    def _fail(self) -> NoReturn:
        """Raise SimulationError for the message that has been blocked for longest."""
        batch = min(self.batches, key=lambda batch: float(np.min(batch.blocked_since)))
        first = int(np.argmin(batch.blocked_since))
        messages = batch.flows.messages
        net, _, _ = incidence(self._cluster, messages.src, messages.dst, messages.trees, messages.size)
        down = net.link[(net.flow == first) & (net.capacity[net.link] == 0)][0]
        raise SimulationError(
            f"gpu{messages.src[first]} could not reach gpu{messages.dst[first]} for {format_time(self._timeout)}, "
            f"starting at {format_time(float(np.min(batch.blocked_since)))}: {self._cluster.links.name(int(down))} is "
            "down and no other route exists"
        )
