"""Plan the lab of a cluster: namespaces, ends of cables, routes and ranks. Needs no privileges.

A NIC and the ranks behind it are one network namespace, a switch is a namespace that forwards IP packets, and a cable
is a veth pair. Each end of a pair sends the traffic of one directed link of the cluster, so links and ends correspond
one to one. Routes are those of the simulator, by destination: where it splits a flow over several links, the kernel
chooses among them as next hops by a hash of the 5-tuple.

Left out: NVLink and PCIe (ranks behind one NIC communicate over loopback), latency, and routes that depend on the
source of a message (Valiant routing), which routing by destination cannot express.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from math import isfinite

import numpy as np

from dessim.arrays import Ints
from dessim.cluster import Cluster
from dessim.cluster.routing.policy import FlowRequests, Routing
from dessim.cluster.routing.routes import assemble
from dessim.errors import UsageError

MAX_SPACES = 200
"""Maximum number of hosts and switches; one machine cannot serve more at rates that are worth a measurement."""
MTU = 1500
PAYLOAD_SHARE = (MTU - 52) / (MTU + 14)
"""The payload's share of the bytes that shapers count: IPv4 and TCP with time stamps have 52 bytes of headers per
packet, Ethernet 14."""
QUEUES = ("lossless", "shallow")


@dataclass(frozen=True, slots=True)
class Port:
    """One end of a cable: `device` in namespace `space`.

    It sends the traffic of the cluster's directed link `link`, which has a `name` and a `kind`, at `rate` bytes/s on
    the wire. `peer` is the index of the port at the other end.
    """

    space: str
    device: str
    link: int
    name: str
    kind: str
    rate: float
    peer: int


@dataclass(frozen=True, slots=True)
class Rank:
    """The place of a rank: the namespace and IP address of its NIC, its server `node`, and its `local` rank there."""

    space: str
    address: str
    node: int
    local: int


@dataclass(frozen=True, slots=True)
class Route:
    """In namespace `space`, packets to `address` leave through one of `devices`."""

    space: str
    address: str
    devices: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Layout:
    """The plan of a lab.

    `spaces` are the names of all namespaces, and `hosts` maps those of NICs to their IP addresses. `ranks` and `ports`
    are in order of their indices. `left_out` has a sentence for each property of the cluster that the lab lacks.
    """

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
        """The namespaces of switches."""
        return [space for space in self.spaces if space not in self.hosts]


def prefix(name: str) -> str:
    """The common prefix of a lab's namespaces. Raises UsageError if the name is malformed."""
    if not re.fullmatch(r"[a-zA-Z0-9_]{1,32}", name):
        raise UsageError(f"--name {name!r}: write up to 32 letters, digits and underscores")
    return f"dl-{name}-"


def lay_out(cluster: Cluster, name: str = "lab", scale: float = 1e-3, queue: str = "lossless") -> Layout:
    """Plan a lab in which each link carries its payload rate times `scale`. Raises UsageError."""
    if not (isfinite(scale) and scale > 0):
        raise UsageError(f"--scale {scale:g}: write a number above 0, such as 1e-3 for 400 Mb/s instead of 400 Gb/s")
    if queue not in QUEUES:
        raise UsageError(f"--queue {queue!r}: choose from {', '.join(QUEUES)}")
    _refuse_several_nics(cluster)
    wiring = cluster.wiring
    n_nics = len(wiring.node_of_nic())
    up = wiring.nic_up + np.arange(n_nics)
    down = wiring.nic_down + np.arange(n_nics)
    emulated = np.concatenate([np.arange(wiring.first_server_link), up, down])
    nic_of = {int(vertex): nic for nic, vertex in enumerate(cluster.links.src[up])}
    lab = prefix(name)
    space = _spaces(cluster, lab, emulated, nic_of)
    ports = _ports(cluster, emulated, space, nic_of, scale)
    addresses = [f"10.98.{nic // 250}.{nic % 250 + 1}" for nic in range(n_nics)]
    return Layout(
        name=name,
        cluster=str(cluster.path.resolve()),
        scale=scale,
        queue=queue,
        seed=cluster.routing.seed,
        spaces=tuple(space.values()),
        hosts={f"{lab}h{nic}": address for nic, address in enumerate(addresses)},
        ports=tuple(ports),
        ranks=tuple(_ranks(cluster, lab, addresses)),
        gpus_per_node=tuple(np.bincount(wiring.node_of(np.arange(wiring.n_gpus))).tolist()),
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


def _spaces(cluster: Cluster, lab: str, emulated: Ints, nic_of: dict[int, int]) -> dict[int, str]:
    """The namespace of each vertex: NICs and switches."""
    links = cluster.links
    vertices = np.unique(np.concatenate([links.src[emulated], links.dst[emulated]])).tolist()
    if len(vertices) > MAX_SPACES:
        raise UsageError(f"{cluster.name} has {len(vertices):,} NICs and switches; a lab has at most {MAX_SPACES}")
    return {v: f"{lab}h{nic_of[v]}" if v in nic_of else lab + _switch(cluster, v) for v in vertices}


def _switch(cluster: Cluster, vertex: int) -> str:
    layer = cluster.links.layer_of(vertex)
    return f"{layer.kind}{vertex - layer.first}"


def _ranks(cluster: Cluster, lab: str, addresses: list[str]) -> list[Rank]:
    wiring = cluster.wiring
    gpus = np.arange(wiring.n_gpus)
    first_gpu = wiring.first_gpu()
    return [
        Rank(space=f"{lab}h{nic}", address=addresses[nic], node=int(node), local=int(gpu - first_gpu[node]))
        for gpu, nic, node in zip(gpus, wiring.nic_of(gpus), wiring.node_of(gpus), strict=True)
    ]


def _ports(cluster: Cluster, emulated: Ints, space: dict[int, str], nic_of: dict[int, int], scale: float) -> list[Port]:
    """Both ends of every cable; the index of a port is that of its link among those `emulated`."""
    links = cluster.links
    port_of = {(int(links.src[link]), int(links.dst[link])): i for i, link in enumerate(emulated)}
    last_device: dict[int, int] = {}
    ports = []
    for link in emulated.tolist():
        src = int(links.src[link])
        dst = int(links.dst[link])
        number = last_device.get(src, -1) + 1
        last_device[src] = number
        capacity = float(links.capacity[link])
        if capacity == 0:
            raise UsageError(f"{links.name(link)} is down; a lab is built from cables that work")
        ports.append(
            Port(
                space=space[src],
                device=f"{'e' if src in nic_of else 'p'}{number}",
                link=link,
                name=links.name(link),
                kind=links.kinds[links.kind[link]],
                rate=capacity * scale / PAYLOAD_SHARE,
                peer=port_of[dst, src],
            )
        )
    return ports


def _routes(cluster: Cluster, space: dict[int, str], addresses: list[str], device: dict[int, str]) -> list[Route]:
    """The routes of every switch to each host, over `device[link]` of the links that the simulator uses."""
    links = cluster.links
    nics = len(addresses)
    src, dst = np.divmod(np.arange(nics * nics), nics)
    distinct = src != dst
    src = src[distinct]
    dst = dst[distinct]
    routing = Routing("static" if cluster.routing.policy == "static" else "split")
    try:
        segments = cluster.across(FlowRequests(src, dst, np.ones(len(src)), np.arange(len(src))), routing)
    except ValueError as error:
        raise UsageError(f"{cluster.path}: {error}, and a lab has no NVLink") from None
    routes = assemble(len(src), segments, links)
    hops = np.unique(np.stack([dst[routes.flow], routes.link], axis=1), axis=0)
    next_hops: dict[tuple[int, int], list[int]] = {}
    for nic, link in hops.tolist():
        next_hops.setdefault((nic, int(links.src[link])), []).append(link)
    for nic in range(nics):
        last = cluster.wiring.nic_down + nic
        next_hops[nic, int(links.src[last])] = [last]
    _refuse_loops(cluster, next_hops)
    return [
        Route(space[vertex], addresses[nic], tuple(device[link] for link in out))
        for (nic, vertex), out in next_hops.items()
    ]


def _refuse_loops(cluster: Cluster, next_hops: dict[tuple[int, int], list[int]]) -> None:
    """Raise UsageError if packets could loop: routes that depend on the source may, once merged by destination."""
    graphs: dict[int, dict[int, set[int]]] = {}
    for (nic, vertex), out in next_hops.items():
        graphs.setdefault(nic, {})[vertex] = {int(cluster.links.dst[link]) for link in out}
    for graph in graphs.values():
        try:
            TopologicalSorter(graph).prepare()
        except CycleError:
            raise UsageError(
                f"{cluster.path}: routes on a {cluster.kind} depend on the source of a message; "
                "a lab routes by destination alone"
            ) from None


def _left_out(cluster: Cluster) -> list[str]:
    """A sentence for each property of the cluster that the lab lacks."""
    left_out = ["latency: this machine's, not the file's (no netem)"]
    if any(node.nvlink or node.pcie for node in cluster.nodes):
        left_out.append("NVLink and PCIe: ranks behind one NIC communicate over loopback, at the machine's own speed")
    if cluster.routing.policy in ("split", "adaptive"):
        left_out.append(f"routing {cluster.routing.policy}: a flow keeps one route, chosen by the kernel's hash (ECMP)")
    if cluster.routing.policy == "ecmp":
        left_out.append("routing ecmp: the kernel's hash of the 5-tuple, not the simulator's, so other flows collide")
    return left_out
