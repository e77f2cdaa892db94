"""An imported cluster takes as long as the topology file that the imported files describe."""

from __future__ import annotations

import gzip
import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from dessim.cluster import Cluster, load_cluster
from dessim.cluster.importers.compose import Wishes
from dessim.commands.collective import run_collective
from dessim.commands.topo_import import Imported, ImportRequest, run_import
from dessim.trace.schema import Collective
from tests.cluster.importers import servers
from tests.cluster.importers.ib_net import ib_net

HERE = Path(__file__).parent
FAT_TREE = HERE / "fat_tree_128.toml"
RECORDED = HERE / "fat_tree_128.ibnetdiscover.gz"
"""Output of ibnetdiscover on `ib_net` of FAT_TREE in ibsim 0.12."""
SIZES = [65_536.0, 67_108_864.0]


def imported(folder: Path, fabric: str = "", node: str = "", **more: Any) -> Imported:
    """Import texts of a fabric and a server."""
    paths: dict[str, Path] = {}
    for name, text in (("fabric", fabric), ("node", node)):
        if text:
            paths[name] = folder / f"{name}.txt"
            paths[name].write_text(text)
    return run_import(ImportRequest(folder / "mine.toml", **paths, **more))


def times(cluster: Cluster) -> list[float]:
    """Seconds of all_reduce and all_to_all over all GPUs."""
    return [
        run_collective(cluster, op, cluster.n_gpus, size).time_s
        for op in (Collective.ALL_REDUCE, Collective.ALL_TO_ALL)
        for size in SIZES
    ]


def assert_same_times(mine: Cluster, original: Cluster) -> None:
    assert (mine.n_nodes, mine.n_gpus, mine.kind) == (original.n_nodes, original.n_gpus, original.kind)
    assert times(mine) == pytest.approx(times(original), rel=1e-9)


def test_what_ibnetdiscover_found_in_ibsim(tmp_path: Path) -> None:
    done = imported(tmp_path, gzip.decompress(RECORDED.read_bytes()).decode())
    assert_same_times(done.cluster, load_cluster(FAT_TREE))
    assert len(done.cluster.path.read_text().splitlines()) < 40


def test_live_ibnetdiscover_in_ibsim(tmp_path: Path) -> None:
    preload = next(Path("/usr/lib").glob("*/umad2sim/libumad2sim.so"), None)
    if preload is None or shutil.which("ibsim") is None or shutil.which("ibnetdiscover") is None:
        pytest.skip("on Debian: apt-get install ibsim-utils infiniband-diags")
    original = load_cluster(FAT_TREE)
    (tmp_path / "net").write_text(ib_net(original, original.node.nic.rate))
    environment = {**os.environ, "IBSIM_SOCKNAME": f"dessim-{os.getpid()}"}  # its own socket, beside other tests
    with (
        (tmp_path / "ibsim.log").open("w") as log,
        subprocess.Popen(
            ["ibsim", "-s", str(tmp_path / "net")], stdin=subprocess.PIPE, stdout=log, env=environment
        ) as sim,
    ):
        try:
            deadline = time.monotonic() + 20
            output = ""
            while not output and time.monotonic() < deadline:
                time.sleep(0.2)
                done = subprocess.run(
                    ["ibnetdiscover"], env={**environment, "LD_PRELOAD": str(preload)}, capture_output=True, text=True
                )
                output = done.stdout if done.returncode == 0 else ""
        finally:
            sim.kill()
    assert output, (tmp_path / "ibsim.log").read_text()
    assert_same_times(imported(tmp_path, output).cluster, original)


SERVER = """
gpu = "{gpu}"
transport = "{transport}"
[node]
count = {count}
gpus = {gpus}
nics = {nics}
nic = "{nic}"
pcie = "{pcie}"
{more}
[fabric]
{fabric}
switch = "{switch}"
"""
A100 = {"gpu": "a100-sxm-40gb", "gpus": 8, "nics": 8, "nic": "connectx-6", "pcie": "pcie4-x16", "switch": "quantum-hdr"}
A100 |= {"transport": "nccl-ib", "more": 'nvlink = "nvlink3-12"\nnvswitch = "nvswitch-gen2"'}
H100 = {"gpu": "h100-sxm", "gpus": 8, "nics": 8, "nic": "connectx-7", "pcie": "pcie5-x16", "switch": "quantum-2"}
H100 |= {"transport": "nccl-ib", "more": 'nvlink = "nvlink4-18"\nnvswitch = "nvswitch-gen3"'}
V100 = {
    "gpu": "v100-sxm2-32gb",
    "gpus": 8,
    "nics": 4,
    "nic": "connectx-5",
    "pcie": "pcie3-x16",
    "switch": "switch-ib-2",
}
V100 |= {"transport": "nccl-ib", "more": 'nvlink = "nvlink2-6"\nnvlink_wiring = "cube_mesh"'}
PCIE = {"gpu": "a100-sxm-80gb", "gpus": 4, "nics": 2, "nic": "connectx-5", "pcie": "pcie4-x16", "switch": "spectrum"}
PCIE |= {"transport": "nccl-roce", "more": 'pcie_switches = 2\nsockets = 2\nsocket_link = "upi-3"'}
RAILS = 'kind = "rail_optimised"\nnodes_per_pod = 8\nspines = 4\nlinks_per_spine = 2\nuplink = "infiniband-hdr"'


def original_of(folder: Path, server: dict[str, Any], count: int, fabric: str = 'kind = "single_switch"') -> Cluster:
    """The cluster of a topology file with `count` servers and the keys of a fabric."""
    path = folder / "original.toml"
    path.write_text(SERVER.format(**server, count=count, fabric=fabric))
    return load_cluster(path)


@pytest.mark.parametrize("count", [1, 16])
@pytest.mark.parametrize(
    ("xml", "server"),
    [
        (servers.dgx_a100(), A100),
        (servers.dgx_1(), V100),
        (servers.without_nvlink(), PCIE),
        (servers.nvidia_smi(), H100),
    ],
    ids=["DGX A100", "DGX-1", "without NVLink", "nvidia-smi"],
)
def test_servers(tmp_path: Path, xml: str, server: dict[str, Any], count: int) -> None:
    done = imported(tmp_path, node=xml, wishes=Wishes(nodes=count))
    assert_same_times(done.cluster, original_of(tmp_path, server, count))


def test_a_fabric_with_its_server(tmp_path: Path) -> None:
    """ibnetdiscover and NCCL together give a rail-optimised cluster of servers, without any assumed server."""
    original = original_of(tmp_path, A100, 16, RAILS)
    done = imported(tmp_path, ib_net(original, original.node.nic.rate), servers.dgx_a100())
    assert_same_times(done.cluster, original)
    assert not any("node.gpus" in line or line.startswith("gpu") for line in done.assumed)
