"""The plan of a lab: ports, routes and ranks, without building it."""

from __future__ import annotations

from pathlib import Path

import pytest

from dessim.cluster import load_cluster
from dessim.errors import LabError, UsageError
from dessim.lab import lay_out, state
from dessim.lab.launch import environment

INSIDE = ("pcie_up", "pcie_down", "nvlink_up", "nvlink_down")
LAB = sorted((Path(__file__).resolve().parents[2] / "topologies" / "lab").glob("*.toml"))


@pytest.mark.parametrize("file", LAB, ids=lambda file: file.stem)
def test_links_and_ports_correspond(file: Path) -> None:
    cluster = load_cluster(file)
    layout = lay_out(cluster, scale=1.0)
    emulated = [
        link for link in range(len(cluster.links)) if cluster.links.kinds[cluster.links.kind[link]] not in INSIDE
    ]
    assert sorted(port.link for port in layout.ports) == emulated
    for number, port in enumerate(layout.ports):
        assert layout.ports[port.peer].peer == number
        payload_share = 1448 / 1514  # of an Ethernet frame, with TCP time stamps
        assert port.rate * payload_share == pytest.approx(cluster.links.capacity[port.link])
    assert len({(port.space, port.device) for port in layout.ports}) == len(layout.ports)


def follow(layout, start: str, address: str, choose) -> list[str]:  # type: ignore[no-untyped-def]
    """The namespaces on the route from a host to an address; `choose` selects among next hops."""
    ports = {(port.space, port.device): port for port in layout.ports}
    space = layout.ports[ports[start, "e0"].peer].space
    visited = [start, space]
    while layout.hosts.get(space) != address:
        (devices,) = [route.devices for route in layout.routes if (route.space, route.address) == (space, address)]
        space = layout.ports[ports[space, choose(devices)].peer].space
        visited.append(space)
        assert len(visited) < 10, f"a loop: {visited}"
    return visited


@pytest.mark.parametrize("file", LAB, ids=lambda file: file.stem)
def test_every_route_ends_at_its_destination(file: Path) -> None:
    layout = lay_out(load_cluster(file), scale=1.0)
    for src in layout.hosts:
        for dst, address in layout.hosts.items():
            if src != dst:
                for choose in (min, max):
                    assert follow(layout, src, address, choose)[-1] == dst


def test_ecmp_has_the_next_hops_that_the_simulator_uses() -> None:
    layout = lay_out(load_cluster("lab/two_spines"), scale=1.0)
    n_next_hops = {len(route.devices) for route in layout.routes if "leaf" in route.space}
    assert n_next_hops == {1, 2}  # one down to each of the leaf's hosts; two spines up to all others


def test_ranks_have_the_environment_of_torchrun() -> None:
    layout = lay_out(load_cluster("lab/shared_nic_4"), scale=1.0)
    assert [(rank.node, rank.local) for rank in layout.ranks] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    third = environment(layout, 2, 3)
    assert (third["RANK"], third["WORLD_SIZE"], third["LOCAL_RANK"], third["LOCAL_WORLD_SIZE"]) == ("2", "3", "0", "1")
    assert third["MASTER_ADDR"] == layout.ranks[0].address


@pytest.mark.parametrize(
    ("cluster", "settings", "problem"),
    [
        ("lab/switch_4", {"scale": 0.0}, "--scale 0"),
        ("lab/switch_4", {"queue": "red"}, "choose from lossless, shallow"),
        ("lab/switch_4", {"name": "a-b"}, "letters, digits and underscores"),
        ("h100-8x_rail_128", {}, "give each server one NIC"),
        ("bench/two_level_1024", {}, "a lab has at most 200"),
    ],
)
def test_impossible_labs_are_refused(cluster: str, settings: dict[str, object], problem: str) -> None:
    with pytest.raises(UsageError, match=problem):
        lay_out(load_cluster(cluster), **settings)  # type: ignore[arg-type]


def test_the_state_of_a_killed_build_says_how_to_remove_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    state.claim("killed")
    with pytest.raises(LabError, match=r"lab killed is incomplete: .*; remove it: dessim lab down --name killed"):
        state.load("killed")
    (tmp_path / "dessim-lab" / "killed" / "lab.json").write_text("[" * 100_000)
    with pytest.raises(LabError, match="remove it: dessim lab down --name killed"):
        state.load("killed")
