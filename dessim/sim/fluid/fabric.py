"""The fluid fabric: one process that admits flows, drains them at max-min rates, and reports when they have arrived.

A message takes overhead + path latency + fluid time. Messages that start together form a batch. A batch may repeat;
each stage then waits for the one before. Batches that share links form a group and are solved together; groups share no
links and are solved apart. All changes at one instant are solved once. The time of a batch that is alone in its group
is known from routing: its stages are multiplied, not simulated, until flows of another batch use one of its links.
"""

from __future__ import annotations

import math
from collections.abc import Generator

import numpy as np
import simpy

from dessim.arrays import Ints
from dessim.cluster import Cluster
from dessim.sim.core.counters import Counters
from dessim.sim.fluid.batches import Batch, due
from dessim.sim.fluid.few_flows import FewRates
from dessim.sim.fluid.flows import Flows
from dessim.sim.fluid.groups import Shared, Solo
from dessim.sim.fluid.singles import Singles, are_few_singles
from dessim.sim.progress import Progress

RETRY_TIMEOUT_S = 8 * 4.096e-6 * 2**20
"""Seconds for which a message waits for a route before the run fails. NCCL's default on InfiniBand: a first try and 7
more (NCCL_IB_RETRY_CNT), each after at least 4.096 us * 2**20 (NCCL_IB_TIMEOUT); src/transport/net_ib.cc."""
_FEW_LINKS = 64
"""For more links, numpy is faster."""

_Group = Solo | Singles | Shared


class FlowFabric:
    """Moves batches over a cluster, for all jobs on it.

    `counters` hold what links carried, and how often rates were solved. `progress` may end the run between two events.
    A message without a route waits for one; after `timeout` seconds the run fails.
    """

    def __init__(
        self,
        env: simpy.Environment,
        cluster: Cluster,
        folding: bool = True,
        progress: Progress | None = None,
        timeout: float = RETRY_TIMEOUT_S,
    ) -> None:
        self.env = env
        self.cluster = cluster
        self.counters = Counters(cluster.links)
        self._folding = folding
        self._progress = progress or Progress()
        self._timeout = timeout
        self._groups: dict[int, _Group] = {}
        self._next_group = 0
        self._group_on = np.full(len(cluster.links.capacity), -1, dtype=np.int64)  # of each link; -1: idle
        self._arriving: list[Batch] = []
        self._few_rates: FewRates | None = None
        self._wake = env.event()
        env.process(self._run())

    def transfer(self, flows: Flows, scale: float = 1.0, repeat: int = 1) -> simpy.Event:
        """Start a batch now: `repeat` stages of `flows`, their sizes multiplied by `scale`.

        The event fires when the last message of the last stage has arrived. Its value is the seconds that the stages
        took, per bottleneck (`Parts`).
        """
        done = self.env.event()
        if not len(flows.messages) or repeat == 0 or scale == 0:
            done.succeed({})
            return done
        self.counters.begin(flows.links, flows.bytes_by_kind * (scale * repeat))
        batch = Batch(flows, scale, repeat, done, flows.messages.size * scale, self.env.now, self.env.now)
        batch.countdown = flows.messages.begins
        self._arrive(batch)
        return done

    def change(self, cluster: Cluster) -> None:
        """From now on links have the capacities of `cluster`; messages in flight continue on the routes that are up."""
        now = self.env.now
        batches = self._arriving
        self._arriving = []
        for number in list(self._groups):
            batches = [*batches, *self._dissolve(number, now)]
        for batch in batches:
            batch.move(self.cluster, cluster, now, self._folding, self.counters)
        self.cluster = cluster
        self._few_rates = None
        self._arrive(*batches)

    def _arrive(self, *batches: Batch) -> None:
        self._arriving += batches
        if not self._wake.triggered:
            self._wake.succeed()

    def _run(self) -> Generator[simpy.Event, object, None]:
        env = self.env
        while True:
            upcoming = min((group.next_event() for group in self._groups.values()), default=math.inf)
            if upcoming < math.inf:
                self._progress.check()
                yield env.timeout(max(upcoming - env.now, 0.0)) | self._wake
            else:
                yield self._wake
            if self._wake.triggered:
                yield env.timeout(0)  # so that all other arrivals of this instant are solved together
                self._wake = env.event()
            self._change(env.now)

    def _change(self, now: float) -> None:
        """Handle this instant: stages end, batches arrive, and the groups whose links they use are solved."""
        arriving = self._arriving
        self._arriving = []
        ungrouped: list[Batch] = []
        for number in [number for number, group in self._groups.items() if due(group.next_event(), now)]:
            ended = self._groups[number].step(now)
            if not ended:
                continue
            batches = self._dissolve(number, now)
            for batch in ended:
                batch.add(batch.latest)
                batch.repeat -= 1
                if batch.repeat:
                    batch.restart(now)
                else:
                    batch.done.succeed(batch.parts)
            ungrouped = [*(batch for batch in batches if batch.repeat), *ungrouped]
        if ungrouped or arriving:
            self._regroup(ungrouped, arriving, now)

    def _dissolve(self, number: int, now: float) -> list[Batch]:
        """Take a group apart and return its batches."""
        group = self._groups.pop(number)
        self.counters.solves += group.release(now)
        self._group_on[_links(group.batches)] = -1
        return group.batches

    def _sharing(self, batch: Batch) -> list[int]:
        """The groups that use links of the batch; mostly none."""
        numbers = self._group_on[batch.flows.links]
        if len(numbers) > _FEW_LINKS:
            numbers = numbers[numbers >= 0]
        return sorted(set(numbers.tolist()) - {-1})

    def _regroup(self, ungrouped: list[Batch], arriving: list[Batch], now: float) -> None:
        """Group batches by the links that they share. Arriving batches also join existing groups on their links."""
        batches = [*ungrouped, *arriving]
        for number in sorted({number for batch in arriving for number in self._sharing(batch)}):
            batches = [*self._dissolve(number, now), *batches]
        # Links of these batches are in no group any more, so `_group_on` may hold numbers of parts for a while.
        few = all(len(batch.flows.links) <= _FEW_LINKS for batch in batches)
        part_on: dict[int, int] = {}  # replaces `_group_on` if links are few
        parts: dict[int, list[Batch]] = {}
        joined: dict[int, int] = {}  # the part that a part has become a part of
        for number, batch in enumerate(batches):
            members = [batch]
            links = batch.flows.links.tolist() if few else []
            sharing = {part_on[link] for link in links if link in part_on} if few else self._sharing(batch)
            for other in sorted({_last(joined, part) for part in sharing}):
                members = [*parts.pop(other), *members]
                joined[other] = number
            parts[number] = members
            if few:
                part_on.update(dict.fromkeys(links, number))
            else:
                self._group_on[batch.flows.links] = number
        for members in parts.values():
            self._group_on[_links(members)] = self._next_group
            self._groups[self._next_group] = self._group(members, now)
            self._next_group += 1

    def _group(self, batches: list[Batch], now: float) -> _Group:
        """A group of `batches`, which share links, from now on."""
        if len(batches) == 1 and batches[0].fresh and batches[0].flows.alone(1.0) < math.inf:
            return Solo(batches[0], now, self.counters, self._progress)
        if are_few_singles(batches, self.cluster):
            if self._few_rates is None:
                fan_in = batches[0].crossings(self.cluster).net.fan_in
                self._few_rates = FewRates(self.cluster.links.capacity, fan_in)
            return Singles(batches, now, self.cluster, self.counters, self._few_rates)
        return Shared(batches, now, self.cluster, self._folding, self.counters, self._timeout)


def _links(batches: list[Batch]) -> Ints:
    """The links of batches, one batch after the other."""
    return np.concatenate([batch.flows.links for batch in batches])


def _last(joined: dict[int, int], number: int) -> int:
    """The part that has become part of no other, from part `number` on."""
    while number in joined:
        number = joined[number]
    return number
