"""gloo's collectives as one rank runs them: the messages that it posts and waits for, in the order of gloo's code.

The algorithms are those of dessim/collectives/gloo.py, which describes them for all ranks together and names sources.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field

import simpy

from dessim.cluster.parts import Transport
from dessim.collectives.gloo import SEGMENTS_IN_FLIGHT, children, segments
from dessim.sim.core.bounds import CORES, LATENCY, REDUCTION
from dessim.sim.core.cores import Cores
from dessim.sim.core.ticks import whole_ticks
from dessim.sim.packet.parcels import History
from dessim.sim.packet.rendezvous import RendezvousChannels
from dessim.trace.schema import Collective

Process = Generator[simpy.Event, object, None]


@dataclass(slots=True)
class Rank:
    """Rank `me` of `n` in one collective. `parts` are the seconds that it has spent so far, per bottleneck."""

    env: simpy.Environment
    n: int
    me: int
    channels: RendezvousChannels
    transport: Transport
    cores: Cores | None
    parts: dict[str, float] = field(default_factory=dict)

    def send(self, to: int, size: float) -> simpy.Event:
        """Post `size` bytes for rank `to` modulo n."""
        return self.channels.send(self.me, to % self.n, size)

    def receive(self, source: int) -> simpy.Event:
        """Post a receive from rank `source` modulo n."""
        return self.channels.receive(self.me, source % self.n)

    def launch(self) -> Process:
        """A process: the software's overhead of a collective call."""
        overhead = whole_ticks(self.transport.op_overhead)
        yield self.env.timeout(overhead)
        self._spend(LATENCY, overhead)

    def wait(self, *messages: simpy.Event) -> Process:
        """A process: until all messages have arrived, or have been sent."""
        for message in messages:
            if message.processed:
                continue
            began = self.env.now
            history: History = yield message  # type: ignore[assignment]
            self._attribute(history, began)
            yield from self._wake()

    def add(self, size: float) -> Process:
        """A process: add up `size` bytes that have arrived."""
        if size:
            seconds = whole_ticks(size / self.transport.reduction_rate)
            yield self.env.timeout(seconds)
            self._spend(REDUCTION, seconds)

    def _wake(self) -> Process:
        """A process: the thread that waited gets a core and continues."""
        began = self.env.now
        if self.cores is None:
            yield self.env.timeout(whole_ticks(self.transport.host_overhead))
            self._spend(LATENCY, self.env.now - began)
        else:
            yield from self.cores.wake(self.transport.host_overhead)
            self._spend(CORES, self.env.now - began)

    def _attribute(self, history: History, began: float) -> None:
        """Attribute the seconds since `began` to the bottlenecks of the message in that time."""
        since = began
        now = self.env.now
        for bound, until in history:
            if until > since:
                self._spend(bound, min(until, now) - since)
                since = min(until, now)
        self._spend(LATENCY, now - since)

    def _spend(self, bound: str, seconds: float) -> None:
        if seconds > 0:
            self.parts[bound] = self.parts.get(bound, 0.0) + seconds


def _all_reduce(rank: Rank, size: float, splits: Sequence[float]) -> Process:
    """A ReduceScatter ring, then an AllGather ring, both towards lower ranks.

    Two segments are in flight. The second ring starts when the first has ended.
    """
    per_rank = segments(rank.n, size)
    segment = size / (rank.n * per_rank)
    total = (rank.n - 1) * per_rank
    for added in (segment, 0.0):
        posted: deque[tuple[simpy.Event, simpy.Event]] = deque()
        for number in range(total + SEGMENTS_IN_FLIGHT):
            if number >= SEGMENTS_IN_FLIGHT:
                received, sent = posted.popleft()
                yield from rank.wait(received)
                yield from rank.add(added)
                yield from rank.wait(sent)
            if number < total:
                posted.append((rank.receive(rank.me + 1), rank.send(rank.me - 1, segment)))


def _swap(rank: Rank, size: float) -> Process:
    """Swap messages with all other ranks; receives are posted before any send (des_ref/comm/direct.py)."""
    others = [rank.me + distance for distance in range(1, rank.n)]
    received = [rank.receive(other) for other in reversed(others)]
    sent = [rank.send(other, size / rank.n) for other in others]
    yield from rank.wait(*received, *sent)


def _reduce_scatter(rank: Rank, size: float, splits: Sequence[float]) -> Process:
    """Receive this rank's share from all other ranks, then add it up."""
    yield from _swap(rank, size)
    yield from rank.add(size * (rank.n - 1) / rank.n)


def _all_gather(rank: Rank, size: float, splits: Sequence[float]) -> Process:
    """A ring towards higher ranks, each chunk in two halves. Two ranks swap their chunks directly instead."""
    if rank.n == 2:
        yield from _swap(rank, size)
        return
    posted: deque[tuple[simpy.Event, simpy.Event]] = deque()
    for number in range(2 * rank.n):
        if number >= 2:
            yield from rank.wait(*posted.popleft())
        if number < 2 * (rank.n - 1):
            sent = rank.send(rank.me + 1, size / (2 * rank.n))
            posted.append((rank.receive(rank.me - 1), sent))


def _all_to_all(rank: Rank, size: float, splits: Sequence[float]) -> Process:
    """Post a send and a receive for each distance, then wait for all of them."""
    sent = []
    received = []
    for distance in range(1, rank.n):
        to = (rank.me + distance) % rank.n
        sent.append(rank.send(to, splits[to] if splits else size / rank.n))
        received.append(rank.receive(rank.me - distance))
    yield from rank.wait(*sent, *received)


def _broadcast(rank: Rank, size: float, splits: Sequence[float]) -> Process:
    """From root 0 along a tree: a rank that has the data sends it to all of its children at the same time."""
    if rank.me:
        parent = rank.me & ~(1 << rank.me.bit_length() - 1)
        yield from rank.wait(rank.receive(parent))
    yield from rank.wait(*[rank.send(child, size) for child in children(rank.n, rank.me)])


PROGRAMS: Mapping[Collective, Callable[[Rank, float, Sequence[float]], Process]] = {
    Collective.ALL_REDUCE: _all_reduce,
    Collective.REDUCE_SCATTER: _reduce_scatter,
    Collective.ALL_GATHER: _all_gather,
    Collective.ALL_TO_ALL: _all_to_all,
    Collective.BROADCAST: _broadcast,
}
"""Op -> the program of a rank, given S = `size` bytes and, where they differ, the bytes for each rank (`splits`)."""
