"""A small network packet by packet: links serve pairs of GPUs in turn, each first come, first served.

What the fluid network (network.py) takes for granted, that messages which meet share a link evenly and at once, comes
about here: a sender hands over all that its connection may have under way (`Transport.window`) and knows nothing of
what is full further on; links forward in turns and lose nothing; acknowledgements come back the way that data go.
Messages of one pair wait for each other, those of different groups too. Who finishes first differs from fair shares
where rates or ways are unlike, or where one pair has more to say than others. That matters where ranks go on as soon
as they have what they wait for; and it costs events by the byte, so it is for few ranks.

Left out: loss, and whatever a sender does about it; a connection's window growing.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import simpy

from dessim.cluster import Cluster
from dessim.errors import SimulationError
from dessim.sim.core.cores import Cores
from dessim.sim.core.counters import Counters
from dessim.sim.core.ticks import whole_bytes, whole_ticks
from dessim.sim.fluid.maxmin import Floats

MSS = 1448.0
"""Bytes that a packet carries: Ethernet's 1,500 less the headers of IP, TCP and its time stamps."""
_TOGETHER = 2
"""Packets that travel as one here: so many a receiver acknowledges at once (RFC 5681)."""

Pair = tuple[int, int]
Call = Callable[[], object]


@dataclass(slots=True, eq=False)
class _Connection:
    """From GPU `pair[0]` to `pair[1]`. `queue`: bytes left of each message, what to call when all have left, and when
    all are there."""

    pair: Pair
    queue: deque[tuple[float, Call, Call]] = field(default_factory=deque)
    under_way: float = 0.0


@dataclass(slots=True, eq=False)
class _Parcel:
    """Packets on their way through `links`, of which `hop` are behind them; `there` is called at the end."""

    pair: Pair
    links: list[_Link]
    hop_s: float
    size: float
    there: Call
    hop: int = 0


@dataclass(slots=True, eq=False)
class _Link:
    """Parcels of the pairs that wait for a link. `free` is when it would be done had it never let more pass than its
    rate (dessim/sim/fluid/buckets.py)."""

    rate: float
    queues: dict[Pair, deque[_Parcel]] = field(default_factory=dict)
    turns: deque[Pair] = field(default_factory=deque)
    busy: bool = False
    free: float = -math.inf


class Packets:
    """Moves messages over a cluster; what packets take of `cores` is told those."""

    def __init__(self, env: simpy.Environment, cluster: Cluster, counters: Counters, cores: Cores) -> None:
        self._env, self._cluster, self._counters, self._cores = env, cluster, counters, cores
        self._window = whole_bytes(cluster.transport.window)
        self._links = [_Link(rate) for rate in cluster.links.capacity.tolist()]
        self._ways: dict[Pair, tuple[list[int], float]] = {}
        self._connections: dict[tuple[str, Pair], _Connection] = {}

    def send(self, channel: str, src: int, dst: int, size: float, sent: Call, arrived: Call) -> None:
        """Queue a message of `size` bytes from GPU `src` to `dst` behind what their connection of that `channel` has.

        Calls `sent` when the connection may have its last byte under way, `arrived` when that is there.
        """
        pair, began, size = (src, dst), self._env.now, whole_bytes(size)
        loads = self._account(pair, size)

        def over() -> None:
            self._counters.carried(began, self._env.now, loads)
            arrived()

        connection = self._connections.setdefault((channel, pair), _Connection(pair))
        connection.queue.append((size, sent, over))
        self._hand_over(connection)

    def _account(self, pair: Pair, size: float) -> Floats:
        """What a message loads each link class with, its acknowledgements included [link classes]."""
        kinds, classes = self._cluster.links.kind, len(self._cluster.links.kinds)
        (there, _), (back, _) = self._way(pair), self._way(pair[::-1])
        crossed, returned = (np.bincount(kinds[links], minlength=classes) for links in (there, back))
        loads: Floats = size * (crossed + self._cluster.transport.ack_share * returned)
        self._counters.begin(np.array([*there, *back]), loads)
        return loads

    def _way(self, pair: Pair) -> tuple[list[int], float]:
        """The links from one GPU to another, and the seconds that each hop takes besides."""
        if pair not in self._ways:
            routes = self._cluster.routes(np.array(pair[:1]), np.array(pair[1:]), without_twins=False)
            if (routes.weight != 1).any():
                raise SimulationError("packets of a connection take one way, but routing spreads them; choose ecmp")
            self._ways[pair] = routes.link.tolist(), whole_ticks(float(routes.latency[0]) / len(routes.link))
        return self._ways[pair]

    def _hand_over(self, connection: _Connection) -> None:
        """A connection sends what it may."""
        while connection.queue and connection.under_way < self._window:
            left, sent, arrived = connection.queue.popleft()
            size = min(left, _TOGETHER * MSS)
            if left > size:
                connection.queue.appendleft((left - size, sent, arrived))
            else:
                sent()
            connection.under_way += size
            self._set_out(
                connection.pair, size, partial(self._received, connection, size, arrived if left <= size else None)
            )

    def _received(self, connection: _Connection, size: float, arrived: Call | None) -> None:
        transport = self._cluster.transport
        self._cores.carried(whole_ticks(size / transport.core_rate))
        self._set_out(connection.pair[::-1], size * transport.ack_share, partial(self._acknowledged, connection, size))
        if arrived is not None:
            arrived()

    def _acknowledged(self, connection: _Connection, size: float) -> None:
        connection.under_way -= size
        self._hand_over(connection)

    def _set_out(self, pair: Pair, size: float, there: Call) -> None:
        links, hop_s = self._way(pair)
        self._arrive(_Parcel(pair, [self._links[link] for link in links], hop_s, size, there))

    def _arrive(self, parcel: _Parcel) -> None:
        """At the next link, or at the end."""
        if parcel.hop == len(parcel.links):
            parcel.there()
            return
        link = parcel.links[parcel.hop]
        queue = link.queues.setdefault(parcel.pair, deque())
        if not queue:
            link.turns.append(parcel.pair)
        queue.append(parcel)
        if not link.busy:
            self._serve(link)

    def _serve(self, link: _Link) -> None:
        """The link is free: the next pair has its turn. A link that was idle runs its burst ahead."""
        while link.turns:
            pair = link.turns.popleft()
            parcel = link.queues[pair].popleft()
            if link.queues[pair]:
                link.turns.append(pair)
            now = self._env.now
            ahead, takes = self._cluster.transport.burst / link.rate, parcel.size / link.rate
            link.free = max(link.free, now - whole_ticks(ahead)) + whole_ticks(takes)
            if link.free > now:
                link.busy = True
                self._after(link.free - now, partial(self._served, link, parcel))
                return
            self._leave(parcel)

    def _served(self, link: _Link, parcel: _Parcel) -> None:
        link.busy = False
        self._leave(parcel)
        self._serve(link)

    def _leave(self, parcel: _Parcel) -> None:
        parcel.hop += 1
        self._after(parcel.hop_s, partial(self._arrive, parcel))

    def _after(self, seconds: float, call: Call) -> None:
        def happen(event: simpy.Event) -> None:
            call()

        self._env.timeout(seconds).callbacks.append(happen)
