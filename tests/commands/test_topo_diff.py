"""`topo diff` finds what differs between two clusters, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from dessim.cli.app import app
from dessim.cluster.exporters.graphml import graphml_text
from dessim.cluster.load import load_topology
from dessim.cluster.spec.direct_fabrics import GraphTable
from dessim.commands.topo_diff import Difference, run_diff, shown
from tests.cluster.changed_copy import changed


def diff(folder: Path, old: str, new: str) -> list[Difference]:
    """The differences that a change in the file of 128 servers on rails makes."""
    return run_diff("h100-8x_rail_128", str(changed(folder, "h100-8x_rail_128", (old, new)).path))


def test_a_cluster_equals_itself_under_another_name(tmp_path: Path) -> None:
    assert diff(tmp_path, "description = ", 'name = "mine"\ndescription = "" #') == []


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("count = 128", "count = 64", ("node.count", "128", "64")),
        ('nic = "connectx-7"', 'nic = "connectx-6"', ("node.nic.rate", "50 GB/s", "25 GB/s")),
        ('nic = "connectx-7"', 'nic = "connectx-6"', ("node.nic", "connectx-7", "connectx-6")),
        ('gpu = "h100-sxm"', 'gpu = "h200-sxm"', ("gpu.memory_bandwidth", "3.35 TB/s", "4.8 TB/s")),
        ("spines = 16", "spines = 8", ("oversubscription", "1", "2")),
        ('routing = "split"', 'routing = "ecmp"', ("fabric.routing", "split", "ecmp")),
        ('pcie = "pcie5-x16"', "", ("node.pcie", "pcie5-x16", "-")),
    ],
)
def test_differences(tmp_path: Path, old: str, new: str, expected: tuple[str, str, str]) -> None:
    found = diff(tmp_path, old, new)
    assert expected in [(line.key, line.a, line.b) for line in found]
    top = expected[0].split(".")[0]
    figures = ("gpus", "nodes", "switches", "oversubscription", "bisection_GBps")
    assert {line.key.split(".")[0] for line in found} <= {top, "fabric", *figures}


def test_graphs_are_compared_by_their_links(tmp_path: Path) -> None:
    """Listed links, or the same ones in a GraphML file; a missing cable is one difference, and some figures follow."""
    file, path = load_topology("a100-8x_tworooms_12")
    assert isinstance(file.fabric, GraphTable)
    plan = file.fabric.plan(path.parent)
    text = graphml_text(plan)
    head, _, _ = path.read_text().partition("nodes = {")
    mine = tmp_path / "mine.toml"
    mine.write_text(f'{head}graphml = "net.graphml"\n')
    (tmp_path / "net.graphml").write_text(text)
    # GraphML has no latencies, so the two slow cables between the rooms are 2 us in one file and 0.1 us in the other.
    rooms = {f"fabric.links.east-spine{i} <-> west-spine{i}" for i in range(2)}
    assert {line.key for line in run_diff("a100-8x_tworooms_12", str(mine))} == rooms
    (tmp_path / "net.graphml").write_text(text.replace('<data key="cables">8</data>', '<data key="cables">7</data>', 1))
    found = run_diff("a100-8x_tworooms_12", str(mine))
    line = next(line for line in found if line.key not in rooms)
    cable = "x 25 GB/s, 100 ns, efficiency 0.96"
    assert (line.key, line.a, line.b) == ("fabric.links.east-spine0 <-> east0", f"8 {cable}", f"7 {cable}")
    assert {line.key for line in found} - rooms <= {line.key, "oversubscription", "bisection_GBps"}


def test_people_read_units_and_no_more_digits_than_they_need() -> None:
    lines = [
        *(Difference("bisection_GBps", "24576", "0.02391"), Difference("fabric.rail_aware", "True", "-")),
        *(Difference("gpus", "1024", "13824"), Difference("oversubscription", "1", "1.11111111")),
        *(Difference("node.nic", "connectx-7", "-"), Difference("oversubscription", "0.380952381", "0.380952390")),
    ]
    assert list(map(shown, lines)) == [
        ("bisection", "24.58 TB/s", "23.91 MB/s"),
        ("fabric.rail_aware", "yes", "-"),
        ("gpus", "1,024", "13,824"),
        ("oversubscription", "1", "1.111"),
        ("node.nic", "connectx-7", "-"),
        ("oversubscription", "0.380952381", "0.380952390"),
    ]


def test_exit_codes() -> None:
    run = CliRunner().invoke
    assert run(app, ["topo", "diff", "lab/switch_4", "lab/switch_4"]).exit_code == 0
    other = run(app, ["topo", "diff", "lab/switch_4", "lab/switch_8"])
    assert other.exit_code == 1 and "node.count" in other.stdout
    assert run(app, ["topo", "diff", "lab/switch_4", "lab/switch_8", "--json"]).exit_code == 1


def test_curves_are_readable(tmp_path: Path) -> None:
    curve = '{op = "all_reduce", gpus = 16, servers = 2, points = [["8 B", 1.02], ["1 MiB", 1.11]]}'
    new = f'transport = {{part = "nccl-ib", nccl = {{curves = [{curve}]}}}}'
    found = {line.key: (line.a, line.b) for line in diff(tmp_path, 'transport = "nccl-ib"', new)}
    assert found["transport.nccl.curves.0.points"] == ("-", "8 B: 1.02, 1 MiB: 1.11")


def test_lists_are_written_as_people_write_them(tmp_path: Path) -> None:
    """Spreads by size, and the sides of a torus."""
    found = diff(tmp_path, 'transport = "nccl-ib"', 'transport = "ideal"')
    (spread,) = [line for line in found if line.key == "transport.spread.inside.all_reduce"]
    assert (spread.a, spread.b) == ("up to 64 KiB: 0.255, to 8 MiB: 0.159, above 8 MiB: 0.061", "-")
    torus = run_diff("tpu-v4_torus_512", str(changed(tmp_path, "tpu-v4_torus_512", ("[8, 8, 8]", "[4, 8, 16]")).path))
    assert Difference("fabric.size", "8, 8, 8", "4, 8, 16") in torus
    assert not [line for line in [*found, *torus] if "(" in line.a + line.b]
