"""A cluster in InfraGraph 3 (Keysight and OCP, infragraph.proto of release 3.1.0), in JSON or YAML.

An infrastructure has devices with components, instances of devices, and edges between components of instances;
`host[0:4]` is a slice, and an edge joins its ends one to one or many to many. A device with an `xpu` is a server, any
other one with an edge is a switch. The links of a server's `xpu` to a switch that joins nothing else are its NVLink.
YAML is read without aliases, which could expand to gigabytes. Left out: latencies, annotations, edges between servers.
"""

from __future__ import annotations

import json
import re
from itertools import product
from pathlib import Path
from typing import Any

import yaml

from dessim.cluster.fabrics.graph import switch_name
from dessim.cluster.importers import parts
from dessim.cluster.importers.found import FoundFabric, FoundNode, Host, Nic, Port, Rate, bundle_of, natural
from dessim.errors import ClusterError

Table = dict[str, Any]
MAX_ENDS = 1 << 20
"""Cables of all edges after their slices are expanded, ends of one edge, and members of an instance."""
_GB = {"gigabits_per_second": 0.125, "gigabytes_per_second": 1.0}
_END = re.compile(r"([^\[\].]+)(?:\[([^\[\]]*)\])?")
_MAX_DEPTH = 8


def read_infragraph(path: Path, text: str) -> FoundFabric:
    """Read switches, cables and servers in the text of a file; the `node` of the result is the server.

    Raises ClusterError.
    """
    return _Reader(path, _parsed(path, text)).fabric()


def _parsed(path: Path, text: str) -> Table:
    try:
        if text.lstrip().startswith("{"):
            root = json.loads(text)
        else:
            if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, Loader=yaml.SafeLoader)):
                raise ClusterError(path, "", "refused: its YAML has aliases; write it without them")
            root = yaml.safe_load(text)
    except (yaml.YAMLError, json.JSONDecodeError, ValueError, RecursionError) as error:
        raise ClusterError(path, "", f"neither JSON nor YAML: {' '.join(str(error).split())[:200]}") from None
    if isinstance(root, dict) and isinstance(root.get("infrastructure"), dict):
        root = root["infrastructure"]
    if not isinstance(root, dict) or not all(
        isinstance(root.get(key), list) for key in ("devices", "instances", "edges")
    ):
        raise ClusterError(path, "", "is no InfraGraph infrastructure, which lists devices, instances and edges")
    return root


class _Reader:
    """The tables of an infrastructure by name, the cables expanded so far, and the member that each name stands for."""

    def __init__(self, path: Path, root: Table) -> None:
        self.path = path
        self.devices = self._by_name(root, "devices")
        self.instances = self._by_name(root, "instances")
        self.rates = self._rates(root)
        self.edges = self._tables(root, "edges")
        self.cables = 0
        self.members: dict[str, tuple[str, int]] = {}

    def fabric(self) -> FoundFabric:
        servers = [name for name in self.instances if self._count(self._device(name), "xpu")]
        if not servers:
            raise ClusterError(self.path, "instances", "no instance is a server: no device has a component xpu")
        switches: dict[str, None] = {}
        ports: dict[str, list[Port]] = {}
        rates: dict[tuple[str, str], list[Rate]] = {}
        for number, edge in enumerate(self.edges):
            rate = self.rates.get(str(edge.get("link")))
            for a, b in self._pairs(edge, f"edges.{number}"):
                if a[0] in servers:
                    a, b = b, a
                if a[0] in servers:
                    raise ClusterError(
                        self.path, f"edges.{number}", "joins two servers; dessim needs a switch between them"
                    )
                switch = self._name(a[0], a[1])
                switches[switch] = None
                other = self._name(b[0], b[1])
                if b[0] in servers:
                    ports.setdefault(other, []).append(Port(b[2], switch, rate))
                    continue
                switches[other] = None
                if switch != other:
                    low, high = sorted((switch, other))
                    rates.setdefault((low, high), []).append(rate)
        if not ports:
            raise ClusterError(self.path, "edges", "no edge joins a server to a switch")
        hosts = [
            Host(name, tuple(sorted(ports[name], key=lambda port: natural(port.name))))
            for name in sorted(ports, key=natural)
        ]
        return FoundFabric(
            switches=tuple(switches),
            cables={pair: bundle_of(rates_of_pair) for pair, rates_of_pair in sorted(rates.items())},
            hosts=tuple(hosts),
            left_out=("latencies of InfraGraph links",),
            node=self._server(servers, len(hosts[0].ports), hosts[0].ports[0].rate),
        )

    def _server(self, servers: list[str], n_ports: int, rate: Rate) -> FoundNode:
        kinds = dict.fromkeys(str(self.instances[name].get("device")) for name in servers)
        if len(kinds) > 1:
            raise ClusterError(
                self.path, "instances", f"servers of several kinds: {', '.join(kinds)}; dessim imports one"
            )
        device = self._device(servers[0])
        gpus = self._count(device, "xpu")
        if gpus > MAX_ENDS or gpus % n_ports:
            raise ClusterError(self.path, "devices", f"{n_ports} cabled adapters do not divide {gpus} xpu")
        nvlink, wiring, pcie, unrated = self._inside(device, gpus)
        texts = [str(c.get("description", "")) for c in self._tables(device, "components") if c.get("choice") == "xpu"]
        part = re.search(r"\bpart ([A-Za-z0-9_.-]+)", " ".join(texts))
        return FoundNode(
            gpus=gpus,
            nics=tuple(Nic(f"nic{number}", rate) for number in range(n_ports)),
            gpu={"part": part[1]} if part else None,
            generation=parts.generation_of(part[1] if part else "", nvlink),
            nvlink_rate=nvlink,
            wiring=wiring,
            pcie=pcie,
            left_out=("NVLink of the servers: the file states no bandwidth of it",) if unrated else (),
        )

    def _inside(self, device: Table, gpus: int) -> tuple[Rate, str, Rate, bool]:
        """Rate and wiring of a GPU's NVLink, rate of its PCIe link, and whether there is NVLink without a rate."""
        rates = self._rates(device)
        components = self._by_name(device, "components")
        ends: list[tuple[str, str, Rate]] = []
        for edge in self._tables(device, "edges"):
            a, b = (str(self._table(edge, key).get("component", "")).partition("[")[0] for key in ("ep1", "ep2"))
            ends.append((a, b, rates.get(str(edge.get("link")))))
        kind = {name: str(component.get("choice")) for name, component in components.items()}
        others = {end for a, b, _ in ends for end, peer in ((a, b), (b, a)) if kind.get(peer) not in ("xpu", None)}
        nvlink: Rate = None
        wiring = "switched"
        pcie: Rate = None
        unrated = False
        for a, b, rate in ends:
            xpu, peer = (a, b) if kind.get(a) == "xpu" else (b, a)
            if kind.get(xpu) != "xpu":
                continue
            direct = kind.get(peer) == "xpu"
            if not direct and (kind.get(peer) != "switch" or peer in others):
                pcie = rate
            elif rate is None:
                unrated = True
            elif direct:
                nvlink = rate * (gpus - 1)
                wiring = "pairwise"
            else:
                nvlink = rate * self._whole(components[peer], "count", 1)
        return nvlink, wiring, pcie, unrated

    def _pairs(self, edge: Table, where: str) -> list[tuple[tuple[str, int, str], tuple[str, int, str]]]:
        """The pairs of (instance, index, component) that an edge joins."""
        ends = [self._ends(self._table(edge, key), f"{where}.{key}") for key in ("ep1", "ep2")]
        scheme = edge.get("scheme", "one2one")
        sizes = [len(end) for end in ends]
        if scheme not in ("one2one", "many2many"):
            raise ClusterError(
                self.path, f"{where}.scheme", f"{scheme!r} of {sizes[0]} and {sizes[1]} ends is not supported"
            )
        self.cables += max(sizes) if scheme == "one2one" else sizes[0] * sizes[1]
        if self.cables > MAX_ENDS:
            raise ClusterError(self.path, where, f"with it, the edges are more than {MAX_ENDS:,} cables")
        if scheme == "one2one":
            return list(zip(ends[0], ends[1], strict=False))
        # Where both ends are the same set, each pair appears twice.
        return list(dict.fromkeys((min(a, b), max(a, b)) for a, b in product(*ends) if a != b))

    def _ends(self, end: Table, where: str) -> list[tuple[str, int, str]]:
        match = _END.fullmatch(str(end.get("instance", "")))
        if match is None or match[1] not in self.instances:
            raise ClusterError(
                self.path, f"{where}.instance", f"{end.get('instance')!r} is not an instance such as host[0:4]"
            )
        indices = self._indices(match[2], self._whole(self.instances[match[1]], "count", 1), where)
        device: Table | None = self._device(match[1])
        paths = [""]
        for piece in str(end.get("component", "")).split("."):
            part = _END.fullmatch(piece)
            components = self._by_name(device, "components") if device is not None else {}
            if part is None or part[1] not in components:
                raise ClusterError(self.path, f"{where}.component", f"{piece!r} is not a component of {match[1]!r}")
            members = self._indices(part[2], self._whole(components[part[1]], "count", 1), where)
            if len(paths) * len(members) * len(indices) > MAX_ENDS:
                raise ClusterError(self.path, where, f"expands to more than {MAX_ENDS:,} ends")
            paths = [f"{path}{part[1]}{member}/" for path in paths for member in members]
            device = self.devices.get(part[1])
        return [(match[1], index, path) for index in indices for path in paths]

    def _indices(self, text: str | None, count: int, where: str) -> list[int]:
        """The members of a slice in Python's notation, such as `3`, `0:4`, `:` or nothing for all."""
        pieces = (text or "").split(":")
        if len(pieces) > 3 or not all(re.fullmatch(r"-?[0-9]{0,7}", piece) and piece != "-" for piece in pieces):
            raise ClusterError(self.path, where, f"[{text}] is not a slice such as [0:4]")
        numbers = [int(piece) if piece else None for piece in pieces]
        if len(pieces) == 1 and numbers[0] is not None:
            members = [numbers[0] + count if numbers[0] < 0 else numbers[0]]
        elif len(numbers) == 3 and numbers[2] == 0:
            raise ClusterError(self.path, where, f"[{text}] has a step of 0")
        else:
            members = list(range(count)[slice(*numbers)] if len(pieces) > 1 else range(count))
        if not members or members[0] < 0 or max(members) >= count:
            raise ClusterError(self.path, where, f"[{text}] names no member, or more than the {count} there are")
        return members

    def _name(self, instance: str, index: int) -> str:
        name = f"{instance}{index}" if self._whole(self.instances[instance], "count", 1) > 1 else instance
        name = switch_name(name)
        if self.members.setdefault(name, (instance, index)) != (instance, index):
            raise ClusterError(self.path, "instances", f"{name!r} names two members; rename an instance")
        return name

    def _device(self, instance: str) -> Table:
        name = str(self.instances[instance].get("device"))
        if name not in self.devices:
            raise ClusterError(self.path, f"instances.{instance}", f"device {name!r} is not among the devices")
        return self.devices[name]

    def _count(self, device: Table, choice: str, depth: int = 0) -> int:
        """Components of a kind in a device and in the devices inside it."""
        if depth > _MAX_DEPTH:
            raise ClusterError(self.path, "devices", f"devices are nested more than {_MAX_DEPTH} deep")
        total = 0
        for name, component in self._by_name(device, "components").items():
            inner = self.devices.get(name) if component.get("choice") == "device" else None
            each = (
                self._count(inner, choice, depth + 1) if inner is not None else int(component.get("choice") == choice)
            )
            total += each * self._whole(component, "count", 1)
        return total

    def _rates(self, table: Table) -> dict[str, Rate]:
        """Bytes/s of the links of a table that state a bandwidth."""
        rates: dict[str, Rate] = {}
        for name, link in self._by_name(table, "links").items():
            bandwidth = self._table(self._table(link, "physical"), "bandwidth")
            for unit, factor in _GB.items():
                value = bandwidth.get(unit)
                if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 1e9:
                    rates[name] = value * factor * 1e9
        return rates

    def _by_name(self, table: Table, key: str) -> dict[str, Table]:
        return {str(item.get("name")): item for item in self._tables(table, key)}

    def _tables(self, table: Table, key: str) -> list[Table]:
        items = table.get(key) or []
        if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
            raise ClusterError(self.path, key, "must be a list of tables")
        return items

    def _table(self, table: Table, key: str) -> Table:
        value = table.get(key) or {}
        if not isinstance(value, dict):
            raise ClusterError(self.path, key, "must be a table")
        return value

    def _whole(self, table: Table, key: str, default: int) -> int:
        value = table.get(key, default)
        if type(value) is not int or not 0 < value <= MAX_ENDS:
            raise ClusterError(
                self.path, f"{table.get('name')}.{key}", f"{value!r} is not a whole number from 1 to {MAX_ENDS:,}"
            )
        return value
