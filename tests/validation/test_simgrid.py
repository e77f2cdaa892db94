"""SimGrid and dessim agree on the finish time of every message, on random networks and on every fabric.

Links have no latency here, because SimGrid's fluid model weights shares by latency (see peer.py), except in the test in
which no two messages compete.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import simpy
from hypothesis import given, settings
from hypothesis import strategies as st

from dessim.arrays import Ints
from dessim.cluster import Cluster, load_cluster
from dessim.cluster.links import LinkBuilder
from dessim.cluster.node import NodeBlock, add_node_layers
from dessim.cluster.parts import Link, Node
from dessim.cluster.routing.routes import Pick, Segment
from dessim.cluster.wiring import add_wiring
from dessim.commands.collective import run_collective
from dessim.sim.fluid.fabric import FlowFabric
from dessim.sim.fluid.flows import route_flows
from dessim.trace.schema import Collective
from tests.validation import peer

pytestmark = pytest.mark.slow
GB = 1e9
HOSTS = 6


@pytest.fixture(scope="module", autouse=True)
def simgrid() -> None:
    try:
        peer.program()
    except peer.PeerMissing as missing:
        pytest.skip(str(missing))


@dataclass(frozen=True, eq=False)
class RandomFabric:
    """Random routes between hosts: for each pair some segments, each an array of alternatives [alternatives, hops]."""

    routes: dict[tuple[int, int], list[np.ndarray]]
    first: int
    kind: str = "random"
    rail_aware: bool = False

    def segments(self, src: Ints, dst: Ints, pick: Pick) -> list[Segment]:
        segments = []
        for row, pair in enumerate(zip(src.tolist(), dst.tolist(), strict=True)):
            for links in self.routes[pair]:
                step = links - links[0]
                segments.append(Segment(np.array([row]), self.first + links[:1], step))
        return segments

    def bisection(self, nic_capacity: np.ndarray, first_half: Ints) -> float:
        return np.inf

    def oversubscription(self, nic_capacity: np.ndarray) -> float:
        return 1.0

    def port_problems(self) -> list[str]:
        return []


@cache
def one_switch() -> Cluster:
    return load_cluster("one-switch_16")


@st.composite
def networks(draw: st.DrawFn) -> tuple[Cluster, list[tuple[int, list[tuple[int, int, int]]]]]:
    """A random network, and batches of (start, messages of (bytes, src, dst)) over it."""
    inner = draw(st.integers(1, 7))
    capacity = draw(st.lists(st.integers(1, 8), min_size=inner, max_size=inner))
    pairs = st.tuples(st.integers(0, HOSTS - 1), st.integers(1, HOSTS - 1)).map(lambda p: (p[0], (p[0] + p[1]) % HOSTS))
    message = st.tuples(st.integers(1, 60), pairs).map(lambda m: (m[0], *m[1]))
    batch = st.tuples(st.integers(0, 30), st.lists(message, min_size=1, max_size=3))
    batches = draw(st.lists(batch, min_size=1, max_size=9))
    routes = {}
    for pair in sorted({(src, dst) for _, messages in batches for _, src, dst in messages}):
        unused = list(draw(st.permutations(range(inner))))
        routes[pair] = []
        for alternatives, hops in draw(st.lists(st.tuples(st.integers(1, 3), st.integers(1, 2)), max_size=2)):
            taken = unused[: alternatives * hops]
            unused = unused[alternatives * hops :]
            if len(taken) == alternatives * hops:
                routes[pair].append(np.array(taken).reshape(alternatives, hops))
    return random_cluster(draw(st.integers(1, 12)), capacity, routes), batches


def random_cluster(nic: int, capacity: list[int], routes: dict[tuple[int, int], list[np.ndarray]]) -> Cluster:
    """A cluster of hosts with NICs of `nic` GB/s and inner links of `capacity` GB/s each."""
    node = Node(gpus=1, nics=1, nic=Link("nic", nic * GB, 1.0, 0.0, "test"))
    builder = LinkBuilder()
    run = NodeBlock(node, HOSTS)
    vertices = add_node_layers(builder, [run])
    middle = builder.add_layer("leaf", len(capacity) + 1)
    inner = [
        builder.add_links("inner", Link("inner", c * GB, 1.0, 0.0, "test"), [middle + i], [middle + i + 1])
        for i, c in enumerate(capacity)
    ]
    wiring = add_wiring(builder, [run], vertices, np.full(HOSTS, middle), 0.0)
    bed = one_switch()
    fabric = RandomFabric(routes, inner[0])
    ideal = replace(bed.transport, message_overhead=0.0, op_overhead=0.0)
    return replace(bed, fabric=fabric, wiring=wiring, links=builder.freeze(), transport=ideal, name="random")


def batch_ends(cluster: Cluster, batches: list[Any]) -> list[float]:
    """The time at which each batch has arrived in dessim's network."""
    env = simpy.Environment()
    network = FlowFabric(env, cluster)
    ends = [0.0] * len(batches)

    def transfer(number: int, start: float, messages: list[tuple[float, int, int]]) -> Iterator[simpy.Event]:
        yield env.timeout(start)
        size, src, dst = (np.array(column) for column in zip(*messages, strict=True))
        yield network.transfer(route_flows(cluster, src, dst, size * 1.0))
        ends[number] = env.now

    transfers = [env.process(transfer(i, start, messages)) for i, (start, messages) in enumerate(batches)]
    env.run(until=simpy.AllOf(env, transfers))
    return ends


def peer_ends(cluster: Cluster, batches: list[Any]) -> list[float]:
    """The time at which each batch has arrived in SimGrid."""
    owner = [number for number, (_, messages) in enumerate(batches) for _ in messages]
    flat = [(float(start), size, src, dst) for start, messages in batches for size, src, dst in messages]
    ends = [0.0] * len(batches)
    for number, end in zip(owner, peer.finish_times(cluster, flat), strict=True):
        ends[number] = max(ends[number], end)
    return ends


@settings(max_examples=220)
@given(networks())
def test_staggered_flows_on_a_random_network_finish_when_simgrid_says(case: Any) -> None:
    cluster, batches = case
    # Sizes are tenths of a GB and starts tenths of a second, so near ties are exact ties.
    scaled = [(start / 10, [(size * GB / 10, src, dst) for size, src, dst in m]) for start, m in batches]
    assert batch_ends(cluster, scaled) == pytest.approx(peer_ends(cluster, scaled), rel=1e-6)


HOST = {"rate": "4 GB/s", "efficiency": 1.0, "latency": "0 s", "source": "test"}
UPLINK = {"rate": "3 GB/s", "efficiency": 1.0, "latency": "0 s", "source": "test"}
BEDS: dict[str, dict[str, Any]] = {
    "one switch": {"kind": "single_switch"},
    "leaves, split": {"kind": "leaf_spine", "nodes_per_leaf": 3, "spines": 2, "uplink": UPLINK},
    "leaves, static": {"kind": "leaf_spine", "nodes_per_leaf": 3, "spines": 2, "uplink": UPLINK, "routing": "static"},
    "rails": {"kind": "rail_optimised", "nodes_per_pod": 3, "spines": 2, "uplink": UPLINK},
    "fat tree, split": {"kind": "fat_tree", "uplink": UPLINK},
    "fat tree, static": {"kind": "fat_tree", "uplink": UPLINK, "routing": "static"},
}


@pytest.mark.parametrize("name", BEDS)
def test_an_uneven_all_to_all_finishes_when_simgrid_says(name: str, tmp_path: Path) -> None:
    """All pairs send at once, each a different size; the finish time of every message is compared."""
    cluster = write_cluster(tmp_path, name)
    n = cluster.n_gpus
    sizes = np.rint(np.random.default_rng(7).uniform(0, 2 * GB, size=(n, n)))
    src, dst = np.divmod(np.arange(n * n), n)
    src, dst = src[src != dst], dst[src != dst]
    flows = route_flows(cluster, src, dst, sizes[src, dst])
    expected = peer.finish_times(cluster, [(0.0, sizes[a, b], a, b) for a, b in zip(src, dst, strict=True)])
    assert flows.arrivals(1.0)[flows.folded.colour] == pytest.approx(expected, rel=1e-6)


def write_cluster(folder: Path, name: str) -> Cluster:
    fabric = copy.deepcopy(BEDS[name])
    if fabric["kind"] == "fat_tree":
        fabric |= {"nodes_per_leaf": 2, "leaves_per_pod": 2, "spines_per_pod": 2, "cores_per_spine": 2}
    gpus = 2 if name == "rails" else 1
    lines = ['gpu = "h100-sxm"', 'transport = "ideal"', "[node]", "count = 12", f"gpus = {gpus}", f"nics = {gpus}"]
    lines.append(f"nic = {_inline(HOST)}")
    if gpus > 1:
        lines.append(f"nvlink = {_inline({**HOST, 'rate': '11 GB/s'})}")
    lines += ["[fabric]", *(f"{k} = {_inline(v)}" for k, v in fabric.items())]
    path = folder / "bed.toml"
    path.write_text("\n".join(lines))
    return load_cluster(path)


def _inline(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k} = {_inline(v)}" for k, v in value.items()) + "}"
    return f'"{value}"' if isinstance(value, str) else str(value)


@pytest.mark.parametrize(
    ("op", "algorithm", "pattern"),
    [(Collective.ALL_REDUCE, "ring", "ring"), (Collective.ALL_TO_ALL, "pairwise", "pairwise")],
)
@pytest.mark.parametrize("n", [16, 40, 64])
def test_ring_and_pairwise_take_as_long_as_in_simgrid(op: Collective, algorithm: str, pattern: str, n: int) -> None:
    """With latencies: no two messages of a stage compete, so latencies are only added."""
    cluster = load_cluster("bench/two_level_1024")
    message = 976_562
    expected = peer.times("two_level", n, 16, 50e9, 16 * 50e9, 1e-6, pattern, message)[0]
    simulated = run_collective(cluster, op, n, message * n, algorithm)
    assert simulated.time_s == pytest.approx(expected, rel=1e-6)
