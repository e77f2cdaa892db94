"""The fabric in SLURM's topology.conf (topology/tree): which switch has which nodes and which switches below it.

The file states neither rates nor numbers of cables (`LinkSpeed` has no unit and SLURM ignores it). A switch of it
stands for all switches of its tier, and its cables are assumed to carry what the servers below can send, without
oversubscription.
"""

from __future__ import annotations

import re
from itertools import product
from pathlib import Path

from dessim.cluster.importers.found import FoundFabric, Host, Port, natural
from dessim.errors import ClusterError

MAX_NODES = 1 << 20
"""Nodes and switches that all lines name together."""
_MAX_LETTERS = 255


def read_slurm(path: Path, text: str) -> FoundFabric:
    """Read switches and nodes in the text of a file. Raises ClusterError."""
    nodes: dict[str, list[str]] = {}
    below: dict[str, list[str]] = {}
    total = 0
    joined = text.replace("\\\n", " ")
    for number, line in enumerate(joined.splitlines(), 1):
        words = line.partition("#")[0].split()
        pairs = dict(_pair(path, number, word) for word in words)
        if "switchname" not in pairs:
            continue
        named = _expand(path, number, pairs["switchname"])
        key = next((key for key in ("nodes", "switches") if key in pairs), None)
        if key is None:
            raise ClusterError(path, f"line {number}", f"switch {named[0]!r} has neither Nodes= nor Switches=")
        members = _expand(path, number, pairs[key])
        total += len(named) * len(members)
        if total > MAX_NODES:
            raise ClusterError(path, f"line {number}", f"the file lists more than {MAX_NODES:,} nodes and switches")
        for switch in named:
            if switch in nodes or switch in below:
                raise ClusterError(path, f"line {number}", f"switch {switch!r} is listed twice")
            (nodes if key == "nodes" else below)[switch] = members
    switches = [*nodes, *below]
    parents: dict[str, str] = {}
    for parent, children in below.items():
        for child in children:
            if child not in nodes and child not in below:
                raise ClusterError(path, parent, f"names switch {child!r}, which has no line")
            if child in parents:
                raise ClusterError(
                    path, parent, f"names switch {child!r}, which {parents[child]!r} has already; dessim reads trees"
                )
            parents[child] = parent
    weight = _servers_below(path, nodes, below, parents)
    homes: dict[str, str] = {}
    for switch, names in nodes.items():
        for name in names:
            if name in homes:
                raise ClusterError(path, switch, f"names node {name!r}, which {homes[name]!r} has already")
            homes[name] = switch
    if not homes:
        raise ClusterError(path, "", "names no nodes")
    hosts = tuple(Host(name, (Port(name, homes[name]),)) for name in sorted(homes, key=natural))
    a_and_b = {tuple(sorted((child, parent))): weight[child] for child, parent in parents.items()}
    cables = {(a, b): ((None, count),) for (a, b), count in sorted(a_and_b.items()) if count}
    assumed = ("number of cables: one for each adapter of the servers below, so no oversubscription",) if cables else ()
    return FoundFabric(tuple(switches), cables, hosts, assumed=assumed, logical=True, cables_per_adapter=True)


def _pair(path: Path, number: int, word: str) -> tuple[str, str]:
    key, equals, value = word.partition("=")
    if not equals:
        raise ClusterError(path, f"line {number}", f"{word!r} is not KEY=VALUE")
    return key.lower(), value


def _expand(path: Path, number: int, text: str) -> list[str]:
    """The names of a host list: `tux[0-3,7],s1` -> tux0 ... tux3, tux7, s1."""
    where = f"line {number}"
    names: list[str] = []
    for item in re.findall(r"(?:[^,\[\]]|\[[^\]]*\])+", text):
        pieces = re.split(r"\[([^\]]*)\]", item)
        choices: list[list[str]] = []
        room = MAX_NODES - len(names)
        for i, piece in enumerate(pieces):
            choices.append(_numbers(path, where, piece, room) if i % 2 else [piece])
            room //= len(choices[-1])
        if not room:
            raise ClusterError(path, where, f"{text[:40]!r} is more than {MAX_NODES:,} names")
        if sum(len(choice[0]) for choice in choices) > _MAX_LETTERS:
            raise ClusterError(path, where, f"{item[:40]!r} is a name of more than {_MAX_LETTERS} letters")
        names += ["".join(parts) for parts in product(*choices)]
    if not names:
        raise ClusterError(path, where, f"{text!r} names nothing")
    return names


def _numbers(path: Path, where: str, text: str, room: int) -> list[str]:
    """The numbers of `0-3,7` as they are written, for `room` names at most."""
    numbers: list[str] = []
    for item in text.split(","):
        match = re.fullmatch(r"([0-9]{1,9})(?:-([0-9]{1,9}))?", item)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if match is None or last < first:
            raise ClusterError(path, where, f"[{text[:40]}] is not a list of numbers such as [0-3,7]")
        if len(numbers) + last - first >= room:
            raise ClusterError(path, where, f"[{text[:40]}] makes more than {MAX_NODES:,} names")
        width = len(match[1])
        numbers += [f"{value:0{width}}" for value in range(first, last + 1)]
    return numbers


def _servers_below(
    path: Path, nodes: dict[str, list[str]], below: dict[str, list[str]], parents: dict[str, str]
) -> dict[str, int]:
    """Servers under each switch. `parents` has one switch at most above each. Raises ClusterError for a cycle."""
    weight = {switch: len(names) for switch, names in nodes.items()} | dict.fromkeys(below, 0)
    waiting = {switch: len(children) for switch, children in below.items()}
    done = [switch for switch in weight if not waiting.get(switch)]
    for switch in done:  # grows: a switch follows once all below it are counted
        above = parents.get(switch)
        if above is not None:
            weight[above] += weight[switch]
            waiting[above] -= 1
            if not waiting[above]:
                done.append(above)
    if len(done) < len(weight):
        # As no switch has two above it, all that are left are on cycles.
        switch = next(switch for switch in below if waiting[switch])
        child = next(child for child in below[switch] if waiting.get(child))
        raise ClusterError(path, switch, f"is below itself, through {child!r}")
    return weight
