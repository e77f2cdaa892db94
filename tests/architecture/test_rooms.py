"""Every package states its rooms: an import contract in layers, without exceptions, and no circle between folders."""

from __future__ import annotations

import ast
import tomllib
from collections import defaultdict
from pathlib import Path

import networkx as nx
import pytest

ROOT = Path(__file__).resolve().parents[2]
CONTRACTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]


def arrows(package: str) -> set[tuple[str, str]]:
    """Which module or folder of a package imports which, deferred imports included."""
    found: dict[str, set[str]] = defaultdict(set)
    root = ROOT / package.replace(".", "/")
    for source in sorted(root.rglob("*.py")):
        room = source.relative_to(root).parts[0].removesuffix(".py")
        for node in ast.walk(ast.parse(source.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(f"{package}."):
                found[room].add((node.module or "").removeprefix(f"{package}.").split(".")[0])
    return {(room, other) for room, others in found.items() for other in others - {room}}


@pytest.mark.parametrize("package", ["dessim", "dessim.sim", "dessim.cluster", "dessim.commands", "des_ref"])
def test_rooms_import_each_other_in_one_direction_only(package: str) -> None:
    rooms = nx.DiGraph(sorted(arrows(package)))
    rooms.remove_nodes_from(["__init__", "__main__"])
    assert list(nx.simple_cycles(rooms)) == []


@pytest.mark.parametrize("container", ["dessim.sim", "dessim.cluster", "des_ref"])
def test_a_contract_states_the_layers_without_exceptions(container: str) -> None:
    (contract,) = (c for c in CONTRACTS if container in c.get("containers", ()))
    assert contract["type"] == "layers" and contract["exhaustive"] and "ignore_imports" not in contract


def test_the_simulator_has_ten_rooms() -> None:
    rooms = {path.name.removesuffix(".py") for path in (ROOT / "dessim" / "sim").iterdir() if path.name[0] != "_"}
    assert rooms == {
        *("engine", "collective", "rendezvous", "progress"),
        *("core", "fluid", "packet", "servers", "jobs", "faults"),
    }
