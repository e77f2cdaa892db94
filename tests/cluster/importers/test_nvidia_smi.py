"""The matrix of `nvidia-smi topo -m`: how GPUs are joined, and which adapters serve them."""

from __future__ import annotations

import re
from pathlib import Path

from dessim.cluster.importers.found import FoundNode
from dessim.cluster.importers.nvidia_smi import read_nvidia_smi
from tests.cluster.importers import servers
from tests.cluster.importers.test_same_times import imported


def server_of(text: str, nics: str | None = None) -> FoundNode:
    return read_nvidia_smi(Path("topo-m.txt"), text, re.compile(nics) if nics else None)


def test_four_superchips_are_joined_pairwise(tmp_path: Path) -> None:
    """NV6 to each of three others is all 18 NVLinks of a GH200; four V100 of a DGX-2 show the same, so it is said."""
    done = imported(tmp_path, node=servers.nvidia_smi(gpus=4, links=6, nics=4))
    node = done.cluster.node
    assert node.nvlink is not None and node.nvlink.rate == 450e9
    assert (node.nvlink_wiring, done.cluster.gpu.name) == ("pairwise", "h100-sxm")
    assert sum("four V100 of a DGX-2" in line for line in done.assumed) == 1


def test_eight_v100_are_joined_by_a_switch() -> None:
    node = server_of(servers.nvidia_smi(links=6))
    assert (node.generation, node.nvlinks, node.wiring, node.assumed) == (70, 6, "switched", ())


def test_chosen_adapters_are_kept_where_they_are_more_than_gpus() -> None:
    """--nics matches six, four of which are near GPUs; two others are near GPUs and do not match."""
    lines = servers.nvidia_smi(gpus=4, links=12, nics=8).split("\n")
    text = "\n".join(line.replace("PIX", "SYS") if line.startswith(("NIC4\t", "NIC5\t")) else line for line in lines)
    node = server_of(text, "mlx5_[0-5]")
    assert [nic.name for nic in node.nics] == [f"mlx5_{i}" for i in range(4)]
