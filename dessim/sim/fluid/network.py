"""The network: one process that lets flows in, drains them at max-min rates, and tells when they have arrived.

A message takes overhead + path latency + fluid time. Messages that start together form a batch; a batch may repeat,
each stage waiting for the one before. Batches that share links form a group and are solved together; groups that share
none are solved apart, and everything that changes at one instant is solved once. A batch alone in its group was priced
when it was routed: its stages are multiplied, not simulated, until somebody else's flows touch its links.
"""

from __future__ import annotations

import math
from collections.abc import Generator

import numpy as np
import simpy

from dessim.cluster import Cluster
from dessim.sim.core.counters import Counters
from dessim.sim.fluid.batches import Batch, Shared, Solo, due
from dessim.sim.fluid.flows import Flows
from dessim.sim.progress import Progress

# What NCCL asks of an InfiniBand connection: a first try and 7 more (NCCL_IB_RETRY_CNT), each after 4.096 us * 2**20
# (NCCL_IB_TIMEOUT) at least: the defaults in its src/transport/net_ib.
GIVES_UP = 8 * 4.096e-6 * 2**20


class Network:
    """Moves batches over a cluster.

    `counters` say what links carried so far, and when; `solves` how often rates were solved. `progress` may end the run
    between two events. A message that no way is left to waits for one; after `timeout` seconds the run fails.
    """

    def __init__(
        self,
        env: simpy.Environment,
        cluster: Cluster,
        folding: bool = True,
        progress: Progress | None = None,
        timeout: float = GIVES_UP,
    ) -> None:
        self._env, self.cluster, self._folding, self._progress = env, cluster, folding, progress or Progress()
        self._timeout = timeout
        self._groups: dict[int, Solo | Shared] = {}
        self._user = np.full(len(cluster.links.capacity), -1, dtype=np.int64)  # group that uses a link
        self._arriving: list[Batch] = []
        self._wake = env.event()
        self._next_group = 0
        self.counters = Counters(cluster.links)
        self.solves = 0
        env.process(self._run())

    def transfer(self, flows: Flows, scale: float = 1.0, repeat: int = 1) -> simpy.Event:
        """Start a batch now. The event fires when the last message of the last stage has arrived; its value are the
        seconds that the stages took, by what bound them (`dessim.sim.fluid.flows.Parts`)."""
        done = self._env.event()
        if not len(flows.size) or repeat == 0 or scale == 0:
            done.succeed({})
            return done
        self.counters.begin(flows.links, flows.bytes_by_kind * (scale * repeat))
        batch = Batch(flows, scale, repeat, done, flows.size * scale, self._env.now, self._env.now)
        batch.countdown = flows.begins
        self._arrive(batch)
        return done

    def change(self, cluster: Cluster) -> None:
        """Links are slower, down, or back from now on; what is under way goes on over the ways there are."""
        now, loose = self._env.now, self._arriving
        self._arriving = []
        for number in list(self._groups):
            loose = [*loose, *self._dissolve(number, now)]
        for batch in loose:
            batch.move(self.cluster, cluster, now, self._folding, self.counters)
        self.cluster = cluster
        self._arrive(*loose)

    def _arrive(self, *batches: Batch) -> None:
        self._arriving += batches
        if not self._wake.triggered:
            self._wake.succeed()

    def _run(self) -> Generator[simpy.Event, object, None]:
        env = self._env
        while True:
            upcoming = min((g.next_event() for g in self._groups.values()), default=math.inf)
            if upcoming < math.inf:
                self._progress.check()
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
        for number in [n for n, g in self._groups.items() if due(g.next_event(), now)]:
            over = self._groups[number].step(now)
            if not over:
                continue
            batches = self._dissolve(number, now)
            for batch in over:
                batch.add(batch.latest)
                batch.repeat -= 1
                if batch.repeat:
                    batch.restart(now)
                else:
                    batch.done.succeed(batch.parts)
            loose = [*(b for b in batches if b.repeat), *loose]
        if loose:
            self._regroup(loose, now)

    def _dissolve(self, number: int, now: float) -> list[Batch]:
        group = self._groups.pop(number)
        self.solves += group.release(now)
        for batch in group.batches:
            self._user[batch.flows.links] = -1
        return group.batches

    def _met(self, batch: Batch) -> list[int]:
        """Groups that use links of the batch; mostly none."""
        users = self._user[batch.flows.links]
        users = users[users >= 0]
        return [int(number) for number in np.unique(users)] if len(users) else []

    def _regroup(self, loose: list[Batch], now: float) -> None:
        """Group batches by the links they share, together with the groups they run into."""
        for number in sorted({number for batch in loose for number in self._met(batch)}):
            loose = [*self._dissolve(number, now), *loose]
        parts: dict[int, list[Batch]] = {}
        for batch in loose:
            members = [batch]
            for number in self._met(batch):
                members = [*parts.pop(number), *members]
            for member in members:
                self._user[member.flows.links] = self._next_group
            parts[self._next_group] = members
            self._next_group += 1
        for number, members in parts.items():
            alone = len(members) == 1 and members[0].fresh and members[0].flows.alone(1.0) < math.inf
            self._groups[number] = (
                Solo(members[0], now, self.counters, self._progress)
                if alone
                else Shared(members, now, self.cluster, self._folding, self.counters, self._timeout)
            )
