"""Messages between the ranks of one collective over gloo: a message leaves once its receiver is ready.

Both directions of a pair share a connection with data. A rank that sends data first queues its own "ready to receive"
behind that data, so the data of the other rank waits for it. Whether a pair exchanges in both directions at the same
time, or in one after the other, therefore depends on when its ranks arrive (gloo, transport/tcp/pair.cc).
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

import simpy

from dessim.sim.core.bounds import LATE, LATENCY
from dessim.sim.packet.fabric import PacketFabric
from dessim.sim.packet.parcels import History, Message

_PREAMBLE = 48.0
"""Bytes of "ready to receive", and of the preamble that precedes data."""


@dataclass(slots=True)
class _Posted:
    """A message that its sender has posted and its receiver has not asked for yet."""

    size: float
    posted_at: float
    sent: simpy.Event


@dataclass(slots=True)
class _Channel:
    """One direction of a pair: posted messages, `ready` receives without a message, and the receiver's events."""

    posted: deque[_Posted] = field(default_factory=deque)
    ready: deque[float] = field(default_factory=deque)  # when the sender learned of each
    receives: deque[simpy.Event] = field(default_factory=deque)


class RendezvousChannels:
    """The messages of one collective of the group `channel`, whose rank r is on GPU `gpus[r]`."""

    def __init__(self, fabric: PacketFabric, channel: str, gpus: Sequence[int]) -> None:
        self._env = fabric.env
        self._fabric = fabric
        self._channel = channel
        self._gpus = gpus
        self._channels: defaultdict[tuple[int, int], _Channel] = defaultdict(_Channel)

    def send(self, src: int, dst: int, size: float) -> simpy.Event:
        """Rank `src` posts `size` bytes for rank `dst`.

        The event fires when `src` may reuse its buffer; its value is the message's `History`.
        """
        channel = self._channels[src, dst]
        posted = _Posted(size, self._env.now, self._env.event())
        if channel.ready:
            channel.ready.popleft()
            self._start(src, dst, posted)
        else:
            channel.posted.append(posted)
        return posted.sent

    def receive(self, dst: int, src: int) -> simpy.Event:
        """Rank `dst` waits for the next message from rank `src`.

        The event fires when the message has arrived; its value is the message's `History`.
        """
        event = self._env.event()
        self._channels[src, dst].receives.append(event)
        ready = partial(self._ready, src, dst)
        self._fabric.send(self._channel, Message((self._gpus[dst], self._gpus[src]), _PREAMBLE, _ignore, ready))
        return event

    def _ready(self, src: int, dst: int, history: History) -> None:
        """Rank `src` learns that rank `dst` is ready to receive."""
        channel = self._channels[src, dst]
        if channel.posted:
            self._start(src, dst, channel.posted.popleft())
        else:
            channel.ready.append(self._env.now)

    def _start(self, src: int, dst: int, posted: _Posted) -> None:
        """Send a message whose receiver is ready."""
        arrived = self._channels[src, dst].receives.popleft()
        began = self._env.now

        def sent(history: History) -> None:
            # To the sender the receiver was late until now.
            posted.sent.succeed([(LATE, began), *history])

        def received(history: History) -> None:
            # To the receiver the sender was late until it posted; then "ready to receive" was on its way.
            arrived.succeed([(LATE, posted.posted_at), (LATENCY, began), *history])

        message = Message((self._gpus[src], self._gpus[dst]), _PREAMBLE + posted.size, sent, received)
        self._fabric.send(self._channel, message)


def _ignore(history: History) -> None:
    """A rank does not wait until its "ready to receive" has left."""
