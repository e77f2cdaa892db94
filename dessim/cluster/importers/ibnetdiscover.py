"""The fabric in the output of `ibnetdiscover` (infiniband-diags), which lists every node with its cabled ports.

A node is a record: a line `Switch 40 "S-guid" # "description" ...` or `Ca 1 "H-guid" # "description"`, then one line
for each cabled port, `[1] "H-guid"[1](portguid) # "description" lid 5 4xHDR`. The end of a line is the active width and
speed of the cable. Rates are those of the speeds without line coding (InfiniBand Architecture Specification 1.6, table
of link speeds). Left out: aggregation nodes (SHARP), which are adapters inside switches, and routers.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from dessim.cluster.fabrics.graph import switch_name
from dessim.cluster.importers.found import Bundle, FoundFabric, Host, Port, Rate, bundle_of, natural
from dessim.errors import ClusterError

GBPS_PER_LANE = {
    "SDR": 2.0,
    "DDR": 4.0,
    "QDR": 8.0,
    "FDR10": 10.0,
    "FDR": 13.636,  # 14.0625 Gb/s with 64 of 66 bits
    "EDR": 25.0,
    "HDR": 50.0,
    "NDR": 100.0,
    "XDR": 200.0,
}
_RECORD = re.compile(r'(Switch|Ca|Rt|Router)\s+[0-9]+\s+"([^"]+)"\s*(?:#\s*"([^"]*)")?')
_CABLE = re.compile(r'\[([0-9]{1,4})\](?:\[ext [0-9]+\])?(?:\([0-9a-fA-Fx]+\))?\s+"([^"]+)"\[([0-9]{1,4})\]')
_SPEED = re.compile(r"\b([0-9]{1,2})x([A-Z]+(?:10)?)\b")
_ADAPTER = re.compile(r"(\S+)\s+((?:HCA|mlx|hfi|qib|ibp|ib|hca|rdma|bnxt|cxgb|ocrdma)\S*)", re.IGNORECASE)
_AGGREGATION = "Aggregation Node"


@dataclass(slots=True)
class _Node:
    kind: str
    guid: str
    description: str
    line: int
    cables: dict[int, tuple[str, int, Rate]] = field(default_factory=dict)


def read_ibnetdiscover(path: Path, text: str, compute: re.Pattern[str] | None = None) -> FoundFabric:
    """Read the switches, cables and servers in the text of a file. Raises ClusterError.

    With `compute`, adapters whose description it does not match are left out, such as those of storage.
    """
    nodes = _nodes(path, text)
    switches = {guid: node for guid, node in nodes.items() if node.kind == "Switch"}
    if not switches:
        raise ClusterError(path, "", "has no switch, so it is not the output of ibnetdiscover")
    names = _switch_names(switches)
    inside = [node for node in nodes.values() if node.kind == "Ca" and _AGGREGATION in node.description]
    adapters = [node for node in nodes.values() if node.kind == "Ca" and _AGGREGATION not in node.description]
    kept = [node for node in adapters if compute is None or compute.search(node.description)]
    if not kept:
        what = "matches --compute" if compute is not None and adapters else "is listed"
        raise ClusterError(path, "", f"no adapter {what}; adapters: {_examples(adapters) or 'none'}")
    left_out = []
    if len(kept) < len(adapters):
        others = [node for node in adapters if compute is not None and not compute.search(node.description)]
        left_out.append(f"{len(others)} adapters that --compute does not match: {_examples(others)}")
    if inside:
        left_out.append(f"{len(inside)} SHARP aggregation nodes, which are inside switches")
    routers = sum(node.kind not in ("Switch", "Ca") for node in nodes.values())
    if routers:
        left_out.append(f"{routers} routers to other subnets")
    return FoundFabric(
        switches=tuple(names.values()),
        cables=_cables(path, switches, names),
        hosts=_hosts(path, kept, names),
        network="ib",
        left_out=tuple(left_out),
    )


def _nodes(path: Path, text: str) -> dict[str, _Node]:
    """Every record by its GUID."""
    nodes: dict[str, _Node] = {}
    node: _Node | None = None
    for number, line in enumerate(text.splitlines(), 1):
        where = f"line {number}"
        if record := _RECORD.match(line):
            kind, guid, description = record.groups()
            if guid in nodes:
                raise ClusterError(path, where, f"{guid} is listed twice, first in line {nodes[guid].line}")
            node = _Node(kind, guid, (description or guid).strip(), number)
            nodes[guid] = node
        elif line.startswith("["):
            cable = _CABLE.match(line)
            if node is None or cable is None:
                raise ClusterError(path, where, 'not a port of a node; expected [1] "S-guid"[2] # ... 4xHDR')
            speed = _SPEED.findall(line)
            rate = int(speed[-1][0]) * GBPS_PER_LANE.get(speed[-1][1], 0.0) * 1e9 / 8 if speed else 0.0
            node.cables[int(cable[1])] = (cable[2], int(cable[3]), rate or None)
    return nodes


def _switch_names(switches: dict[str, _Node]) -> dict[str, str]:
    """GUID -> name: the description where no other switch has it, as nodes of one model do; else with the GUID."""
    shared = Counter(node.description for node in switches.values())
    names = {}
    for guid, node in switches.items():
        name = node.description if shared[node.description] == 1 else guid
        names[guid] = switch_name(name)
    return names


def _cables(path: Path, switches: dict[str, _Node], names: dict[str, str]) -> dict[tuple[str, str], Bundle]:
    """Cables between switches; each appears in the records of both ends and counts once."""
    rates: dict[tuple[str, str], list[Rate]] = {}
    for guid, node in switches.items():
        for port, (peer, peer_port, rate) in node.cables.items():
            if peer not in switches:
                continue
            back = switches[peer].cables.get(peer_port)
            if back is None or back[:2] != (guid, port):
                where = f"line {node.line}"
                raise ClusterError(path, where, f"port {port} leads to {peer} port {peer_port}, which leads elsewhere")
            if guid < peer:
                a, b = sorted((names[guid], names[peer]))
                rates.setdefault((a, b), []).append(rate)
    return {pair: bundle_of(rates_of_pair) for pair, rates_of_pair in sorted(rates.items())}


def _hosts(path: Path, adapters: list[_Node], names: dict[str, str]) -> tuple[Host, ...]:
    """Servers in the natural order of their names; `host mlx5_0` is an adapter of `host`."""
    ports: dict[str, list[tuple[str, Port]]] = {}
    shared = Counter(node.description for node in adapters)
    for node in adapters:
        match = _ADAPTER.fullmatch(node.description)
        host, adapter = match.groups() if match else (node.description, "")
        if shared[node.description] > 1:  # a description that names the model of the adapter
            host = node.guid
            adapter = ""
        for number, (peer, _, rate) in sorted(node.cables.items()):
            if peer not in names:
                raise ClusterError(path, f"line {node.line}", f"{node.description!r} leads to {peer}, no switch")
            ports.setdefault(host, []).append((f"{adapter} {number:3}", Port(adapter or host, names[peer], rate)))
    hosts = []
    for name in sorted(ports, key=natural):
        ordered = sorted(ports[name], key=lambda item: natural(item[0]))
        hosts.append(Host(name, tuple(port for _, port in ordered)))
    if not hosts:
        raise ClusterError(path, "", "no adapter is cabled to a switch")
    return tuple(hosts)


def _examples(nodes: list[_Node]) -> str:
    shown = ", ".join(repr(node.description) for node in nodes[:3])
    return f"{shown}, ..." if len(nodes) > 3 else shown
