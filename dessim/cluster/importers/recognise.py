"""Recognises regular fabrics in a list of switches, cables and servers; any other one becomes a graph.

Kinds: a single switch, leaves and spines, rails with or without spines that join them, and a fat tree of three tiers.
Within a kind, all cables of a tier have one rate and number, and only the last leaf (pod) may have fewer servers
(leaves). Switches that no shortest route between two servers crosses, such as those of storage, are left out; routes
stay the same. Servers are numbered leaf by leaf, in the natural order of their names. Left out: oversubscription that
differs by leaf.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import shortest_path

from dessim.cluster.importers.found import Bundle, FoundFabric, Host, Rate, natural

Adjacency = dict[str, dict[str, Bundle]]


@dataclass(frozen=True, slots=True)
class Shape:
    """A recognised fabric: its kind, the counts that the topology file gives, and the servers in order.

    `uplink` and `core_uplink` are the rates of one cable. `cables` are those of a graph, `uplink` is the most frequent
    rate of them, and `leaves` are its switches with servers, in the order of the servers.
    `radix` has, for each switch, the ports of servers and the cables to other switches on it.
    """

    kind: str
    counts: dict[str, int]
    hosts: tuple[Host, ...]
    uplink: Rate = None
    core_uplink: Rate = None
    leaves: tuple[str, ...] = ()
    cables: dict[tuple[str, str], Bundle] = field(default_factory=dict)
    unused: tuple[str, ...] = ()
    radix: tuple[tuple[int, int], ...] = ()

    def ports(self, adapters: int) -> int:
        """Ports of the fullest switch, where one port of a server stands for `adapters`."""
        return max(servers * adapters + cables for servers, cables in self.radix)

    def with_cables(self, times: int) -> Shape:
        """The fabric with `times` as many cables between switches."""
        counts = {key: count * times if key.startswith("links_") else count for key, count in self.counts.items()}
        cables = {pair: tuple((rate, n * times) for rate, n in bundle) for pair, bundle in self.cables.items()}
        return replace(self, counts=counts, cables=cables, radix=tuple((s, c * times) for s, c in self.radix))


class Irregular(Exception):
    """The fabric is not of the kind that a recogniser looks for."""


def recognise(fabric: FoundFabric) -> Shape:
    """Return the shape of a fabric. Raises ValueError where no kind of topology file describes it."""
    adjacent, unused = _used(fabric)
    fabric = replace(fabric, hosts=_in_order(fabric.hosts))
    leaves = tuple(dict.fromkeys(port.switch for host in fabric.hosts for port in host.ports))
    for kind in (_single_switch, _rail_only, _leaf_spine, _rail_optimised, _fat_tree):
        try:
            return replace(kind(fabric, adjacent, leaves), unused=unused, radix=_radix(fabric, adjacent))
        except Irregular:
            continue
    return replace(_graph(fabric, adjacent, leaves), unused=unused, radix=_radix(fabric, adjacent))


def _radix(fabric: FoundFabric, adjacent: Adjacency) -> tuple[tuple[int, int], ...]:
    """Ports of servers and cables of each kind of switch."""
    servers = Counter(port.switch for host in fabric.hosts for port in host.ports)
    cables = {name: sum(n for bundle in to.values() for _, n in bundle) for name, to in adjacent.items()}
    return tuple(sorted({(servers[name], cables[name]) for name in adjacent}))


def _used(fabric: FoundFabric) -> tuple[Adjacency, tuple[str, ...]]:
    """The switches on shortest routes between those with servers, with their cables, and the other switches."""
    index = {name: number for number, name in enumerate(fabric.switches)}
    ends = np.array([[index[a], index[b]] for a, b in fabric.cables], dtype=np.int64).reshape(-1, 2)
    matrix = csr_array((np.ones(len(ends)), (ends[:, 0], ends[:, 1])), shape=(len(index), len(index)))
    homes = np.unique([index[port.switch] for host in fabric.hosts for port in host.ports])
    hops = shortest_path(matrix, directed=False, unweighted=True, indices=homes)
    between = hops[:, homes]
    np.fill_diagonal(between, -1.0)
    used = np.isin(np.arange(len(index)), homes)
    for switch in np.flatnonzero(~used & np.isfinite(hops).any(axis=0)).tolist():
        via = hops[:, switch]
        used[switch] = bool((via[:, None] + via[None, :] == between)[np.isfinite(between)].any())
    names = [name for name, keep in zip(fabric.switches, used.tolist(), strict=True) if keep]
    adjacent: Adjacency = {name: {} for name in names}
    for (a, b), bundle in fabric.cables.items():
        if a in adjacent and b in adjacent:
            adjacent[a][b] = bundle
            adjacent[b][a] = bundle
    return adjacent, tuple(name for name in fabric.switches if name not in adjacent)


def _in_order(hosts: Sequence[Host]) -> tuple[Host, ...]:
    """Servers leaf by leaf; leaves, and servers within one, in the natural order of server names."""
    first: dict[str, tuple[Any, ...]] = {}
    for host in hosts:
        key = natural(host.name)
        first[host.switches[0]] = min(first.get(host.switches[0], key), key)
    return tuple(sorted(hosts, key=lambda host: (first[host.switches[0]], natural(host.name))))


def _single_switch(fabric: FoundFabric, adjacent: Adjacency, leaves: Sequence[str]) -> Shape:
    _require(len(adjacent) == 1)
    return Shape("single_switch", {}, fabric.hosts)


def _leaf_spine(fabric: FoundFabric, adjacent: Adjacency, leaves: Sequence[str]) -> Shape:
    spines, (rate, cables) = _two_tiers(adjacent, leaves)
    _require(all(len(set(host.switches)) == 1 for host in fabric.hosts))
    hosts, per_leaf = _filled(_by(fabric.hosts, lambda host: host.switches[0]).values())
    counts = {"nodes_per_leaf": per_leaf, "spines": len(spines), "links_per_spine": cables}
    return Shape("leaf_spine", counts, hosts, rate)


def _rail_optimised(fabric: FoundFabric, adjacent: Adjacency, leaves: Sequence[str]) -> Shape:
    spines, (rate, cables) = _two_tiers(adjacent, leaves)
    pods = _by(fabric.hosts, lambda host: host.switches)
    _require(all(len(set(rails)) == len(rails) for rails in pods) and len(fabric.hosts[0].ports) > 1)
    _require(len({leaf for rails in pods for leaf in rails}) == sum(len(rails) for rails in pods))
    hosts, per_pod = _filled(pods.values())
    counts = {"nodes_per_pod": per_pod, "spines": len(spines), "links_per_spine": cables}
    return Shape("rail_optimised", counts, hosts, rate)


def _rail_only(fabric: FoundFabric, adjacent: Adjacency, leaves: Sequence[str]) -> Shape:
    """Each port of the servers on its own fabric, all of the same shape."""
    rails = _components(adjacent)
    n_ports = len(fabric.hosts[0].ports)
    _require(len(rails) == n_ports > 1 and all(len(host.ports) == n_ports for host in fabric.hosts))
    shapes = []
    for number in range(n_ports):
        hosts = tuple(Host(host.name, (host.ports[number],)) for host in fabric.hosts)
        of_rail = tuple(dict.fromkeys(host.switches[0] for host in hosts))
        inside = next(rail for rail in rails if of_rail[0] in rail)
        _require(set(of_rail) <= set(inside))
        part = {name: adjacent[name] for name in inside}
        kind = _single_switch if len(part) == 1 else _leaf_spine
        shapes.append(kind(replace(fabric, hosts=hosts), part, of_rail))
    first = shapes[0]
    names = [host.name for host in first.hosts]
    _require(all(s.counts == first.counts and s.uplink == first.uplink for s in shapes))
    _require(all([host.name for host in shape.hosts] == names for shape in shapes))
    by_name = {host.name: host for host in fabric.hosts}
    counts = {key.replace("spines", "spines_per_rail"): count for key, count in first.counts.items()}
    return Shape("rail_only", counts, tuple(by_name[name] for name in names), first.uplink)


def _fat_tree(fabric: FoundFabric, adjacent: Adjacency, leaves: Sequence[str]) -> Shape:
    spines = dict.fromkeys(s for leaf in leaves for s in adjacent[leaf])
    _require(not set(spines) & set(leaves) and all(len(set(host.switches)) == 1 for host in fabric.hosts))
    place = {leaf: number for number, leaf in enumerate(leaves)}
    cores = dict.fromkeys(name for name in adjacent if name not in spines and name not in place)
    below_cores = {
        name: {n: b for n, b in to.items() if n not in cores} for name, to in adjacent.items() if name not in cores
    }
    pods = sorted(_components(below_cores), key=lambda pod: min(place[s] for s in pod if s in place))
    leaves_of = [sorted((s for s in pod if s in place), key=place.__getitem__) for pod in pods]
    tiers = [_two_tiers({s: below_cores[s] for s in pod}, own) for pod, own in zip(pods, leaves_of, strict=True)]
    (first_spines, cable), *others = tiers
    _require(len(pods) > 1 and all(len(s) == len(first_spines) and c == cable for s, c in others))
    above = [{frozenset(c for c in adjacent[s] if c in cores) for s in own} for own, _ in tiers]
    planes = above[0]
    _require(all(of_pod == planes for of_pod in above) and len(planes) == len(first_spines))
    per_spine = _same(len(plane) for plane in planes)
    _require(per_spine > 0 and per_spine * len(planes) == len(cores))
    _require(not any(other in cores for core in cores for other in adjacent[core]))
    core_rate, core_cables = _one_cable(
        adjacent[s][c] for own, _ in tiers for s in own for c in adjacent[s] if c in cores
    )
    leaves_of.sort(key=len, reverse=True)  # stable; a pod with fewer leaves must be the last
    leaves_per_pod = len(leaves_of[0])
    _require(all(len(own) == leaves_per_pod for own in leaves_of[:-1]))
    by_leaf = _by(fabric.hosts, lambda host: host.switches[0])
    hosts, per_leaf = _filled([by_leaf[leaf] for own in leaves_of for leaf in own], False)
    counts = {
        "nodes_per_leaf": per_leaf,
        "leaves_per_pod": leaves_per_pod,
        "spines_per_pod": len(first_spines),
        "cores_per_spine": per_spine,
        "links_per_spine": cable[1],
        "links_per_core": core_cables,
    }
    return Shape("fat_tree", counts, hosts, cable[0], core_rate)


def _graph(fabric: FoundFabric, adjacent: Adjacency, leaves: Sequence[str]) -> Shape:
    several = [host for host in fabric.hosts if len(set(host.switches)) > 1]
    if several:
        raise ValueError(
            f"{several[0].name} has adapters on {len(set(several[0].switches))} switches, and the fabric is neither "
            "rail-optimised nor rail-only with two tiers; no kind of topology file describes that"
        )
    if len(_components(adjacent)) > 1:
        a, b, *_ = _components(adjacent)
        raise ValueError(f"no cable leads from the switches of {a[0]!r} to those of {b[0]!r}; name one with --compute")
    cables = {(a, b): bundle for (a, b), bundle in fabric.cables.items() if a in adjacent and b in adjacent}
    mixed = [pair for pair, bundle in cables.items() if len(bundle) > 1]
    if mixed:
        raise ValueError(f"the cables between {mixed[0][0]!r} and {mixed[0][1]!r} differ in rate; a link has one rate")
    rates = [bundle[0][0] for bundle in cables.values() if bundle[0][0] is not None]
    usual = max(rates, key=lambda rate: (rates.count(rate), rate)) if rates else None
    return Shape("graph", {}, fabric.hosts, usual, leaves=tuple(leaves), cables=cables)


def _two_tiers(adjacent: Adjacency, leaves: Sequence[str]) -> tuple[list[str], tuple[Rate, int]]:
    """Spines that are joined to every leaf and to no other switch, by the same cables."""
    spines = [name for name in adjacent if name not in leaves]
    _require(bool(spines) and all(set(adjacent[spine]) == set(leaves) for spine in spines))
    _require(all(set(adjacent[leaf]) == set(spines) for leaf in leaves))
    return spines, _one_cable(bundle for spine in spines for bundle in adjacent[spine].values())


def _one_cable(bundles: Iterable[Bundle]) -> tuple[Rate, int]:
    """Rate and number of the cables of each bundle."""
    bundle: Bundle = _same(bundles)
    _require(len(bundle) == 1)
    return bundle[0]


def _filled(groups: Iterable[Sequence[Host]], any_may_be_last: bool = True) -> tuple[tuple[Host, ...], int]:
    """Servers group by group, and the number in each; only one group may have fewer, which becomes the last."""
    ordered = [tuple(group) for group in groups]
    if any_may_be_last:
        ordered.sort(key=len, reverse=True)
    size = len(ordered[0])
    _require(size > 0 and all(len(group) == size for group in ordered[:-1]) and len(ordered[-1]) <= size)
    return tuple(host for group in ordered for host in group), size


def _by(hosts: Iterable[Host], key: Any) -> dict[Any, list[Host]]:
    groups: dict[Any, list[Host]] = {}
    for host in hosts:
        groups.setdefault(key(host), []).append(host)
    return groups


def _components(adjacent: Adjacency) -> list[list[str]]:
    """The switches of each connected part."""
    parts: list[list[str]] = []
    seen: set[str] = set()
    for start in adjacent:
        if start in seen:
            continue
        part = [start]
        seen.add(start)
        for name in part:
            reached = [other for other in adjacent[name] if other not in seen]
            seen.update(reached)
            part += reached
        parts.append(part)
    return parts


def _same(values: Iterable[Any]) -> Any:
    """The value that all have."""
    listed = list(values)
    _require(bool(listed) and all(value == listed[0] for value in listed))
    return listed[0]


def _require(regular: bool) -> None:
    if not regular:
        raise Irregular
