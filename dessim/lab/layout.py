"""From a cluster to what the lab builds of it: namespaces, ends of cables, routes, ranks. Pure; needs no privileges.

A NIC and the ranks behind it are one network namespace, a switch is another that forwards IP packets, a cable is a veth
pair. What leaves by an end of a pair is one directed link of the cluster, so links and ends correspond one to one. Ways
are those the simulator takes, as routes by destination: all that it would split a flow over become next hops among
which the kernel chooses by a hash of the 5-tuple. Left out: NVLink and PCIe (ranks behind one NIC meet on loopback),
latency, and ways that depend on where a message comes from (Valiant routing), which routes by destination cannot say.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from math import isfinite

import numpy as np

from dessim.cluster import Cluster
from dessim.cluster.links import IntArray
from dessim.cluster.routing.policy import FlowRequests, Routing
from dessim.cluster.routing.routes import assemble
from dessim.errors import UsageError

MOST_SPACES = 200
"""Hosts and switches of a lab; more than one machine can keep busy at rates worth measuring."""
MTU = 1500
PAYLOAD_SHARE = (MTU - 52) / (MTU + 14)
"""Payload over what the shaper counts: IPv4 and TCP with time stamps take 52 bytes of a packet, Ethernet adds 14."""
QUEUES = ("lossless", "shallow")


@dataclass(frozen=True, slots=True)
class Port:
    """One end of a cable, `device` in namespace `space`. What leaves by it is the cluster's link `link`, called `name`,
    of the given kind, and gets `rate` bytes/s on the wire; `peer` is the port at the other end."""

    space: str
    device: str
    link: int
    name: str
    kind: str
    rate: float
    peer: int


@dataclass(frozen=True, slots=True)
class Rank:
    """Where a rank runs: the namespace of its NIC, the address there, and which server's which rank it is."""

    space: str
    address: str
    node: int
    local: int


@dataclass(frozen=True, slots=True)
class Route:
    """In namespace `space`, packets to `address` leave by one of `devices`."""

    space: str
    address: str
    devices: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Layout:
    """A whole lab. `spaces` are the namespaces as the kernel knows them, `hosts` those of NICs with their address."""

    name: str
    cluster: str
    scale: float
    queue: str
    seed: int
    spaces: tuple[str, ...]
    hosts: dict[str, str]
    ports: tuple[Port, ...]
    ranks: tuple[Rank, ...]
    gpus_per_node: tuple[int, ...]
    left_out: tuple[str, ...]
    routes: tuple[Route, ...] = ()

    @property
    def switches(self) -> list[str]:
        """Namespaces that forward."""
        return [space for space in self.spaces if space not in self.hosts]


def prefix(name: str) -> str:
    """What the namespaces of a lab begin with. Raises UsageError for a name that could be mistaken."""
    if not re.fullmatch(r"[a-zA-Z0-9_]{1,32}", name):
        raise UsageError(f"--name {name!r}: write up to 32 letters, digits and underscores")
    return f"dl-{name}-"


def lay_out(cluster: Cluster, name: str = "lab", scale: float = 1e-3, queue: str = "lossless") -> Layout:
    """What to build so that each link carries its payload rate times `scale`. Raises UsageError."""
    if not (isfinite(scale) and scale > 0):
        raise UsageError(f"--scale {scale:g}: write a number above 0, such as 1e-3 for 400 Mb/s instead of 400 Gb/s")
    if queue not in QUEUES:
        raise UsageError(f"--queue {queue!r}: choose from {', '.join(QUEUES)}")
    wiring, links = cluster.wiring, cluster.links
    _refuse_several_nics(cluster)
    nics = len(wiring.node_of_nic())
    first, up, down = wiring.first_server_link, wiring.nic_up + np.arange(nics), wiring.nic_down + np.arange(nics)
    emulated = np.concatenate([np.arange(first), up, down])
    host_of = {int(vertex): nic for nic, vertex in enumerate(links.src[up])}
    ends = np.unique(np.concatenate([links.src[emulated], links.dst[emulated]]))
    if len(ends) > MOST_SPACES:
        raise UsageError(f"{cluster.name} has {len(ends):,} NICs and switches; a lab has at most {MOST_SPACES}")
    lab = prefix(name)
    space = {int(v): f"{lab}h{host_of[int(v)]}" if int(v) in host_of else lab + _switch(cluster, int(v)) for v in ends}
    ports = _ports(cluster, emulated, space, host_of, scale)
    addresses = [f"10.98.{nic // 250}.{nic % 250 + 1}" for nic in range(nics)]
    gpus = np.arange(wiring.n_gpus)
    nodes, firsts = wiring.node_of(gpus), wiring.first_gpu()
    ranks = [
        Rank(f"{lab}h{nic}", addresses[nic], int(node), int(gpu - firsts[node]))
        for gpu, nic, node in zip(gpus, wiring.nic_of(gpus), nodes, strict=True)
    ]
    return Layout(
        name=name,
        cluster=str(cluster.path.resolve()),
        scale=scale,
        queue=queue,
        seed=cluster.routing.seed,
        spaces=tuple(space.values()),
        hosts={f"{lab}h{nic}": address for nic, address in enumerate(addresses)},
        ports=tuple(ports),
        ranks=tuple(ranks),
        gpus_per_node=tuple(np.bincount(nodes).tolist()),
        left_out=tuple(_left_out(cluster)),
        routes=tuple(_routes(cluster, space, addresses, {port.link: port.device for port in ports})),
    )


def _refuse_several_nics(cluster: Cluster) -> None:
    for node in cluster.nodes:
        if node.nics > 1 and (node.nvlink or node.pcie_switches):
            raise UsageError(
                f"{cluster.path}: a lab has no NVLink or PCIe switches to join the {node.nics} NICs of a server; "
                "give each server one NIC, or leave nvlink and pcie_switches out"
            )


def _switch(cluster: Cluster, vertex: int) -> str:
    layer = next(x for x in cluster.links.layers if x.first <= vertex < x.first + x.count)
    return f"{layer.kind}{vertex - layer.first}"


def _ports(
    cluster: Cluster, emulated: IntArray, space: dict[int, str], host_of: dict[int, int], scale: float
) -> list[Port]:
    """Both ends of every cable; the position of a port is that of its link among those `emulated`."""
    links = cluster.links
    ends = {(int(links.src[link]), int(links.dst[link])): i for i, link in enumerate(emulated)}
    used: dict[int, int] = {}
    ports = []
    for link in emulated.tolist():
        src, dst = int(links.src[link]), int(links.dst[link])
        number = used[src] = used.get(src, -1) + 1
        capacity = float(links.capacity[link])
        if capacity == 0:
            raise UsageError(f"{links.name(link)} is down; a lab is built from cables that work")
        ports.append(
            Port(
                space=space[src],
                device=f"{'e' if src in host_of else 'p'}{number}",
                link=link,
                name=links.name(link),
                kind=links.kinds[links.kind[link]],
                rate=capacity * scale / PAYLOAD_SHARE,
                peer=ends[dst, src],
            )
        )
    return ports


def _routes(cluster: Cluster, space: dict[int, str], addresses: list[str], device: dict[int, str]) -> list[Route]:
    """At every switch, by which devices each host is reached."""
    links, nics = cluster.links, len(addresses)
    src, dst = np.divmod(np.arange(nics * nics), nics)
    apart = src != dst
    src, dst = src[apart], dst[apart]
    routing = Routing("static" if cluster.routing.policy == "static" else "split")
    try:
        segments = cluster.across(FlowRequests(src, dst, np.ones(len(src)), np.arange(len(src))), routing)
    except ValueError as error:
        raise UsageError(f"{cluster.path}: {error}, and a lab has no NVLink") from None
    ways = assemble(len(src), segments, links)
    hops = np.unique(np.stack([dst[ways.flow], ways.link], axis=1), axis=0)
    next_hops: dict[tuple[int, int], list[int]] = {}
    for nic, link in hops.tolist():
        next_hops.setdefault((nic, int(links.src[link])), []).append(link)
    for nic in range(nics):
        last = cluster.wiring.nic_down + nic
        next_hops[nic, int(links.src[last])] = [last]
    _refuse_circles(cluster, next_hops)
    return [
        Route(space[vertex], addresses[nic], tuple(device[link] for link in out))
        for (nic, vertex), out in next_hops.items()
    ]


def _refuse_circles(cluster: Cluster, next_hops: dict[tuple[int, int], list[int]]) -> None:
    """Ways that differ by source may send packets in circles once they are merged by destination."""
    after: dict[int, dict[int, set[int]]] = {}
    for (nic, vertex), out in next_hops.items():
        after.setdefault(nic, {})[vertex] = {int(cluster.links.dst[link]) for link in out}
    for graph in after.values():
        try:
            TopologicalSorter(graph).prepare()
        except CycleError:
            raise UsageError(
                f"{cluster.path}: on a {cluster.kind} ways depend on where a message comes from; "
                "a lab routes by destination alone"
            ) from None


def _left_out(cluster: Cluster) -> list[str]:
    """What the file says and the lab does not do, a sentence each."""
    said = ["latency: what this machine has, not the file's (no netem)"]
    if any(node.nvlink or node.pcie for node in cluster.nodes):
        said.append("NVLink and PCIe: ranks behind one NIC meet on loopback, at the machine's own speed")
    if cluster.routing.policy in ("split", "adaptive"):
        said.append(f"routing {cluster.routing.policy}: a flow keeps one way, chosen by the kernel's hash (ECMP)")
    if cluster.routing.policy == "ecmp":
        said.append("routing ecmp: the kernel's hash of the 5-tuple, not the simulator's, so other flows collide")
    return said
