"""The tables of a topology file from a recognised fabric and a server, with a list of what no file says.

Every assumption has the key that it sets. Left out: servers of several kinds, and adapters of one server that differ in
rate, which count as the slowest.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

from dessim.cluster.importers import parts
from dessim.cluster.importers.found import FoundNode, Host, Nic, Rate
from dessim.cluster.importers.parts import Choice
from dessim.cluster.importers.recognise import Shape

_NO_RATE = "the part: no file says the rate"


@dataclass(frozen=True, slots=True)
class Wishes:
    """Statements of the user beyond the files: a GPU, a transport, and a number of servers without a fabric."""

    gpu: str | None = None
    transport: str | None = None
    nodes: int | None = None


@dataclass(frozen=True, slots=True)
class Composed:
    """The tables of a topology file in the order of writing, and sentences on what is assumed."""

    tables: dict[str, Any]
    assumed: tuple[str, ...]


def compose(
    node: FoundNode | None,
    shape: Shape | None,
    network: str,
    wishes: Wishes,
    catalogue: Mapping[str, Mapping[str, Any]],
    *,
    logical: bool,
) -> Composed:
    """Return the tables; `catalogue` has the shipped parts by category and name.

    Raises ValueError where server and fabric do not fit, or no part fits the GPU.
    """
    assumed: list[str] = []
    hosts = shape.hosts if shape else ()
    if node is None:
        assert shape is not None
        node = _server_of(hosts, network, wishes)
        assumed.append(f"node.gpus = {node.gpus}: one GPU for each adapter; give the server with --node")
        if node.nvlinks:
            why = "as sold with this generation of GPUs; give the server with --node"
            assumed.append(f"node.nvlink, node.nvswitch: {why}")
    assumed += node.assumed
    if wishes.gpu and (named := parts.generation_of(wishes.gpu, None)):
        node = replace(node, generation=named)
    if shape and not logical:
        _refuse_other_counts(hosts, len(node.nics))
    network = network or _network_of(node) or parts.network_of(wishes.transport)
    gpu = _gpu(node, wishes)
    rates = [_rate_of(host, node) for host in hosts] or [_slowest(node.nics)]
    known = [rate for rate in rates if rate is not None]
    nic_rate = max(known) if known else parts.usual_rate(node.generation)
    nic = parts.nic(nic_rate, network)
    server: dict[str, Any] = {
        "count": len(hosts) or wishes.nodes or 1,
        "gpus": node.gpus,
        "nics": len(node.nics),
        "nic": nic if known else nic.because(_NO_RATE),
        **_inside(node),
    }
    if not hosts and wishes.nodes is None:
        assumed.append("node.count = 1: give the fabric with --fabric, or a number with --count")
    elif not hosts:
        assumed.append("fabric.kind = single_switch: give the fabric with --fabric")
    tables: dict[str, Any] = {
        "gpu": gpu,
        "transport": Choice(wishes.transport) if wishes.transport else parts.transport(network),
        "node": server,
        "fabric": _fabric(shape, network, nic_rate, server["count"]),
        "override": _slower_nics(rates, nic_rate, network),
    }
    ports = shape.ports(len(node.nics) if logical else 1) if shape else server["count"] * len(node.nics)
    switch = tables["fabric"].get("switch")
    if switch is not None and catalogue["switch"][switch.part]["ports"] < ports:
        tables["fabric"]["switch"] = replace(switch, changes={"ports": ports})
    return Composed(tables, tuple(assumed + _assumptions(tables)))


def _server_of(hosts: tuple[Host, ...], network: str, wishes: Wishes) -> FoundNode:
    """A server with as many GPUs as adapters, of the generation that was sold with adapters of this rate."""
    ports = hosts[0].ports
    rate = min((port.rate for port in ports if port.rate is not None), default=None)
    by_rate = 90 if rate is not None and rate >= 400 * parts.GBIT else 80
    named = parts.generation_of(wishes.gpu or "", None)
    generation = named or by_rate
    links = parts.usual_nvlinks(generation) if len(ports) > 1 and (named or not wishes.gpu) else 0
    nics = tuple(Nic(port.name, port.rate, network) for port in ports)
    return FoundNode(len(ports), nics, generation=generation, nvlinks=links)


def _refuse_other_counts(hosts: tuple[Host, ...], nics: int) -> None:
    other = next((host for host in hosts if len(host.ports) != nics), None)
    if other is not None:
        raise ValueError(
            f"{other.name} has {len(other.ports)} cabled adapters, but a server has {nics}; "
            "choose those of the fabric with --compute, and those of the server with --nics"
        )


def _network_of(node: FoundNode) -> str:
    return next((nic.network for nic in node.nics if nic.network), "")


def _gpu(node: FoundNode, wishes: Wishes) -> Choice:
    if wishes.gpu:
        return Choice(wishes.gpu)
    if node.gpu is not None:
        changes: parts.Values = {key: value for key, value in node.gpu.items() if key != "part"}
        return Choice(node.gpu["part"], changes)
    if node.generation not in parts.GENERATIONS:
        what = f"GPUs of compute capability {node.generation / 10}" if node.generation else "the GPUs"
        raise ValueError(f"no part of the catalogue is known for {what}; name one with --gpu")
    return Choice(parts.GENERATIONS[node.generation], assumed="the part: no file names the GPU")


def _rate_of(host: Host, node: FoundNode) -> Rate:
    """The slowest adapter of a server: by its cable where the fabric states rates, otherwise by the server's file."""
    known = [port.rate for port in host.ports if port.rate is not None]
    return min(known) if known else _slowest(node.nics)


def _slowest(nics: tuple[Nic, ...]) -> Rate:
    return min((nic.rate for nic in nics if nic.rate is not None), default=None)


def _inside(node: FoundNode) -> dict[str, Any]:
    """The keys of NVLink and PCIe."""
    table: dict[str, Any] = {}
    if node.nvlinks or node.nvlink_rate:
        by_count = parts.nvlink(node.generation, node.nvlinks)
        table["nvlink"] = parts.nvlink_of_rate(node.nvlink_rate) if node.nvlink_rate else by_count
        plane = parts.nvswitch(node.generation)
        if node.wiring != "switched":
            table["nvlink_wiring"] = node.wiring
        elif plane is not None:
            table["nvswitch"] = plane
    table["pcie"] = parts.pcie(node.pcie, node.generation)
    if node.pcie_switches and "nvlink" not in table:
        table["pcie_switches"] = node.pcie_switches
        if node.sockets > 1:
            table |= {"sockets": node.sockets, "socket_link": Choice("upi-3", assumed="the part: no file says it")}
    return table


def _fabric(shape: Shape | None, network: str, nic_rate: float, nodes: int) -> dict[str, Any]:
    """The table of the fabric, without the switches and links of a graph."""
    if shape is None:
        one_switch: dict[str, Any] = {"kind": "single_switch"}
        return one_switch | {"switch": parts.switch(nic_rate, network)} if nodes > 1 else one_switch
    table: dict[str, Any] = {"kind": shape.kind}
    table |= {key: count for key, count in shape.counts.items() if count != 1 or "links" not in key}
    rate = shape.uplink if shape.uplink is not None else nic_rate
    key = "cable" if shape.kind == "graph" else "uplink"
    if key == "cable" or "links_per_spine" in shape.counts:
        cable = parts.cable(rate, network)
        table[key] = cable.because(_NO_RATE) if shape.uplink is None else cable
        if shape.core_uplink is not None and shape.core_uplink != shape.uplink:
            table["core_uplink"] = parts.cable(shape.core_uplink, network)
    table["switch"] = parts.switch(rate, network)
    return table


def _slower_nics(rates: list[Rate], usual: float, network: str) -> list[dict[str, Any]]:
    """An override for each run of servers whose adapters are slower than those of the fastest."""
    overrides = []
    first = 0
    for rate, run in groupby(rates):
        last = first + len(list(run)) - 1
        if rate is not None and rate < usual:
            slow = replace(parts.nic(usual, network), changes={"rate": parts.gbits(rate)})
            overrides.append({"nodes": [first, last], "nic": slow})
        first = last + 1
    return overrides


def _assumptions(tables: dict[str, Any]) -> list[str]:
    """A sentence for each part that is an assumption."""
    choices = [
        (key if table == "top" else f"{table}.{key}", value)
        for table, keys in (("top", tables), ("node", tables["node"]), ("fabric", tables["fabric"]))
        for key, value in keys.items()
        if isinstance(value, Choice) and value.assumed
    ]
    sentences = [f"{key} = {value.part}: {value.assumed}" for key, value in choices]
    return [*sentences, "latency and efficiency of every link: those of its part"]
