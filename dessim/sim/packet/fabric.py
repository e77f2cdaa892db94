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

from bisect import bisect_left
from heapq import heappush

import numpy as np
from simpy.events import NORMAL

from dessim.cluster import Cluster
from dessim.errors import SimulationError
from dessim.sim.core.bounds import LATENCY
from dessim.sim.core.clock import Clock
from dessim.sim.core.cores import Cores
from dessim.sim.core.counters import Counters
from dessim.sim.core.ticks import whole_bytes, whole_ticks
from dessim.sim.packet.parcels import PARCEL, Connection, History, Hop, Link, Message, Pair, Parcel, Route


class PacketFabric:
    """Moves messages over a cluster. `cores` are those that work on packets (None: not modelled)."""

    def __init__(self, env: Clock, cluster: Cluster, cores: Cores | None = None) -> None:
        self.env = env
        self._timers, self._numbers = env.timers()
        self.cluster = cluster
        self.cores = cores
        self.counters = Counters(cluster.links)
        self._window = whole_bytes(cluster.transport.window)
        kinds = [cluster.links.kinds[kind] for kind in cluster.links.kind.tolist()]
        burst = cluster.transport.burst
        self._links = [
            Link(kind, rate, whole_ticks(burst / rate))
            for kind, rate in zip(kinds, cluster.links.capacity.tolist(), strict=True)
        ]
        self._ack_share = cluster.transport.ack_share
        self._core_s: dict[float, float] = {}  # seconds of a core per size of parcel
        self._routes: dict[Pair, Route] = {}
        self._connections: dict[tuple[str, Pair], Connection] = {}

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
        returning = connection.returning
        while returning and returning[0] < (began, self.env.number):
            connection.in_flight -= returning.popleft()[2].carried
        self._fill_window(connection, began)
        if connection.queue:
            while returning:
                arrives, number, parcel = returning.popleft()
                heappush(self._timers, (arrives, NORMAL, number, self._deliver, parcel))

    def _connection(self, channel: str, pair: Pair) -> Connection:
        if (channel, pair) not in self._connections:
            kinds = self.cluster.links.kind
            n_classes = len(self.cluster.links.kinds)
            there, back = self._route(pair), self._route(pair[::-1])
            crossed = np.bincount(kinds[there.ids], minlength=n_classes)
            returned = np.bincount(kinds[back.ids], minlength=n_classes)
            self._connections[channel, pair] = Connection(
                there.first,
                back.first,
                there.slowest,
                np.array([*there.ids, *back.ids]),
                crossed + self._ack_share * returned,
            )
        return self._connections[channel, pair]

    def _route(self, pair: Pair) -> Route:
        if pair not in self._routes:
            routes = self.cluster.routes(np.array(pair[:1]), np.array(pair[1:]), without_twins=False)
            if (routes.weight != 1).any():
                raise SimulationError(
                    "the packets of a connection take one route, but this routing spreads them; choose ecmp"
                )
            ids = routes.link.tolist()
            links = [self._links[link] for link in ids]
            delay_s = whole_ticks(float(routes.latency[0]) / len(ids))
            hop = Hop(links[-1], None, delay_s)
            for link in reversed(links[:-1]):
                hop = Hop(link, hop, delay_s)
            self._routes[pair] = Route(hop, ids, min(links, key=lambda link: link.rate).kind)
        return self._routes[pair]

    # Below, all time is spent: timers are scheduled without a call, as `Clock.timers` allows.

    def _fill_window(self, connection: Connection, now: float) -> None:
        """Send as much as the window allows."""
        queue, first, window = connection.queue, connection.first, self._window
        while queue and connection.in_flight < window:
            message = queue[0]
            size = message.unsent
            if size > PARCEL:
                message.unsent = size - PARCEL
                parcel = Parcel(connection, first, PARCEL, PARCEL, None)
                connection.in_flight += PARCEL
            else:
                message.unsent = 0.0
                queue.popleft()
                # Until now earlier bytes of the connection had to pass the slowest link of the route.
                message.history.append((connection.slowest, now))
                message.sent(message.history)
                parcel = Parcel(connection, first, size, size, message)
                connection.in_flight += size
            self._arrive(parcel, now)

    def _arrive(self, parcel: Parcel, now: float) -> None:
        """A parcel is at the next link of its route."""
        hop = parcel.hop
        link = hop.link
        if link.sending is not None:
            if link.coming:
                self._join(link, now)
            waiting = hop.waiting
            if not waiting:
                link.turns.append(waiting)
            waiting.append(parcel)
            return
        if not self._send(link, parcel, now):
            self._leave(parcel, now)

    def _send(self, link: Link, parcel: Parcel, now: float) -> bool:
        """Send the parcel; whether that takes time. A link that was idle for a while first sends a burst at once."""
        free_at = link.free_at
        burst_from = now - link.burst_s
        if free_at < burst_from:
            free_at = burst_from
        size = parcel.size
        try:
            free_at += link.service_s[size]
        except KeyError:
            free_at += link.seconds(size)
        link.free_at = free_at
        if free_at > now:
            link.sending = parcel
            heappush(self._timers, (free_at, NORMAL, next(self._numbers), self._served, link))
            return True
        return False

    def _join(self, link: Link, now: float) -> None:
        """Those that have arrived without a timer join the queues of the link."""
        coming = link.coming
        coming.sort()
        due = bisect_left(coming, (now, self.env.number))
        for _, _, parcel in coming[:due]:
            waiting = parcel.hop.waiting
            if not waiting:
                link.turns.append(waiting)
            waiting.append(parcel)
        del coming[:due]

    def _served(self, link: Link, now: float) -> None:
        """The link has sent a parcel: send those of the next pairs, until one takes time."""
        parcel = link.sending
        assert parcel is not None
        self._leave(parcel, now)
        if link.coming:
            self._join(link, now)
        turns = link.turns
        while turns:
            waiting = turns.popleft()
            parcel = waiting.popleft()
            if waiting:
                turns.append(waiting)
            if self._send(link, parcel, now):
                return
            self._leave(parcel, now)
        link.sending = None

    def _leave(self, parcel: Parcel, now: float) -> None:
        """The parcel has passed the link of its hop."""
        hop = parcel.hop
        arrives = now + hop.delay_s
        message = parcel.last_of
        if message is not None:
            message.history += ((hop.link.kind, now), (LATENCY, arrives))
        following = hop.following
        if following is None:
            if parcel.acknowledges and not parcel.connection.queue:
                parcel.connection.returning.append((arrives, next(self._numbers), parcel))
                return
            call = self._deliver
        else:
            parcel.hop = following
            link = following.link
            if link.sending is not None and arrives < link.free_at:
                link.coming.append((arrives, next(self._numbers), parcel))
                return
            call = self._arrive
        heappush(self._timers, (arrives, NORMAL, next(self._numbers), call, parcel))

    def _deliver(self, parcel: Parcel, now: float) -> None:
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
        parcel.hop = connection.back
        parcel.size = size * self._ack_share
        parcel.acknowledges = True
        parcel.last_of = None
        self._arrive(parcel, now)
        if message is not None:
            message.arrived(message.history)
