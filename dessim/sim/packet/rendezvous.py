"""What ranks of one collective send each other over gloo: a message leaves when its receiver has said that it waits.

Both share a connection: who sends data first queues its own "ready to receive" behind them, and the answer waits for
it. So a pair exchanges both ways at once, or one after the other, as its ranks happen to come
(transport/tcp/pair.cc of gloo).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

import simpy

from dessim.sim.packet.packets import Packets

_READY = 48.0
"""Bytes that say so: a preamble, which goes before data, too."""


@dataclass(slots=True)
class _Lane:
    """From one rank to another: messages that wait for the receiver and what they tell the sender, how many the
    receiver waits for, and its events."""

    waiting: deque[tuple[float, simpy.Event]] = field(default_factory=deque)
    ready: int = 0
    coming: deque[simpy.Event] = field(default_factory=deque)


class RendezvousChannels:
    """Messages of one collective of the group `channel`, whose rank r is on GPU `gpus[r]`."""

    def __init__(self, env: simpy.Environment, packets: Packets, channel: str, gpus: Sequence[int]) -> None:
        self._env, self._packets, self._channel, self._gpus = env, packets, channel, gpus
        self._lanes = {(a, b): _Lane() for a in range(len(gpus)) for b in range(len(gpus)) if a != b}

    def send(self, src: int, dst: int, size: float) -> simpy.Event:
        """Rank `src` has `size` bytes for `dst`; the event fires when it need not keep them any longer."""
        lane, sent = self._lanes[src, dst], self._env.event()
        if lane.ready:
            lane.ready -= 1
            self._go(src, dst, size, sent)
        else:
            lane.waiting.append((size, sent))
        return sent

    def receive(self, dst: int, src: int) -> simpy.Event:
        """Rank `dst` waits for the next message from `src`; the event fires when it is there."""
        event = self._env.event()
        self._lanes[src, dst].coming.append(event)
        ready = partial(self._ready, src, dst)
        self._packets.send(self._channel, self._gpus[dst], self._gpus[src], _READY, _nothing, ready)
        return event

    def _ready(self, src: int, dst: int) -> None:
        lane = self._lanes[src, dst]
        if lane.waiting:
            self._go(src, dst, *lane.waiting.popleft())
        else:
            lane.ready += 1

    def _go(self, src: int, dst: int, size: float, sent: simpy.Event) -> None:
        arrived = self._lanes[src, dst].coming.popleft()
        between = self._gpus[src], self._gpus[dst]
        self._packets.send(self._channel, *between, _READY + size, sent.succeed, arrived.succeed)


def _nothing() -> None:
    """Who says that it is ready does not wait until it has said so."""
