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
from functools import partial

import numpy as np
import simpy

from dessim.cluster import Cluster
from dessim.cluster.links import FloatArray
from dessim.errors import SimulationError
from dessim.sim.core.bounds import LATENCY
from dessim.sim.core.cores import Cores
from dessim.sim.core.counters import Counters
from dessim.sim.core.ticks import whole_bytes, whole_ticks

MSS = 1448.0
"""Bytes in a packet: Ethernet's 1,500 less the headers of IP, TCP and its time stamps."""
_PACKETS_PER_ACK = 2
"""A receiver acknowledges every second packet (RFC 5681). Two packets travel as one parcel here."""

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
class _Connection:
    """From GPU `pair[0]` to GPU `pair[1]`: messages that are not completely sent, and the bytes in flight."""

    pair: Pair
    queue: deque[Message] = field(default_factory=deque)
    in_flight: float = 0.0


@dataclass(slots=True, eq=False)
class _Parcel:
    """Two packets, one, or an acknowledgement, on the way along `route`; `hop` links are behind it.

    `delivered` is called at the end. `history` notes the delays, for the last parcel of a message only.
    """

    pair: Pair
    route: _Route
    size: float
    delivered: Callable[[], object]
    history: list[tuple[str, float]] | None = None
    hop: int = 0


@dataclass(slots=True, eq=False)
class _Link:
    """The parcels that wait for a link, by pair, and the pairs in the order of their turns.

    `free_at` [s] is when the link would have finished had it never sent faster than its rate (token bucket, as in
    dessim/sim/fluid/buckets.py).
    """

    kind: str
    rate: float
    burst_s: float
    service_s: dict[float, float] = field(default_factory=dict)  # by size; packets come in a few sizes
    queues: dict[Pair, deque[_Parcel]] = field(default_factory=dict)
    turns: deque[Pair] = field(default_factory=deque)
    busy: bool = False
    free_at: float = -math.inf

    def service(self, size: float) -> float:
        """Seconds to send `size` bytes."""
        if size not in self.service_s:
            self.service_s[size] = whole_ticks(size / self.rate)
        return self.service_s[size]


class _Timer:
    """The least that simpy needs of an event, for the million that a step of eight ranks takes."""

    __slots__ = ("_ok", "callbacks")

    def __init__(self, call: Callable[[object], object]) -> None:
        self._ok = True
        self.callbacks: list[Callable[[object], object]] | None = [call]


@dataclass(slots=True, eq=False)
class _Route:
    """Links from one GPU to another, seconds of propagation per hop, and the class of the slowest link."""

    links: list[_Link]
    ids: list[int]
    hop_s: float
    slowest: str


class PacketFabric:
    """Moves messages over a cluster. `cores` are those that work on packets (None: not modelled)."""

    def __init__(self, env: simpy.Environment, cluster: Cluster, cores: Cores | None = None) -> None:
        self.env = env
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
        self._core_s: dict[float, float] = {}  # seconds of a core per size of parcel
        self._routes: dict[Pair, _Route] = {}
        self._connections: dict[tuple[str, Pair], _Connection] = {}

    def send(self, channel: str, message: Message) -> None:
        """Queue a message behind earlier ones of its connection. Each `channel` has its own connections."""
        began = self.env.now
        message.size = message.unsent = whole_bytes(message.size)
        loads = self._account(message)
        arrived = message.arrived

        def count_and_report(history: History) -> None:
            self.counters.carried(began, self.env.now, loads)
            arrived(history)

        message.arrived = count_and_report
        connection = self._connections.setdefault((channel, message.pair), _Connection(message.pair))
        connection.queue.append(message)
        self._fill_window(connection)

    def _account(self, message: Message) -> FloatArray:
        """The bytes [link classes] with which a message and its acknowledgements load each link class."""
        kinds = self.cluster.links.kind
        n_classes = len(self.cluster.links.kinds)
        there, back = self._route(message.pair), self._route(message.pair[::-1])
        crossed = np.bincount(kinds[there.ids], minlength=n_classes)
        returned = np.bincount(kinds[back.ids], minlength=n_classes)
        loads: FloatArray = message.size * (crossed + self.cluster.transport.ack_share * returned)
        self.counters.begin(np.array([*there.ids, *back.ids]), loads)
        return loads

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
            self._routes[pair] = _Route(links, ids, hop_s, min(links, key=lambda link: link.rate).kind)
        return self._routes[pair]

    def _fill_window(self, connection: _Connection) -> None:
        """Send as much as the window allows."""
        while connection.queue and connection.in_flight < self._window:
            message = connection.queue[0]
            size = min(message.unsent, _PACKETS_PER_ACK * MSS)
            message.unsent -= size
            last = message.unsent <= 0
            route = self._route(connection.pair)
            if last:
                connection.queue.popleft()
                # Until now earlier bytes of the connection had to pass the slowest link of the route.
                message.history.append((route.slowest, self.env.now))
                message.sent(message.history)
            connection.in_flight += size
            received = partial(self._received, connection, size, message if last else None)
            self._arrive(_Parcel(connection.pair, route, size, received, message.history if last else None))

    def _received(self, connection: _Connection, size: float, ended: Message | None) -> None:
        """A parcel is at its receiver, which acknowledges it; `ended` is the message whose last parcel it was."""
        transport = self.cluster.transport
        if self.cores is not None:
            if size not in self._core_s:
                self._core_s[size] = whole_ticks(size / transport.core_rate)
            self.cores.carried(self._core_s[size])
        back = connection.pair[::-1]
        acknowledged = partial(self._acknowledged, connection, size)
        self._arrive(_Parcel(back, self._route(back), size * transport.ack_share, acknowledged))
        if ended is not None:
            ended.arrived(ended.history)

    def _acknowledged(self, connection: _Connection, size: float) -> None:
        connection.in_flight -= size
        self._fill_window(connection)

    def _arrive(self, parcel: _Parcel, timer: object = None) -> None:
        """A parcel is at the next link of its route, or at its end."""
        links = parcel.route.links
        if parcel.hop == len(links):
            parcel.delivered()
            return
        link = links[parcel.hop]
        queue = link.queues.setdefault(parcel.pair, deque())
        if not queue:
            link.turns.append(parcel.pair)
        queue.append(parcel)
        if not link.busy:
            self._serve(link)

    def _serve(self, link: _Link) -> None:
        """The link is idle: send the parcel of the next pair. A link that was idle first sends its burst at once."""
        while link.turns:
            pair = link.turns.popleft()
            parcel = link.queues[pair].popleft()
            if link.queues[pair]:
                link.turns.append(pair)
            now = self.env.now
            link.free_at = max(link.free_at, now - link.burst_s) + link.service(parcel.size)
            if link.free_at > now:
                link.busy = True
                self._after(link.free_at - now, partial(self._served, link, parcel))
                return
            self._leave(link, parcel)

    def _served(self, link: _Link, parcel: _Parcel, timer: object) -> None:
        link.busy = False
        self._leave(link, parcel)
        self._serve(link)

    def _leave(self, link: _Link, parcel: _Parcel) -> None:
        parcel.hop += 1
        hop_s = parcel.route.hop_s
        if parcel.history is not None:
            parcel.history.append((link.kind, self.env.now))
            parcel.history.append((LATENCY, self.env.now + hop_s))
        self._after(hop_s, partial(self._arrive, parcel))

    def _after(self, seconds: float, call: Callable[[object], object]) -> None:
        self.env.schedule(_Timer(call), delay=seconds)  # type: ignore[arg-type]
