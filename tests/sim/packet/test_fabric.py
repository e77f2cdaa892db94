"""The packet fabric: exact times of a lone message, fair shares of several, and bounds that hold for any order."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dessim.cluster import Cluster, load_cluster
from dessim.errors import SimulationError
from dessim.sim.core.clock import Clock
from dessim.sim.core.cores import Cores
from dessim.sim.core.counters import Counters
from dessim.sim.packet.fabric import PacketFabric
from dessim.sim.packet.parcels import MSS, Message

RANKS = 8
BED = load_cluster("lab/two_leaves_2to1")
SIZE = 100 * MSS


def bed(cluster: Cluster = BED, **transport: Any) -> Cluster:
    """`cluster` with no costs besides bytes and the given `transport` values."""
    costs = {"message_overhead": 0.0, "op_overhead": 0.0, "ack_share": 0.0, "burst": 0.0, **transport}
    return replace(cluster, transport=replace(cluster.transport, **costs))


def sent(cluster: Cluster, messages: list[tuple[str, int, int, float]]) -> tuple[list[float], list[float], Counters]:
    """When each message (channel, source, destination, bytes) was sent and when it arrived, if all start at time 0."""
    env = Clock()
    fabric = PacketFabric(env, cluster, Cores(env, 2))
    left = [-1.0] * len(messages)
    arrived = [-1.0] * len(messages)

    def note(times: list[float], number: int) -> None:
        assert times[number] == -1.0, "called twice"
        times[number] = env.now

    for i, (channel, src, dst, size) in enumerate(messages):
        note_sent, note_arrived = (lambda _, t=times, i=i: note(t, i) for times in (left, arrived))
        fabric.send(channel, Message((src, dst), size, note_sent, note_arrived))
    env.run()
    return left, arrived, fabric.counters


def nic(cluster: Cluster = BED) -> float:
    return cluster.node.nic.capacity


def latency(cluster: Cluster, src: int, dst: int) -> float:
    return float(cluster.routes(np.array([src]), np.array([dst])).latency[0])


def test_a_lone_message_takes_its_bytes_and_a_few_packets_per_further_hop() -> None:
    for dst, slowest in ((1, nic()), (4, nic())):
        _, (arrived,), _ = sent(bed(), [("g", 0, dst, SIZE)])
        hops = len(BED.routes(np.array([0]), np.array([dst]), without_twins=False).link)
        assert arrived >= (SIZE / slowest + latency(BED, 0, dst)) * (1 - 1e-5)  # times are rounded to ticks
        assert arrived <= SIZE / slowest + latency(BED, 0, dst) + (hops - 1) * 2 * MSS / slowest * (1 + 1e-5)


def test_a_burst_passes_at_once_after_an_idle_period() -> None:
    def took(**transport: float) -> float:
        return sent(bed(**transport), [("g", 0, 1, SIZE)])[1][0]

    # The second link also saves the wait for the first packets of the first link.
    assert 10 * MSS / nic() <= took() - took(burst=10 * MSS) <= 14 * MSS / nic()


def test_pairs_share_a_link_round_robin_and_messages_of_a_pair_queue() -> None:
    into_one = [("g", 0, 2, SIZE), ("g", 1, 2, SIZE), ("other", 1, 2, SIZE)]
    _, arrived, _ = sent(bed(), into_one)
    # Each pair gets half of the port, then all of it remains for the pair that sends twice as much.
    assert arrived[0] == pytest.approx(2 * SIZE / nic(), rel=0.03)
    assert arrived[1] == pytest.approx(2 * SIZE / nic(), rel=0.03)
    assert arrived[2] == pytest.approx(3 * SIZE / nic(), rel=0.03)


def test_a_connection_has_at_most_its_window_in_flight() -> None:
    window = 10 * MSS
    (left,), (arrived,), _ = sent(bed(window=window), [("g", 0, 1, SIZE)])
    assert arrived - left == pytest.approx(window / nic(), abs=5 * MSS / nic())
    # With a latency this long, a window arrives long before its acknowledgement, so each round trip moves one window.
    far = bed(replace(BED, links=replace(BED.links, latency=BED.links.latency + 0.05)), window=window)
    _, (arrived,), _ = sent(far, [("g", 0, 1, SIZE)])
    assert arrived == pytest.approx(2 * SIZE / window * latency(far, 0, 1), rel=0.1)


def test_acknowledgements_load_the_reverse_route() -> None:
    share, size = 0.25, 10 * SIZE
    both = [("g", 0, 1, size), ("g", 1, 0, size)]
    _, arrived, counters = sent(bed(ack_share=share, window=0.05 * size), both)
    assert max(arrived) == pytest.approx(size * (1 + share) / nic(), rel=0.05)
    crossed = {k: b for k, b in zip(BED.links.kinds, counters.bytes_by_kind.tolist(), strict=True) if b}
    assert crossed == pytest.approx(dict.fromkeys(("nic_up", "nic_down"), 2 * size * (1 + share)))


def test_routing_that_splits_messages_is_refused() -> None:
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
def test_every_message_arrives_once_not_too_early_and_no_byte_is_lost(
    messages: list[tuple[str, int, int, int]], window: float, share: float
) -> None:
    messages = [message for message in messages if message[1] != message[2]]
    cluster = bed(window=window, ack_share=share)
    left, arrived, counters = sent(cluster, [(c, a, b, float(size)) for c, a, b, size in messages])
    load = np.zeros(len(BED.links))
    for (_, a, b, size), sent_at, arrived_at in zip(messages, left, arrived, strict=True):
        links = BED.routes(np.array([a]), np.array([b]), without_twins=False).link
        load[links] += size
        fastest = size / BED.links.capacity[links].min() + latency(BED, a, b)
        assert 0 <= sent_at <= arrived_at and arrived_at >= fastest - 1e-12
    assert not messages or max(arrived) >= (load / BED.links.capacity).max() * (1 - 1e-9)
    kinds = np.bincount(BED.links.kind, load, minlength=len(BED.links.kinds))
    assert (counters.bytes_by_kind >= kinds * (1 - 1e-9)).all()
    counters.load(max(arrived, default=1.0))  # raises if bytes were lost
