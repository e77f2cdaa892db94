"""Writes the InfiniBand network of a cluster as `ibnetdiscover` lists it, which is also ibsim's format of nets.

`python -m tests.cluster.importers.ib_net TOPOLOGY` prints it. Every host is `hostN` with adapters `mlx5_0`, `mlx5_1`,
...
"""

from __future__ import annotations

import sys

import numpy as np

from dessim.cluster import Cluster, load_cluster
from dessim.units import parse_bandwidth

SPEEDS = {100: "EDR", 200: "HDR", 400: "NDR"}
SWITCH_GUID, HOST_GUID = 0x200000, 0x100000


def speed_of(rate: float) -> str:
    """The name of four lanes at a rate in bytes/s."""
    return f"4x{SPEEDS[round(rate / parse_bandwidth('1 Gb/s'))]}"


def ib_net(cluster: Cluster, uplink: float) -> str:
    """The net. `uplink` is the rate of one cable between switches, in bytes/s on the wire."""
    links = cluster.links
    ports: dict[int, list[tuple[str, int, str]]] = {}
    names: dict[int, tuple[str, str]] = {}

    def join(a: int, b: int, speed: str) -> None:
        to_a, to_b = ports.setdefault(a, []), ports.setdefault(b, [])
        to_a.append((speed, b, len(to_b) + 1))
        to_b.append((speed, a, len(to_a)))

    first_server_link = cluster.wiring.first_server_link
    nic_of_node = cluster.wiring.first_nic()
    for nic, link in enumerate(links.of_kind("nic_up").tolist()):
        host = int(np.searchsorted(nic_of_node, nic, side="right")) - 1
        source = links.n_vertices + nic  # a vertex for the adapter, also where the cluster has none
        names[source] = (f"H-{HOST_GUID + 2 * nic:016x}", f"host{host} mlx5_{nic - nic_of_node[host]}")
        join(source, int(links.dst[link]), speed_of(cluster.node.nic.rate))
    one = uplink * cluster.node.nic.efficiency
    for link in range(first_server_link):
        a, b = int(links.src[link]), int(links.dst[link])
        if a < b:
            for _ in range(round(links.capacity[link] / one)):
                join(a, b, speed_of(uplink))
    switches = sorted(vertex for vertex in ports if vertex not in names)
    for number, vertex in enumerate(switches):
        names[vertex] = (f"S-{SWITCH_GUID + 16 * number:016x}", links.vertex_name(vertex))
    lids = {vertex: lid for lid, vertex in enumerate(names, 1)}
    return "\n".join(
        _record(vertex, names, ports[vertex], lids) for vertex in [*switches, *sorted(set(names) - set(switches))]
    )


def _record(
    vertex: int, names: dict[int, tuple[str, str]], ports: list[tuple[str, int, int]], lids: dict[int, int]
) -> str:
    guid, description = names[vertex]
    number = int(guid[2:], 16)
    switch = guid.startswith("S")
    lines = [f"vendid=0x2c9\ndevid=0x1\nsysimgguid={number:#x}"]
    if switch:
        lines.append(f"switchguid={number:#x}({number:x})")
        lines.append(f'Switch\t{len(ports)} "{guid}"\t\t# "{description}" base port 0 lid {lids[vertex]} lmc 0')
    else:
        lines.append(f"caguid={number:#x}")
        lines.append(f'Ca\t{len(ports)} "{guid}"\t\t# "{description}"')
    for port, (speed, peer, peer_port) in enumerate(ports, 1):
        peer_guid, peer_description = names[peer]
        end = f'"{peer_description}" lid {lids[peer]} {speed}'
        own = "" if switch else f"({number + 1:x}) "
        theirs = f"({int(peer_guid[2:], 16) + 1:x}) " if peer_guid.startswith("H") else ""
        lid = "" if switch else f"lid {lids[vertex]} lmc 0 "
        lines.append(f'[{port}]{own}\t"{peer_guid}"[{peer_port}]{theirs}\t\t# {lid}{end}')
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    cluster = load_cluster(sys.argv[1])
    sys.stdout.write(ib_net(cluster, cluster.node.nic.rate))
