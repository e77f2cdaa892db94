"""The packet fabric: links serve pairs of GPUs round-robin, and the packets of a pair first come, first served.

The fluid fabric assumes that messages share a link evenly and at once. Here sharing emerges: a sender hands over as
much as its connection may have in flight (`Transport.window`) and knows nothing about queues further on; links forward
in turns and lose nothing; acknowledgements return along the route of the reverse direction. Messages of one pair queue
behind each other, even those of different groups. Which message finishes first differs from fair sharing where rates or
routes differ, or where one pair has more to send than others. That matters when ranks continue as soon as they have
what they wait for. The cost grows with every packet, so this model is for a few ranks.

Left out: packet loss and retransmission, and how a connection's window grows.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from dessim.cluster import Cluster
from dessim.cluster.links import FloatArray, IntArray
from dessim.errors import SimulationError
from dessim.sim.core.bounds import LATENCY
from dessim.sim.core.clock import Clock
from dessim.sim.core.cores import Cores
from dessim.sim.core.counters import Counters
from dessim.sim.core.ticks import whole_bytes, whole_ticks

MSS = 1448.0
"""Bytes in a packet: Ethernet's 1,500 less the headers of IP, TCP and its time stamps."""
_PARCEL = 2 * MSS
"""A receiver acknowledges every second packet (RFC 5681), so two packets travel as one parcel here."""

Pair = tuple[int, int]
History = Sequence[tuple[str, float]]
"""The delays of a message, in order: a bound (dessim.sim.core.bounds) and the time [s] until which it did."""


@dataclass(slots=True, eq=False)
class Message:
    """`size` bytes from GPU `pair[0]` to GPU `pair[1]`.

    `sent` is called when the connection has the last byte in flight, `arrived` when the last byte is at its receiver;
    both with the message's history so far. `unsent` bytes wait for the window.
    """

    pair: Pair
    size: float
    sent: Callable[[History], object]
    arrived: Callable[[History], object]
    unsent: float = 0.0
    history: list[tuple[str, float]] = field(default_factory=list)


@dataclass(slots=True, eq=False)
class _Link:
    """A link: `sending` is the parcel that is being sent, and `turns` the queues of others, one per pair, in the order
    of their turns. Nothing waits for an idle link.

    `free_at` [s] is when the link would have finished had it never sent faster than its rate (token bucket, as in
    dessim/sim/fluid/buckets.py).
    """

    kind: str
    rate: float
    burst_s: float
    service_s: dict[float, float] = field(default_factory=dict)  # by size; packets come in a few sizes
    turns: deque[deque[_Parcel]] = field(default_factory=deque)
    sending: _Parcel | None = None
    free_at: float = -math.inf


@dataclass(slots=True, eq=False)
class _Route:
    """Links from one GPU to another, seconds of propagation per hop, and the class of the slowest link.

    `hops` are the links, each with the queue of parcels of this route that wait for it; None is the end of the route.
    """

    hops: list[tuple[_Link, deque[_Parcel]] | None]
    ids: list[int]
    hop_s: float
    slowest: str


@dataclass(slots=True, eq=False)
class _Connection:
    """Messages over `route` that are not completely sent, and the bytes in flight; `back` is the opposite route.

    `links` are those of both routes; `load` [link classes] is how often a byte and its acknowledgement cross a class.
    """

    route: _Route
    back: _Route
    links: IntArray
    load: FloatArray
    queue: deque[Message] = field(default_factory=deque)
    in_flight: float = 0.0


@dataclass(slots=True, eq=False)
class _Parcel:
    """Two packets, one, or the acknowledgement of `carried` bytes, on the way along `route`; `hop` links are behind it.

    `size` is what it takes of a link [bytes]. `last_of` is the message that ends with it, if one does.
    """

    connection: _Connection
    route: _Route
    size: float
    carried: float
    acknowledges: bool
    last_of: Message | None = None
    hop: int = 0


class PacketFabric:
    """Moves messages over a cluster. `cores` are those that work on packets (None: not modelled)."""

    def __init__(self, env: Clock, cluster: Cluster, cores: Cores | None = None) -> None:
        self.env = env
        self._call_at = env.call_at
        self.cluster = cluster
        self.cores = cores
        self.counters = Counters(cluster.links)
        self._window = whole_bytes(cluster.transport.window)
        kinds = [cluster.links.kinds[kind] for kind in cluster.links.kind.tolist()]
        burst = cluster.transport.burst
        self._links = [
            _Link(kind, rate, whole_ticks(burst / rate))
            for kind, rate in zip(kinds, cluster.links.capacity.tolist(), strict=True)
        ]
        self._ack_share = cluster.transport.ack_share
        self._core_s: dict[float, float] = {}  # seconds of a core per size of parcel
        self._routes: dict[Pair, _Route] = {}
        self._connections: dict[tuple[str, Pair], _Connection] = {}

    def send(self, channel: str, message: Message) -> None:
        """Queue a message behind earlier ones of its connection. Each `channel` has its own connections."""
        began = self.env.now
        message.size = message.unsent = whole_bytes(message.size)
        connection = self._connection(channel, message.pair)
        loads = message.size * connection.load
        self.counters.begin(connection.links, loads)
        arrived = message.arrived

        def count_and_report(history: History) -> None:
            self.counters.carried(began, self.env.now, loads)
            arrived(history)

        message.arrived = count_and_report
        connection.queue.append(message)
        self._fill_window(connection, began)

    def _connection(self, channel: str, pair: Pair) -> _Connection:
        if (channel, pair) not in self._connections:
            kinds = self.cluster.links.kind
            n_classes = len(self.cluster.links.kinds)
            there, back = self._route(pair), self._route(pair[::-1])
            crossed = np.bincount(kinds[there.ids], minlength=n_classes)
            returned = np.bincount(kinds[back.ids], minlength=n_classes)
            links = np.array([*there.ids, *back.ids])
            self._connections[channel, pair] = _Connection(there, back, links, crossed + self._ack_share * returned)
        return self._connections[channel, pair]

    def _route(self, pair: Pair) -> _Route:
        if pair not in self._routes:
            routes = self.cluster.routes(np.array(pair[:1]), np.array(pair[1:]), without_twins=False)
            if (routes.weight != 1).any():
                raise SimulationError(
                    "the packets of a connection take one route, but this routing spreads them; choose ecmp"
                )
            ids = routes.link.tolist()
            links = [self._links[link] for link in ids]
            hop_s = whole_ticks(float(routes.latency[0]) / len(ids))
            slowest = min(links, key=lambda link: link.rate).kind
            self._routes[pair] = _Route([*((link, deque()) for link in links), None], ids, hop_s, slowest)
        return self._routes[pair]

    def _fill_window(self, connection: _Connection, now: float) -> None:
        """Send as much as the window allows."""
        while connection.queue and connection.in_flight < self._window:
            message = connection.queue[0]
            size = min(message.unsent, _PARCEL)
            message.unsent -= size
            last = message.unsent <= 0
            if last:
                connection.queue.popleft()
                # Until now earlier bytes of the connection had to pass the slowest link of the route.
                message.history.append((connection.route.slowest, now))
                message.sent(message.history)
            connection.in_flight += size
            self._arrive(_Parcel(connection, connection.route, size, size, False, message if last else None), now)

    def _arrive(self, parcel: _Parcel, now: float) -> None:
        """A parcel is at the next link of its route, or at its end."""
        hop = parcel.route.hops[parcel.hop]
        if hop is None:
            self._deliver(parcel, now)
            return
        link, queue = hop
        if link.sending is None:
            self._serve(link, parcel, now)
            return
        if not queue:
            link.turns.append(queue)
        queue.append(parcel)

    def _deliver(self, parcel: _Parcel, now: float) -> None:
        """A parcel is at its receiver, which acknowledges it, or an acknowledgement is back at the sender."""
        connection = parcel.connection
        size = parcel.carried
        if parcel.acknowledges:
            connection.in_flight -= size
            if connection.queue:
                self._fill_window(connection, now)
            return
        if self.cores is not None:
            if size not in self._core_s:
                self._core_s[size] = whole_ticks(size / self.cluster.transport.core_rate)
            self.cores.carried(self._core_s[size])
        # The parcel returns as its acknowledgement.
        message = parcel.last_of
        parcel.route = connection.back
        parcel.size = size * self._ack_share
        parcel.acknowledges = True
        parcel.last_of = None
        parcel.hop = 0
        self._arrive(parcel, now)
        if message is not None:
            message.arrived(message.history)

    def _serve(self, link: _Link, parcel: _Parcel, now: float) -> None:
        """The link is idle: send the parcel. A link that was idle for a while first sends its burst at once."""
        free_at = link.free_at
        burst_from = now - link.burst_s
        if free_at < burst_from:
            free_at = burst_from
        size = parcel.size
        seconds = link.service_s.get(size)
        if seconds is None:
            seconds = link.service_s[size] = whole_ticks(size / link.rate)
        link.free_at = free_at = free_at + seconds
        if free_at > now:
            link.sending = parcel
            self._call_at(free_at, self._served, link)
        else:
            self._leave(link, parcel, now)

    def _served(self, link: _Link, now: float) -> None:
        """The link has sent a parcel: send those of the next pairs, until one takes time."""
        parcel = link.sending
        assert parcel is not None
        link.sending = None
        self._leave(link, parcel, now)
        turns = link.turns
        while turns and link.sending is None:
            queue = turns.popleft()
            parcel = queue.popleft()
            if queue:
                turns.append(queue)
            self._serve(link, parcel, now)

    def _leave(self, link: _Link, parcel: _Parcel, now: float) -> None:
        parcel.hop += 1
        arrives = now + parcel.route.hop_s
        message = parcel.last_of
        if message is not None:
            message.history.append((link.kind, now))
            message.history.append((LATENCY, arrives))
        self._call_at(arrives, self._arrive, parcel)
