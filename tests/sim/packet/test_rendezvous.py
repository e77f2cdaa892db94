"""RendezvousChannels: which side of a message waits, and the effect on an exchange."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest
import simpy

from dessim.sim.core.clock import Clock
from dessim.sim.core.cores import Cores
from dessim.sim.packet.fabric import PacketFabric
from dessim.sim.packet.rendezvous import RendezvousChannels
from tests.sim.packet.test_fabric import BED, SIZE, bed, nic

Process = Generator[simpy.Event, object, None]


def run(*ranks: Any, **transport: float) -> list[float]:
    """When the process of each rank, a function of (environment, channels), finishes."""
    env = Clock()
    fabric = PacketFabric(env, bed(**transport), Cores(env, 2))
    channels = RendezvousChannels(fabric, "g", [0, 1])
    ends = [-1.0] * len(ranks)

    def timed(number: int, process: Process) -> Process:
        yield from process
        ends[number] = env.now

    for number, rank in enumerate(ranks):
        env.process(timed(number, rank(env, channels)))
    env.run()
    return ends


def exchanging(rank: int, start: float, sends_first: bool) -> Any:
    """A process that exchanges a message with the other rank."""

    def process(env: simpy.Environment, channels: RendezvousChannels) -> Process:
        yield env.timeout(start)
        posts = [lambda: channels.send(rank, 1 - rank, SIZE), lambda: channels.receive(rank, 1 - rank)]
        events = [post() for post in (posts if sends_first else reversed(posts))]
        yield simpy.AllOf(env, events)

    return process


def test_a_message_waits_for_its_receiver() -> None:
    def sender(env: simpy.Environment, channels: RendezvousChannels) -> Process:
        yield channels.send(0, 1, SIZE)

    def receiver(env: simpy.Environment, channels: RendezvousChannels) -> Process:
        yield env.timeout(1.0)
        yield channels.receive(1, 0)

    sent, arrived = run(sender, receiver)
    assert 1.0 < sent < arrived
    assert arrived == pytest.approx(1.0 + SIZE / nic(), abs=1e-3)


def test_a_late_rank_that_sends_first_makes_the_messages_sequential() -> None:
    one_way = SIZE / nic()
    simultaneous = run(exchanging(0, 0.0, True), exchanging(1, 0.0, True))
    assert max(simultaneous) == pytest.approx(one_way, abs=1e-3)
    one_late = run(exchanging(0, 0.0, True), exchanging(1, 0.1, True))
    assert one_late[1] == pytest.approx(0.1 + 2 * one_way, abs=1e-3)
    ready_first = run(exchanging(0, 0.0, False), exchanging(1, 0.1, False))
    assert max(ready_first) == pytest.approx(0.1 + one_way, abs=1e-3)


def test_messages_of_a_pair_arrive_in_order() -> None:
    arrived: list[int] = []

    def sender(env: simpy.Environment, channels: RendezvousChannels) -> Process:
        for size in (SIZE, 1.0, SIZE):
            channels.send(0, 1, size)
        yield env.timeout(0)

    def receiver(env: simpy.Environment, channels: RendezvousChannels) -> Process:
        for number, event in enumerate([channels.receive(1, 0) for _ in range(3)]):
            yield event
            arrived.append(number)

    run(sender, receiver)
    assert arrived == [0, 1, 2]
    assert BED.n_gpus >= 2
