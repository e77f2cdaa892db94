"""The objects of the packet fabric: messages, parcels of one or two packets, and the links and legs that they cross."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from dessim.cluster.links import FloatArray

MSS = 1448.0
"""Bytes in a packet: Ethernet's 1,500 less the headers of IP, TCP and its time stamps."""
PARCEL = 2 * MSS
"""A receiver acknowledges every second packet (RFC 5681), so two packets travel as one parcel here."""

Pair = tuple[int, int]
History = Sequence[tuple[str, float]]
"""The delays of a message, in order: a bottleneck (dessim.sim.core.bounds) and the time [s] until which it held."""


@dataclass(slots=True, eq=False)
class Message:
    """`size` bytes from GPU `pair[0]` to GPU `pair[1]`.

    `sent` is called when the connection has the last byte in flight, `arrived` when the last byte is at its receiver;
    both with the message's history so far. The fabric has had it since `began` [s]. `unsent` bytes wait for the window.
    `loads` [link classes] are the bytes that each link class carries for it.
    """

    pair: Pair
    size: float
    sent: Callable[[History], object]
    arrived: Callable[[History], object]
    history: list[tuple[str, float]] = field(default_factory=list)
    unsent: float = 0.0
    began: float = 0.0
    loads: FloatArray = field(init=False)


@dataclass(slots=True, eq=False)
class Link:
    """A link, which is `sending` a parcel or idle. `waiting_queues` hold the parcels that wait, one queue per pair, in
    the order in which the link serves them. Nothing waits for an idle link.

    `free_at` [s] is when the link would have finished had it never sent faster than its rate (token bucket, as in
    dessim/sim/fluid/buckets.py).
    """

    kind: str
    rate: float
    burst_s: float
    waiting_queues: deque[deque[Leg]] = field(default_factory=deque)
    sending: bool = False
    free_at: float = -math.inf


@dataclass(slots=True, eq=False)
class Hop:
    """A link of a route, and the parcels of the route that wait for it.

    Parcels arrive at the next hop, or at the end of the route, `delay_s` seconds after they left the link; until then
    `pass_on` keeps them.
    """

    link: Link
    delay_s: float
    pass_on: Callable[[Due], object]
    waiting: deque[Leg] = field(default_factory=deque)


@dataclass(slots=True, eq=False)
class Route:
    """The route from one GPU to another: its `hops`, the ids of their links, and the class of the slowest link."""

    hops: Sequence[Hop]
    ids: Sequence[int]
    slowest: str


@dataclass(slots=True, eq=False)
class Connection:
    """A connection from one GPU to another: the messages that are not completely sent, and the bytes in flight.

    `slowest` is the class of the slowest link of the route. `load` [link classes] is the number of bytes that a class
    carries per byte of a message, acknowledgements included. `full` is the first leg of parcels of full size; `last`
    has, by size, the first leg of parcels that end a message.
    """

    pair: Pair
    slowest: str
    load: FloatArray
    full: Leg = field(init=False)
    last: dict[float, Leg] = field(default_factory=dict)
    queue: deque[Message] = field(default_factory=deque)
    in_flight: float = 0.0


@dataclass(slots=True, eq=False)
class Leg:
    """One hop of the round trip of a connection's parcels of one size.

    Such parcels are interchangeable, so all of them on this hop share one Leg. A parcel takes `seconds` of the link of
    `hop`, and is then on the leg `following`. Two legs have no hop. On the first the parcel is at its receiver, which
    spends `seconds` of a core on it and acknowledges it. On the last its acknowledgement has `returned` to the sender,
    which now has `size` fewer bytes in flight.

    `ends` are the messages that end with parcels on this leg, in their order; None if parcels end no message.
    """

    connection: Connection
    size: float
    hop: Hop | None
    seconds: float
    ends: deque[Message] | None = None
    returned: bool = False
    following: Leg = field(init=False)  # of all but the last


Due = tuple[float, int, Leg]
"""A parcel that arrives at a leg: time [s], number, leg. Parcels that are due at the same time arrive in the order of
their numbers."""
