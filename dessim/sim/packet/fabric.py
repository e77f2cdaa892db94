"""The packet fabric: links serve pairs of GPUs round-robin, and the packets of a pair first come, first served.

The fluid fabric assumes that messages share a link evenly and immediately. Here sharing results from queues. A sender
sends as much as its connection may have in flight (`Transport.window`) and knows nothing about queues further on. Links
serve pairs in turn and lose nothing. Acknowledgements return along the route of the reverse direction. Messages of one
pair queue behind each other, even those of different groups. Which message finishes first differs from fair sharing
where rates or routes differ, or where one pair has more to send than others. That matters when ranks continue as soon
as they have what they wait for. The time of a simulation grows with the number of packets, so this model is for a few
ranks.

Left out: packet loss and retransmission, and how a connection's window grows.
"""

from __future__ import annotations

import math
from collections import deque
from heapq import heappop, heappush, heapreplace
from itertools import pairwise

import numpy as np
from simpy.events import NORMAL

from dessim.cluster import Cluster
from dessim.errors import SimulationError
from dessim.sim.core.bounds import LATENCY
from dessim.sim.core.clock import Clock
from dessim.sim.core.cores import Cores
from dessim.sim.core.counters import Counters
from dessim.sim.core.ticks import whole_bytes, whole_ticks
from dessim.sim.packet.parcels import PARCEL, Connection, Due, Hop, Leg, Link, Message, Pair, Route

_Timer = tuple[float, int, Leg, Hop | None]
"""Time [s], number, leg, hop: the link of the hop has sent a parcel of the leg. Without a hop, see `Due`."""


class PacketFabric:
    """Moves messages over a cluster. `cores` work on packets (None: that time is not modelled).

    Takes over `env.advance`. Sending raises SimulationError where the routing splits a connection over several routes.
    """

    def __init__(self, env: Clock, cluster: Cluster, cores: Cores | None = None) -> None:
        self.env = env
        self.cluster = cluster
        self.cores = cores
        self.counters = Counters(cluster.links)
        self._window = whole_bytes(cluster.transport.window)
        self._ack_share = cluster.transport.ack_share
        kinds = [cluster.links.kinds[kind] for kind in cluster.links.kind.tolist()]
        burst = cluster.transport.burst
        self._links = [
            Link(kind, rate, whole_ticks(burst / rate))
            for kind, rate in zip(kinds, cluster.links.capacity.tolist(), strict=True)
        ]
        self._routes: dict[Pair, Route] = {}
        self._connections: dict[tuple[str, Pair], Connection] = {}
        # After hops of this delay, parcels arrive in the order in which they left. Other parcels go to the heap.
        self._arriving: deque[Due] = deque()
        self._delay_s: float | None = None
        self._timers: list[_Timer] = []
        self._numbers = env.numbers
        env.advance = self._advance

    def send(self, channel: str, message: Message) -> None:
        """Queue a message behind earlier ones of its connection. Each `channel` has its own connections."""
        connection = self._connections.get((channel, message.pair)) or self._connect(channel, message.pair)
        message.size = whole_bytes(message.size)
        message.unsent = message.size
        message.began = self.env.now
        message.loads = message.size * connection.load
        self.counters.bytes_by_kind += message.loads
        connection.queue.append(message)
        self._fill_window(connection, message.began)

    def _connect(self, channel: str, pair: Pair) -> Connection:
        kinds = self.cluster.links.kind
        n_classes = len(self.cluster.links.kinds)
        there = self._route(pair)
        back = self._route(pair[::-1])
        self.counters.touch([*there.ids, *back.ids])
        crossed = np.bincount(kinds[there.ids], minlength=n_classes)
        returned = np.bincount(kinds[back.ids], minlength=n_classes)
        connection = Connection(pair, there.slowest, crossed + self._ack_share * returned)
        connection.full = self._first_leg(connection, PARCEL, ends=False)
        self._connections[channel, pair] = connection
        return connection

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
            if self._delay_s is None:
                self._delay_s = delay_s
            pass_on = self._arriving.append if delay_s == self._delay_s else self._pass_on
            hops = [Hop(link, delay_s, pass_on) for link in links]
            self._routes[pair] = Route(hops, ids, min(links, key=lambda link: link.rate).kind)
        return self._routes[pair]

    def _first_leg(self, connection: Connection, size: float, ends: bool) -> Leg:
        """The first leg of parcels of `size` bytes, which end messages or not; the others follow it."""
        there = self._routes[connection.pair].hops
        back = self._routes[connection.pair[::-1]].hops
        legs = [Leg(connection, size, hop, whole_ticks(size / hop.link.rate)) for hop in there]
        legs.append(Leg(connection, size, None, whole_ticks(size / self.cluster.transport.core_rate)))
        if ends:
            for leg in legs:
                leg.ends = deque()
        share = self._ack_share
        legs += [Leg(connection, size, hop, whole_ticks(size * share / hop.link.rate)) for hop in back]
        legs.append(Leg(connection, size, None, 0.0, returned=True))
        for leg, following in pairwise(legs):
            leg.following = following
        return legs[0]

    # Hot path: the run spends its time below.

    def _advance(self) -> None:
        """Move parcels until the next event of the clock is due."""
        arriving = self._arriving
        timers = self._timers
        events = self.env.events
        until = events[0][0] if events else math.inf
        while True:
            if arriving and (not timers or arriving[0] < timers[0]):
                now, number, leg = arriving[0]
                if now >= until and events[0] < (now, NORMAL, number):
                    return
                arriving.popleft()
            elif timers:
                now, number, leg, hop = timers[0]
                if now >= until and events[0] < (now, NORMAL, number):
                    return
                if hop is not None:
                    self._serve_next(leg, hop, now)
                    continue
                heappop(timers)
            else:
                return
            if leg.hop is not None:
                self._arrive(leg, now)
            else:
                self._reach_end(leg, now)
                until = events[0][0] if events else math.inf

    def _serve_next(self, leg: Leg, hop: Hop, now: float) -> None:
        """The first timer is due: its link has sent a parcel. Send those of the next pairs, until one takes time."""
        numbers = self._numbers
        timers = self._timers
        link = hop.link
        hop.pass_on((now + hop.delay_s, next(numbers), leg.following))
        if leg.ends is not None:
            self._note(leg, hop, now)
        waiting_queues = link.waiting_queues
        while waiting_queues:
            waiting = waiting_queues.popleft()
            leg = waiting.popleft()
            if waiting:
                waiting_queues.append(waiting)
            if leg.seconds > 0:
                link.free_at = now + leg.seconds
                heapreplace(timers, (link.free_at, next(numbers), leg, leg.hop))
                return
            self._leave(leg, now)
        link.sending = False
        heappop(timers)

    def _reach_end(self, leg: Leg, now: float) -> None:
        """A parcel has arrived at its receiver, which acknowledges it, or its acknowledgement at the sender."""
        if leg.returned:
            connection = leg.connection
            connection.in_flight -= leg.size
            if connection.queue:
                self._fill_window(connection, now)
            return
        if self.cores is not None:
            self.cores.packets_s += leg.seconds
        self._arrive(leg.following, now)
        if leg.ends is not None:
            message = leg.ends.popleft()
            self.env.pass_to(now)
            self.counters.carried(message.began, now, message.loads)
            message.arrived(message.history)

    def _fill_window(self, connection: Connection, now: float) -> None:
        """Send as much as the window allows."""
        queue = connection.queue
        window = self._window
        while queue and connection.in_flight < window:
            message = queue[0]
            size = message.unsent
            if size > PARCEL:
                message.unsent = size - PARCEL
                connection.in_flight += PARCEL
                self._arrive(connection.full, now)
                continue
            queue.popleft()
            # Until now the message waited for the slowest link, which earlier bytes of the connection had to pass.
            message.history.append((connection.slowest, now))
            self.env.pass_to(now)
            message.sent(message.history)
            connection.in_flight += size
            leg = connection.last.get(size)
            if leg is None:
                leg = self._first_leg(connection, size, ends=True)
                connection.last[size] = leg
            assert leg.ends is not None
            leg.ends.append(message)
            self._arrive(leg, now)

    def _arrive(self, leg: Leg, now: float) -> None:
        """A parcel has arrived at the link of its leg. A link that was idle for a while sends a burst without delay."""
        hop = leg.hop
        assert hop is not None
        link = hop.link
        if link.sending:
            waiting = hop.waiting
            if not waiting:
                link.waiting_queues.append(waiting)
            waiting.append(leg)
            return
        free_at = link.free_at
        burst_from = now - link.burst_s
        if free_at < burst_from:
            free_at = burst_from
        free_at += leg.seconds
        link.free_at = free_at
        if free_at > now:
            link.sending = True
            heappush(self._timers, (free_at, next(self._numbers), leg, hop))
        else:
            self._leave(leg, now)

    def _leave(self, leg: Leg, now: float) -> None:
        """A parcel has passed the link of its leg."""
        hop = leg.hop
        assert hop is not None
        hop.pass_on((now + hop.delay_s, next(self._numbers), leg.following))
        if leg.ends is not None:
            self._note(leg, hop, now)

    def _pass_on(self, due: Due) -> None:
        """Parcels after hops of other delays may overtake each other, so a heap orders them."""
        heappush(self._timers, (*due, None))

    def _note(self, leg: Leg, hop: Hop, now: float) -> None:
        """The last parcel of a message has passed the link of the leg."""
        assert leg.ends is not None and leg.following.ends is not None
        message = leg.ends.popleft()
        message.history += ((hop.link.kind, now), (LATENCY, now + hop.delay_s))
        leg.following.ends.append(message)
