"""Assumptions of an import: the parts that follow from the GPU, and the sentences that say so."""

from __future__ import annotations

from pathlib import Path

import pytest

from dessim.cluster.importers import parts
from dessim.cluster.importers.compose import Wishes
from dessim.cluster.load import load_catalogue
from tests.cluster.importers import servers
from tests.cluster.importers.test_same_times import imported

HOSTS = "".join(
    f'Ca 4 "H-{host}" # "host{host} mlx5_0"\n'
    + "".join(f'[{port}](1) "S-1"[{4 * host + port}] # lid 1 lmc 0 "leaf" lid 2 4xHDR\n' for port in range(1, 5))
    for host in range(2)
)
SWITCH = 'Switch 40 "S-1" # "leaf" base port 0 lid 2 lmc 0\n'


@pytest.mark.parametrize(
    ("gpu", "nvlink", "nvswitch", "pcie", "nic"),
    [
        ("b200-sxm", 900e9, True, 64e9, 50e9),
        ("gb200", 900e9, True, 64e9, 50e9),
        ("h200-sxm", 450e9, True, 64e9, 50e9),
        ("a100-sxm-40gb", 450e9, True, 32e9, 25e9),
        ("v100-sxm2-32gb", 450e9, False, 16e9, 12.5e9),
    ],
)
def test_the_named_gpu_decides_the_parts(
    tmp_path: Path, gpu: str, nvlink: float, nvswitch: bool, pcie: float, nic: float
) -> None:
    """Eight GPUs with 18 NVLinks each: their rate is that of the generation, as are PCIe and adapters."""
    node = imported(tmp_path, node=servers.nvidia_smi(), wishes=Wishes(gpu=gpu)).cluster.node
    assert node.nvlink is not None and node.pcie is not None
    assert (node.nvlink.rate, node.nvswitch is not None) == (nvlink, nvswitch)
    assert (node.pcie.rate, node.nic.rate) == (pcie, nic)


def test_every_shipped_gpu_of_nvidia_has_a_generation() -> None:
    unknown = [name for name in load_catalogue()["gpu"] if not parts.generation_of(name, None)]
    assert unknown == ["epyc-9654", "cpu-core", "mi250x-gcd", "tpu-v4"]


def test_nvlink_that_no_file_shows_is_assumed(tmp_path: Path) -> None:
    done = imported(tmp_path, SWITCH + HOSTS)
    assert done.cluster.node.nvlink is not None
    assert any(line.startswith("node.nvlink, node.nvswitch: as sold") for line in done.assumed)


def test_no_nvlink_is_assumed_for_other_gpus(tmp_path: Path) -> None:
    done = imported(tmp_path, SWITCH + HOSTS, wishes=Wishes(gpu="mi250x-gcd"))
    assert done.cluster.node.nvlink is None
    assert not any("nvlink" in line for line in done.assumed)
