"""RendezvousChannels: who waits for whom, and what that makes of an exchange."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest
import simpy

from dessim.sim.core.cores import Cores
from dessim.sim.packet.fabric import PacketFabric
from dessim.sim.packet.rendezvous import RendezvousChannels
from tests.sim.packet.test_fabric import BED, SIZE, bed, nic

Process = Generator[simpy.Event, object, None]


def run(*ranks: Any, **transport: float) -> list[float]:
    """When each of two ranks is done with what its process of (environment, channels) does."""
    env, cluster = simpy.Environment(), bed(**transport)
    channels = RendezvousChannels(PacketFabric(env, cluster, Cores(env, 2)), "g", [0, 1])
    ends = [-1.0] * len(ranks)

    def timed(number: int, process: Process) -> Process:
        yield from process
        ends[number] = env.now

    for number, rank in enumerate(ranks):
        env.process(timed(number, rank(env, channels)))
    env.run()
    return ends


def exchanging(me: int, comes: float, sends_first: bool) -> Any:
    def process(env: simpy.Environment, channels: RendezvousChannels) -> Process:
        yield env.timeout(comes)
        posts = [lambda: channels.send(me, 1 - me, SIZE), lambda: channels.receive(me, 1 - me)]
        events = [post() for post in (posts if sends_first else reversed(posts))]
        yield simpy.AllOf(env, events)

    return process


def test_a_message_waits_for_its_receiver() -> None:
    def sender(env: simpy.Environment, channels: RendezvousChannels) -> Process:
        yield channels.send(0, 1, SIZE)

    def receiver(env: simpy.Environment, channels: RendezvousChannels) -> Process:
        yield env.timeout(1.0)
        yield channels.receive(1, 0)

    left, there = run(sender, receiver)
    assert 1.0 < left < there
    assert there == pytest.approx(1.0 + SIZE / nic(), abs=1e-3)


def test_who_comes_later_and_sends_first_has_the_other_wait() -> None:
    one_way = SIZE / nic()
    together = run(exchanging(0, 0.0, True), exchanging(1, 0.0, True))
    assert max(together) == pytest.approx(one_way, abs=1e-3)
    apart = run(exchanging(0, 0.0, True), exchanging(1, 0.1, True))
    assert apart[1] == pytest.approx(0.1 + 2 * one_way, abs=1e-3)
    ready_first = run(exchanging(0, 0.0, False), exchanging(1, 0.1, False))
    assert max(ready_first) == pytest.approx(0.1 + one_way, abs=1e-3)


def test_messages_of_a_pair_come_in_their_order() -> None:
    came: list[int] = []

    def sender(env: simpy.Environment, channels: RendezvousChannels) -> Process:
        for size in (SIZE, 1.0, SIZE):
            channels.send(0, 1, size)
        yield env.timeout(0)

    def receiver(env: simpy.Environment, channels: RendezvousChannels) -> Process:
        for number, event in enumerate([channels.receive(1, 0) for _ in range(3)]):
            yield event
            came.append(number)

    run(sender, receiver)
    assert came == [0, 1, 2]
    assert BED.n_gpus >= 2
