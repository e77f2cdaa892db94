"""A cluster as an InfraGraph 3 infrastructure in JSON (Keysight and OCP, infragraph.proto of release 3.1.0).

Each kind of server is a device of `xpu`, `nic` and switch components, each switch of a tier an instance of a device
with ports. An edge is one cable; parallel cables are parallel edges. A link has the rate on the wire where the cluster
knows it, else the payload rate. The description of an `xpu` names the part, so that `dessim topo import` finds it
again.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

from dessim.arrays import significant
from dessim.cluster.exporters.cables import Cable, cables, switches
from dessim.cluster.graph import Cluster
from dessim.cluster.node import NodeLinks
from dessim.cluster.parts import Link
from dessim.files import dump_json

Table = dict[str, Any]
Tiers = dict[int, tuple[str, int]]
"""Vertex of each switch -> its instance and index."""


def infragraph_json(cluster: Cluster) -> tuple[str, list[str]]:
    """Return the infrastructure and sentences on what is lost. Raises UsageError where a cable has two rates."""
    between_switches = cables(cluster)
    hosts = [_host(cluster, kind, number) for number, kind in enumerate(cluster.wiring.kinds)]
    tiers = _tiers(cluster)
    ports = Counter[int]()
    links: dict[str, Table] = {}
    edges = _nic_edges(cluster, tiers, ports, links)
    for cable in between_switches:
        edges += _cable_edges(cable, tiers, ports, links)
    width = max(ports.values(), default=1)
    switch = {
        "name": "switch",
        "components": [_component("asic", 1, "switch"), _component("port", width, "port")],
        "links": [{"name": "internal"}],
        "edges": [_edge("asic", "port", "internal", "many2many")],
    }
    counts = Counter(instance for instance, _ in tiers.values())
    infrastructure = {
        "name": cluster.name,
        "description": cluster.description,
        "devices": [*hosts, switch],
        "links": list(links.values()),
        "instances": [
            *(
                {"name": f"host{number}", "device": f"server{number}", "count": kind.block.count}
                for number, kind in enumerate(cluster.wiring.kinds)
            ),
            *({"name": name, "device": "switch", "count": count} for name, count in counts.items()),
        ],
        "edges": edges,
    }
    lost = [
        "costs of the transport; rates, memory and kernels of GPUs: an xpu keeps the name of its part",
        "efficiency of links; latency of switches, which is part of that of their links",
        f"routing ({cluster.routing.policy})",
    ]
    if any(node.nvlink_wiring == "cube_mesh" for node in cluster.nodes):
        lost.append("the cube mesh: its GPUs are joined pairwise")
    if any(node.pcie_switches for node in cluster.nodes):
        lost.append("PCIe switches and sockets: each GPU is joined to its NIC")
    if cluster.built is not None:
        lost.append("overrides of NVLink and PCIe, if any: all servers of a kind are equal")
    return dump_json(infrastructure) + "\n", lost


def _host(cluster: Cluster, kind: NodeLinks, number: int) -> Table:
    """A kind of server as a device."""
    node = kind.node
    components = [_component("xpu", node.gpus, "xpu", f"part {(node.gpu or cluster.gpu).name}")]
    components.append(_component("nic", node.nics, "nic", f"part {node.nic.name}"))
    links: list[Table] = []
    edges: list[Table] = []
    if node.nvlink is not None:
        peers = 1 if node.nvlink_wiring == "switched" else node.gpus - 1
        links.append(_link("nvlink", replace(node.nvlink, rate=node.nvlink.rate / peers)))
        if node.nvlink_wiring == "switched":
            components.append(_component("nvswitch", 1, "switch"))
            edges.append(_edge("xpu", "nvswitch", "nvlink", "many2many"))
        else:
            edges.append(_edge("xpu", "xpu", "nvlink", "many2many"))
    links.append(_link("pcie", node.pcie) if node.pcie is not None else {"name": "pcie"})
    share = node.gpus // node.nics
    for nic in range(node.nics):
        xpus = f"xpu[{nic * share}:{(nic + 1) * share}]"
        edges.append(_edge(xpus, f"nic[{nic}]", "pcie", "many2many"))
    return {"name": f"server{number}", "components": components, "links": links, "edges": edges}


def _tiers(cluster: Cluster) -> Tiers:
    """Vertex of each switch -> its instance and index. Switches with names of their own are instances of one each."""
    tiers = {}
    counts = Counter[str]()
    for vertex in switches(cluster):
        layer = cluster.links.layer_of(vertex)
        instance = _plain(layer.name(vertex - layer.first)) if layer.names else layer.kind
        tiers[vertex] = (instance, counts[instance])
        counts[instance] += 1
    return tiers


def _plain(name: str) -> str:
    """A name without the characters that InfraGraph reads as indices and paths."""
    return "".join(letter if letter.isalnum() or letter in "-_" else "_" for letter in name)


def _nic_edges(cluster: Cluster, tiers: Tiers, ports: Counter[int], links: dict[str, Table]) -> list[Table]:
    home = cluster.switch_of_nic().tolist()
    edges = []
    for number, kind in enumerate(cluster.wiring.kinds):
        for nic in range(kind.block.count * kind.node.nics):
            up = cluster.wiring.nic_up + kind.block.first_nic + nic
            rate = float(cluster.links.capacity[up]) / kind.node.nic.efficiency
            name = _link_name("nic", replace(kind.node.nic, rate=rate), links)
            host, place = divmod(nic, kind.node.nics)
            switch = home[kind.block.first_nic + nic]
            ends = (f"host{number}[{host}]", f"nic[{place}]"), _port(switch, tiers, ports)
            edges.append(_between(*ends, name))
    return edges


def _cable_edges(cable: Cable, tiers: Tiers, ports: Counter[int], links: dict[str, Table]) -> list[Table]:
    name = _link_name("cable", Link("", cable.rate, 1.0, cable.latency, ""), links)
    pairs = range(cable.count)
    return [_between(_port(cable.a, tiers, ports), _port(cable.b, tiers, ports), name) for _ in pairs]


def _link_name(prefix: str, part: Link, links: dict[str, Table]) -> str:
    """The name of the link with the rate and latency of a part; added to `links` where there is none yet."""
    new = _link(f"{prefix}{len(links)}", part)
    name = next((name for name, link in links.items() if link["physical"] == new["physical"]), str(new["name"]))
    links.setdefault(name, new)
    return name


def _port(switch: int, tiers: Tiers, ports: Counter[int]) -> tuple[str, str]:
    """The next unused port of a switch."""
    instance, index = tiers[switch]
    ports[switch] += 1
    return f"{instance}[{index}]", f"port[{ports[switch] - 1}]"


def _between(a: tuple[str, str], b: tuple[str, str], link: str) -> Table:
    ends = [{"instance": instance, "component": component} for instance, component in (a, b)]
    return {"ep1": ends[0], "ep2": ends[1], "scheme": "one2one", "link": link}


def _edge(a: str, b: str, link: str, scheme: str) -> Table:
    return {"ep1": {"component": a}, "ep2": {"component": b}, "scheme": scheme, "link": link}


def _component(name: str, count: int, choice: str, description: str = "") -> Table:
    described = {"description": description} if description else {}
    return {"name": name, **described, "count": count, "choice": choice, choice: {}}


def _link(name: str, part: Link) -> Table:
    bandwidth = {"choice": "gigabits_per_second", "gigabits_per_second": significant(part.rate * 8 / 1e9)}
    latency = {"choice": "ns", "ns": significant(part.latency * 1e9)}
    return {"name": name, "physical": {"bandwidth": bandwidth, "latency": latency}}
