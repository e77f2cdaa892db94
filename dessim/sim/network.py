"""The network: one process that lets flows in, drains them at max-min rates, and tells when they have arrived.

A message takes overhead + path latency + fluid time. Messages that start together form a batch; a batch may repeat,
each stage waiting for the one before. Batches that share links form a group and are solved together; groups that share
none are solved apart, and everything that changes at one instant is solved once. A batch alone in its group was priced
when it was routed: its stages are multiplied, not simulated, until somebody else's flows touch its links.
"""

from __future__ import annotations

import math
from collections.abc import Generator
from dataclasses import dataclass

import numpy as np
import simpy

from dessim.cluster import Cluster
from dessim.sim.flows import LATENCY, Flows, bound_kind, incidence, on_cluster, together
from dessim.sim.fluid import start_draining
from dessim.sim.fold import fold
from dessim.sim.maxmin import Floats, Ints
from dessim.sim.watch import Watch

_SAME = 1e-14  # relative; instants this close are one


def _due(time: float, now: float) -> bool:
    return time - now <= _SAME * now


@dataclass(slots=True, eq=False)
class _Batch:
    """Messages under way. `remaining` [flows] bytes of the current stage; `arrived` its latest arrival so far."""

    flows: Flows
    scale: float
    repeat: int  # stages left, the current one included
    done: simpy.Event
    remaining: Floats
    arrived: float
    fresh: bool = True  # at the start of a stage
    bound: str = LATENCY

    def restart(self, now: float) -> None:
        self.remaining, self.arrived, self.fresh = self.flows.size * self.scale, now, True

    def land(self, time: float, bound: str) -> None:
        """A colour has arrived at `time`; the last one decides what bound the stage."""
        if time >= self.arrived:
            self.arrived, self.bound = time, bound


class _Solo:
    """One batch alone on its links, from the start of a stage."""

    def __init__(self, batch: _Batch, now: float, watch: Watch) -> None:
        self.batches, self._watch = [batch], watch
        self._batch, self._start = batch, now
        self._period = batch.flows.alone(batch.scale)
        self._over = False

    def next_event(self) -> float:
        return self._start + self._batch.repeat * self._period

    def step(self, now: float) -> list[_Batch]:
        """The only event is the arrival of the last stage."""
        self._over, self._batch.repeat = True, 1
        self._batch.bound = self._batch.flows.bound_alone(self._batch.scale)
        return [self._batch]

    def release(self, now: float) -> int:
        """Stop multiplying: work out how far the current stage has come. Returns the number of solves."""
        if self._over:
            return 0
        batch, flows = self._batch, self._batch.flows
        passed = min(int((now - self._start) / self._period), batch.repeat - 1) if self._period > 0 else 0
        batch.repeat -= passed
        at = self._start + passed * self._period
        batch.restart(at)
        fluid = start_draining(flows.folded.net, flows.size[flows.folded.flow_of] * batch.scale)
        delay = flows.fixed + flows.per_scale * batch.scale
        while not fluid.empty and not _due(now, at):
            self._watch.check()
            step = min(fluid.next_finish(), now - at)
            at += step
            for colour in fluid.advance(step).tolist():
                batch.land(at + float(delay[colour]), flows.bound[colour])
            batch.fresh = False
        batch.remaining = fluid.remaining[flows.folded.colour]
        return fluid.solves


class _Shared:
    """Batches that share links, drained together."""

    def __init__(self, batches: list[_Batch], now: float, cluster: Cluster, folding: bool) -> None:
        self.batches, self._at, self._links = batches, now, cluster.links
        counts = np.array([len(b.remaining) for b in batches])
        self._offset = np.concatenate([[0], np.cumsum(counts)])
        size = np.concatenate([b.remaining for b in batches])
        delay = np.concatenate([(b.flows.fixed + b.flows.per_scale * b.scale)[b.flows.folded.colour] for b in batches])
        owner = np.repeat(np.arange(len(batches)), counts)
        nets = [incidence(cluster, b.flows.src, b.flows.dst, b.flows.trees, b.flows.size)[0] for b in batches]
        flow = np.concatenate([net.flow + o for net, o in zip(nets, self._offset[:-1], strict=True)])
        link = np.concatenate([net.link for net in nets])
        weight = np.concatenate([net.weight for net in nets])
        loads = size[flow] > 0  # what has drained loads no link
        net = on_cluster(cluster, len(size), flow[loads], link[loads], weight[loads])
        self._fold = fold(net, together(size, delay, owner.astype(np.float64)), folding)
        self._fluid = start_draining(self._fold.net, size[self._fold.flow_of])
        self._owner: Ints = owner[self._fold.flow_of]
        self._delay: Floats = delay[self._fold.flow_of]
        self._draining = np.bincount(self._owner[self._fluid.active], minlength=len(batches))
        for batch in batches:
            batch.fresh = False

    def next_event(self) -> float:
        times = [b.arrived for b, left in zip(self.batches, self._draining, strict=True) if not left]
        if not self._fluid.empty:
            times.append(self._at + self._fluid.next_finish())
        return min(times, default=math.inf)

    def step(self, now: float) -> list[_Batch]:
        """Drain until `now`. Returns the batches whose stage has arrived."""
        fluid = self._fluid
        if not fluid.empty:
            ends = fluid.next_finish()
            # The clock may miss a finish by a rounding error; it never runs past one.
            seconds = ends if _due(self._at + ends, now) else now - self._at
            bound = fluid.bound
            for colour in fluid.advance(seconds).tolist():
                number = int(self._owner[colour])
                self._draining[number] -= 1
                kind = bound_kind(self._links, self._fold, int(bound[colour]))
                self.batches[number].land(now + float(self._delay[colour]), kind)
        self._at = now
        return [b for b, left in zip(self.batches, self._draining, strict=True) if not left and _due(b.arrived, now)]

    def release(self, now: float) -> int:
        """Give every batch its remaining bytes back. Returns the number of solves."""
        self.step(now)
        remaining = self._fluid.remaining[self._fold.colour]
        for batch, a, b in zip(self.batches, self._offset[:-1], self._offset[1:], strict=True):
            batch.remaining = remaining[a:b]
        return self._fluid.solves


class Network:
    """Moves batches over a cluster.

    `bytes_by_kind` [link classes] is what links carried so far, `solves` how often rates were solved. `watch` may end
    the run between two events.
    """

    def __init__(
        self, env: simpy.Environment, cluster: Cluster, folding: bool = True, watch: Watch | None = None
    ) -> None:
        self._env, self._cluster, self._folding, self._watch = env, cluster, folding, watch or Watch()
        self._groups: dict[int, _Solo | _Shared] = {}
        self._user = np.full(len(cluster.links.capacity), -1, dtype=np.int64)  # group that uses a link
        self._arriving: list[_Batch] = []
        self._wake = env.event()
        self._next_group = 0
        self.bytes_by_kind: Floats = np.zeros(len(cluster.links.kinds))
        self.solves = 0
        env.process(self._run())

    def transfer(self, flows: Flows, scale: float = 1.0, repeat: int = 1) -> simpy.Event:
        """Start a batch now. The event fires when the last message of the last stage has arrived; its value is what
        bound that stage: a link class, the flow cap, or latency."""
        done = self._env.event()
        if not len(flows.size) or repeat == 0 or scale == 0:
            done.succeed(LATENCY)
            return done
        self.bytes_by_kind += flows.bytes_by_kind * (scale * repeat)
        self._arriving.append(_Batch(flows, scale, repeat, done, flows.size * scale, self._env.now))
        if not self._wake.triggered:
            self._wake.succeed()
        return done

    def _run(self) -> Generator[simpy.Event, object, None]:
        env = self._env
        while True:
            upcoming = min((g.next_event() for g in self._groups.values()), default=math.inf)
            if upcoming < math.inf:
                self._watch.check()
                yield env.timeout(max(upcoming - env.now, 0.0)) | self._wake
            else:
                yield self._wake
            if self._wake.triggered:
                yield env.timeout(0)  # let everything else of this instant come in
                self._wake = env.event()
            self._change(env.now)

    def _change(self, now: float) -> None:
        """All that happens at this instant: stages end, batches arrive, and what they touch is solved once."""
        loose, self._arriving = self._arriving, []
        for number in [n for n, g in self._groups.items() if _due(g.next_event(), now)]:
            over = self._groups[number].step(now)
            if not over:
                continue
            batches = self._dissolve(number, now)
            for batch in over:
                batch.repeat -= 1
                if batch.repeat:
                    batch.restart(now)
                else:
                    batch.done.succeed(batch.bound)
            loose = [*(b for b in batches if b.repeat), *loose]
        if loose:
            self._regroup(loose, now)

    def _dissolve(self, number: int, now: float) -> list[_Batch]:
        group = self._groups.pop(number)
        self.solves += group.release(now)
        for batch in group.batches:
            self._user[batch.flows.links] = -1
        return group.batches

    def _met(self, batch: _Batch) -> list[int]:
        """Groups that use links of the batch; mostly none."""
        users = self._user[batch.flows.links]
        users = users[users >= 0]
        return [int(number) for number in np.unique(users)] if len(users) else []

    def _regroup(self, loose: list[_Batch], now: float) -> None:
        """Group batches by the links they share, together with the groups they run into."""
        for number in sorted({number for batch in loose for number in self._met(batch)}):
            loose = [*self._dissolve(number, now), *loose]
        parts: dict[int, list[_Batch]] = {}
        for batch in loose:
            members = [batch]
            for number in self._met(batch):
                members = [*parts.pop(number), *members]
            for member in members:
                self._user[member.flows.links] = self._next_group
            parts[self._next_group] = members
            self._next_group += 1
        for number, members in parts.items():
            alone = len(members) == 1 and members[0].fresh
            self._groups[number] = (
                _Solo(members[0], now, self._watch) if alone else _Shared(members, now, self._cluster, self._folding)
            )
