"""Messages, parcels of one or two packets, and the links, routes and connections that carry them."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from dessim.cluster.links import FloatArray, IntArray
from dessim.sim.core.ticks import whole_ticks

MSS = 1448.0
"""Bytes in a packet: Ethernet's 1,500 less the headers of IP, TCP and its time stamps."""
PARCEL = 2 * MSS
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
class Link:
    """A link: `sending` is the parcel that is being sent, and `turns` the queues of others, one per pair, in the order
    of their turns. Nothing waits for an idle link. `coming` are parcels that arrive before it has sent that parcel, so
    that they need no timer: they join the queues later, in the order of their arrival.

    `free_at` [s] is when the link would have finished had it never sent faster than its rate (token bucket, as in
    dessim/sim/fluid/buckets.py).
    """

    kind: str
    rate: float
    burst_s: float
    service_s: dict[float, float] = field(default_factory=dict)  # by size; packets come in a few sizes
    turns: deque[deque[Parcel]] = field(default_factory=deque)
    coming: list[Due] = field(default_factory=list)
    sending: Parcel | None = None
    free_at: float = -math.inf

    def seconds(self, size: float) -> float:
        """How long the link sends `size` bytes, which `service_s` then knows."""
        seconds = self.service_s[size] = whole_ticks(size / self.rate)
        return seconds


@dataclass(slots=True, eq=False)
class Hop:
    """A link of a route, and the parcels of the route that wait for it.

    Parcels arrive at the `following` hop (None: at the end of the route) `delay_s` seconds after they left the link.
    """

    link: Link
    following: Hop | None
    delay_s: float
    waiting: deque[Parcel] = field(default_factory=deque)


@dataclass(slots=True, eq=False)
class Route:
    """Links from one GPU to another: their `ids`, the `first` hop, and the class of the slowest link."""

    first: Hop
    ids: list[int]
    slowest: str


@dataclass(slots=True, eq=False)
class Connection:
    """Messages over a route that are not completely sent, and the bytes in flight.

    `first` is the first hop of the route, `back` that of the opposite route, and `slowest` the class of the slowest
    link. While no message waits, acknowledgements need no timer: they are in `returning`, in order of arrival.
    `links` are those of both routes; `load` [link classes] is how often a byte and its acknowledgement cross a
    class.
    """

    first: Hop
    back: Hop
    slowest: str
    links: IntArray
    load: FloatArray
    queue: deque[Message] = field(default_factory=deque)
    returning: deque[Due] = field(default_factory=deque)
    in_flight: float = 0.0


@dataclass(slots=True, eq=False)
class Parcel:
    """Two packets, one, or the acknowledgement of `carried` bytes, at `hop` of its route or on the way there.

    `size` is what it takes of a link [bytes]. `last_of` is the message that ends with it, if one does.
    """

    connection: Connection
    hop: Hop
    size: float
    carried: float
    last_of: Message | None
    acknowledges: bool = False


Due = tuple[float, int, Parcel]
"""A parcel without a timer: when it arrives [s], and the number of the timer that it would have."""
