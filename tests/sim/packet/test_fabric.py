"""Packets: exact where one message is alone, shares where several meet, and bounds that no order of them may break."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import simpy
from hypothesis import given, settings
from hypothesis import strategies as st

from dessim.cluster import Cluster, load_cluster
from dessim.errors import SimulationError
from dessim.sim.core.cores import Cores
from dessim.sim.core.counters import Counters
from dessim.sim.packet.fabric import MSS, Message, PacketFabric

RANKS = 8
BED = load_cluster("lab/two_leaves_2to1")
SIZE = 100 * MSS


def bed(cluster: Cluster = BED, **transport: Any) -> Cluster:
    """A cluster whose messages cost nothing but their bytes, and what is said."""
    costs = {"message_overhead": 0.0, "op_overhead": 0.0, "ack_share": 0.0, "burst": 0.0, **transport}
    return replace(cluster, transport=replace(cluster.transport, **costs))


def sent(cluster: Cluster, messages: list[tuple[str, int, int, float]]) -> tuple[list[float], list[float], Counters]:
    """When each of messages (channel, from, to, bytes) that set out at once had left, and when it was there."""
    env = simpy.Environment()
    fabric = PacketFabric(env, cluster, Cores(env, 2))
    left, there = [-1.0] * len(messages), [-1.0] * len(messages)

    def note(times: list[float], number: int) -> None:
        assert times[number] == -1.0, "told twice"
        times[number] = env.now

    for i, (channel, src, dst, size) in enumerate(messages):
        note_sent, note_arrived = (lambda _, t=times, i=i: note(t, i) for times in (left, there))
        fabric.send(channel, Message((src, dst), size, note_sent, note_arrived))
    env.run()
    return left, there, fabric.counters


def nic(cluster: Cluster = BED) -> float:
    return cluster.node.nic.capacity


def latency(cluster: Cluster, src: int, dst: int) -> float:
    return float(cluster.routes(np.array([src]), np.array([dst])).latency[0])


def test_a_message_alone_takes_its_bytes_and_a_few_packets_of_each_further_hop() -> None:
    for dst, slowest in ((1, nic()), (4, nic())):
        _, (there,), _ = sent(bed(), [("g", 0, dst, SIZE)])
        hops = len(BED.routes(np.array([0]), np.array([dst]), without_twins=False).link)
        assert there >= (SIZE / slowest + latency(BED, 0, dst)) * (1 - 1e-5)  # ticks
        assert there <= SIZE / slowest + latency(BED, 0, dst) + (hops - 1) * 2 * MSS / slowest * (1 + 1e-5)


def test_a_burst_passes_at_once_after_a_pause() -> None:
    def took(**transport: float) -> float:
        return sent(bed(**transport), [("g", 0, 1, SIZE)])[1][0]

    # And what the second link would wait for of the first.
    assert 10 * MSS / nic() <= took() - took(burst=10 * MSS) <= 14 * MSS / nic()


def test_pairs_that_meet_have_turns_and_a_pair_waits_for_itself() -> None:
    into_one = [("g", 0, 2, SIZE), ("g", 1, 2, SIZE), ("other", 1, 2, SIZE)]
    _, there, _ = sent(bed(), into_one)
    # Half the port each, then all of it for the one that had twice as much to send.
    assert there[0] == pytest.approx(2 * SIZE / nic(), rel=0.03)
    assert there[1] == pytest.approx(2 * SIZE / nic(), rel=0.03)
    assert there[2] == pytest.approx(3 * SIZE / nic(), rel=0.03)


def test_a_connection_has_no_more_under_way_than_its_window() -> None:
    window = 10 * MSS
    (left,), (there,), _ = sent(bed(window=window), [("g", 0, 1, SIZE)])
    assert there - left == pytest.approx(window / nic(), abs=5 * MSS / nic())
    # So slow a way back that a window has come long before its acknowledgement: a window each round trip.
    far = bed(replace(BED, links=replace(BED.links, latency=BED.links.latency + 0.05)), window=window)
    _, (there,), _ = sent(far, [("g", 0, 1, SIZE)])
    assert there == pytest.approx(2 * SIZE / window * latency(far, 0, 1), rel=0.1)


def test_acknowledgements_load_the_way_back() -> None:
    share, size = 0.25, 10 * SIZE
    both = [("g", 0, 1, size), ("g", 1, 0, size)]
    _, there, counters = sent(bed(ack_share=share, window=0.05 * size), both)
    assert max(there) == pytest.approx(size * (1 + share) / nic(), rel=0.05)
    crossed = {k: b for k, b in zip(BED.links.kinds, counters.bytes_by_kind.tolist(), strict=True) if b}
    assert crossed == pytest.approx(dict.fromkeys(("nic_up", "nic_down"), 2 * size * (1 + share)))


def test_what_is_spread_over_ways_has_no_packets_here() -> None:
    spine = load_cluster("lab/four_spines")
    spread = bed(replace(spine, routing=replace(spine.routing, policy="split")))
    with pytest.raises(SimulationError, match="take one route"):
        sent(spread, [("g", 0, 7, SIZE)])


MESSAGES = st.lists(
    st.tuples(st.sampled_from("gh"), st.integers(0, RANKS - 1), st.integers(0, RANKS - 1), st.integers(1, 200_000)),
    min_size=1,
    max_size=12,
)


@settings(max_examples=30, deadline=None)
@given(MESSAGES, st.sampled_from([np.inf, 4 * MSS, 90 * MSS]), st.sampled_from([0.0, 0.02]))
def test_every_message_arrives_once_no_sooner_than_links_allow_and_no_byte_is_lost(
    messages: list[tuple[str, int, int, int]], window: float, share: float
) -> None:
    messages = [message for message in messages if message[1] != message[2]]
    cluster = bed(window=window, ack_share=share)
    left, there, counters = sent(cluster, [(c, a, b, float(size)) for c, a, b, size in messages])
    load = np.zeros(len(BED.links))
    for (_, a, b, size), gone, came in zip(messages, left, there, strict=True):
        links = BED.routes(np.array([a]), np.array([b]), without_twins=False).link
        load[links] += size
        assert 0 <= gone <= came and came >= size / BED.links.capacity[links].min() + latency(BED, a, b) - 1e-12
    assert not messages or max(there) >= (load / BED.links.capacity).max() * (1 - 1e-9)
    kinds = np.bincount(BED.links.kind, load, minlength=len(BED.links.kinds))
    assert (counters.bytes_by_kind >= kinds * (1 - 1e-9)).all()
    counters.load(max(there, default=1.0))  # raises where bytes were lost
