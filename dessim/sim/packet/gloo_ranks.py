"""gloo's collectives as one rank runs them: what it sends, what it waits for, in the order of gloo's code.

The same algorithms as dessim/collectives/gloo.py has for all ranks at once, where sources are named.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass

import simpy

from dessim.cluster.parts import Transport
from dessim.collectives.gloo import UNDER_WAY, children, segments
from dessim.sim.core.cores import Cores
from dessim.sim.core.ticks import whole_ticks
from dessim.sim.packet.rendezvous import RendezvousChannels
from dessim.trace.schema import Collective

Process = Generator[simpy.Event, object, None]


@dataclass(slots=True)
class Rank:
    """Rank `me` of `n` in a collective, a process on `cores`."""

    env: simpy.Environment
    n: int
    me: int
    pairs: RendezvousChannels
    transport: Transport
    cores: Cores

    def send(self, to: int, size: float) -> simpy.Event:
        return self.pairs.send(self.me, to % self.n, size)

    def receive(self, source: int) -> simpy.Event:
        return self.pairs.receive(self.me, source % self.n)

    def wait(self, *messages: simpy.Event) -> Process:
        """Until all have come, or have left."""
        for message in messages:
            if not message.processed:
                yield message
                yield from self.cores.wake(self.transport.host_overhead)

    def add(self, size: float) -> Process:
        """Add up `size` bytes that have come."""
        if size:
            yield self.env.timeout(whole_ticks(size / self.transport.reduction_rate))


def _all_reduce(rank: Rank, size: float, splits: Sequence[float]) -> Process:
    """Two rings towards lower ranks, of which the first adds up. A segment leaves when the one before the last has
    come, and those of the second ring when the first is over."""
    each = segments(rank.n, size)
    segment, total = size / (rank.n * each), (rank.n - 1) * each
    for added in (segment, 0.0):
        posted: deque[tuple[simpy.Event, simpy.Event]] = deque()
        for number in range(total + UNDER_WAY):
            if number >= UNDER_WAY:
                coming, going = posted.popleft()
                yield from rank.wait(coming)
                yield from rank.add(added)
                yield from rank.wait(going)
            if number < total:
                posted.append((rank.receive(rank.me + 1), rank.send(rank.me - 1, segment)))


def _swap(rank: Rank, size: float) -> Process:
    """A message to each other rank and one from it; all receives before any send (des_ref/comm/direct.py)."""
    others = [rank.me + turn for turn in range(1, rank.n)]
    coming = [rank.receive(other) for other in reversed(others)]
    going = [rank.send(other, size / rank.n) for other in others]
    yield from rank.wait(*coming, *going)


def _reduce_scatter(rank: Rank, size: float, splits: Sequence[float]) -> Process:
    """What the others have for this rank, and then the sum."""
    yield from _swap(rank, size)
    yield from rank.add(size * (rank.n - 1) / rank.n)


def _all_gather(rank: Rank, size: float, splits: Sequence[float]) -> Process:
    """A ring towards higher ranks, each chunk in two halves; two ranks send each other all at once."""
    if rank.n == 2:
        yield from _swap(rank, size)
        return
    posted: deque[tuple[simpy.Event, simpy.Event]] = deque()
    for number in range(2 * rank.n):
        if number >= 2:
            yield from rank.wait(*posted.popleft())
        if number < 2 * (rank.n - 1):
            going = rank.send(rank.me + 1, size / (2 * rank.n))
            posted.append((rank.receive(rank.me - 1), going))


def _all_to_all(rank: Rank, size: float, splits: Sequence[float]) -> Process:
    """Each turn a send and a receive; nobody waits before all are posted."""
    going, coming = [], []
    for turn in range(1, rank.n):
        going.append(rank.send(rank.me + turn, splits[(rank.me + turn) % rank.n] if splits else size / rank.n))
        coming.append(rank.receive(rank.me - turn))
    yield from rank.wait(*going, *coming)


def _broadcast(rank: Rank, size: float, splits: Sequence[float]) -> Process:
    """Root 0 begins; who has the data sends to all of its children at once."""
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
"""Of each op, what a rank does for S = `size` bytes; `splits` are the bytes for each rank, where they are unlike."""
