"""`[gpu]` of a topology file: one rate or one for each precision, and the properties of kernels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from dessim.cluster import load_cluster
from dessim.cluster.load import load_device
from dessim.cluster.spec.gpu import GpuTable
from dessim.cluster.spec.topology_file import problems
from dessim.compute import Access, Precision
from dessim.errors import ClusterError, UsageError

PLAIN: dict[str, Any] = {
    "flops": "10 TFLOP/s",
    "memory_bandwidth": "1 TB/s",
    "memory": "16 GB",
    "launch_overhead": "5 us",
    "efficiency_flops": 0.5,
    "efficiency_memory": 0.8,
    "source": "a datasheet",
}
CURVE = [["64 B", 0.4], ["256 B", 0.8]]
KERNELS: dict[str, Any] = {"processors": 80, "floor": "2 us", "gather": CURVE, "pool": CURVE, "scatter": CURVE}
RATES = {"fp32": "10 TFLOP/s", "bf16": "100 TFLOP/s"}


def error(**changes: object) -> str:
    with pytest.raises(ValidationError) as raised:
        GpuTable.model_validate(PLAIN | changes)
    return problems(raised.value)


def test_a_single_rate_holds_for_every_precision() -> None:
    gpu = GpuTable.model_validate(PLAIN).build()
    assert [gpu.rate(precision) for precision in Precision] == [5e12] * 5
    assert gpu.kernels is None and hash(gpu)


def test_rates_and_shares_are_by_precision() -> None:
    gpu = GpuTable.model_validate(PLAIN | {"flops": RATES, "efficiency_flops": {"fp32": 0.5, "bf16": 0.9}}).build()
    assert (gpu.flops, gpu.peak(Precision.BF16), gpu.rate(Precision.BF16)) == (10e12, 100e12, 90e12)
    one_share = GpuTable.model_validate(PLAIN | {"flops": RATES}).build()
    assert one_share.rate(Precision.BF16) == 50e12
    with pytest.raises(UsageError, match=r'inline states no rate for fp8; choose from fp32, bf16, .* \{fp8 = "100'):
        gpu.rate(Precision.FP8)
    faster = gpu.faster(2.0)
    assert (faster.rate(Precision.FP32), faster.rate(Precision.BF16)) == (10e12, 180e12)


def test_kernels_are_read_with_their_curves() -> None:
    kernels = GpuTable.model_validate(PLAIN | {"kernels": KERNELS}).build().kernels
    assert kernels is not None and (kernels.tile, kernels.graph_launch) == (128, None)
    assert kernels.share(Access.SCATTER, 64) == 0.4


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"flops": {"bf16": "100 TFLOP/s"}}, "flops needs fp32, such as"),
        ({"flops": {"fp32": "10 TFLOP/s", "fp4": "1 TFLOP/s"}}, "flops.fp4"),
        ({"flops": {"fp32": 10}}, "flops.fp32: compute rate needs a unit"),
        ({"flops": RATES, "efficiency_flops": {"bf16": 0.9}}, "efficiency_flops needs fp32"),
        ({"flops": RATES, "efficiency_flops": {"fp32": 0.5, "fp8": 0.9}}, "efficiency_flops.fp8: flops states no rate"),
        ({"efficiency_flops": 1.5}, "efficiency_flops"),
        ({"kernels": KERNELS | {"processors": 0}}, "kernels.processors"),
        ({"kernels": KERNELS | {"pool": []}}, "kernels.pool: [] is not a list of [row, share]"),
        ({"kernels": KERNELS | {"pool": [["64 B", 0.5], ["32 B", 0.6]]}}, "ascending, not 32 B after 64 B"),
        ({"kernels": KERNELS | {"pool": [["64 B", 0.5], ["128 B", 0.4]]}}, "longer rows cannot be slower: 0.4 for 128"),
        ({"kernels": KERNELS | {"pool": [["64 B", 1.5]]}}, "rows of 64 B must be more than 0 and at most 1, not 1.5"),
        ({"kernels": KERNELS | {"pool": [[64, 0.5]]}}, "kernels.pool: size needs a unit"),
        ({"kernels": KERNELS | {"speed": 1}}, "kernels.speed: unknown key"),
    ],
)
def test_bad_values_are_refused_by_key(changes: dict[str, object], words: str) -> None:
    assert words in error(**changes)


def test_a_device_is_a_part_or_a_file_and_replaces_that_of_every_server(tmp_path: Path) -> None:
    file = tmp_path / "device.toml"
    file.write_text('[gpu]\npart = "a100-sxm-80gb"\nname = "ours"\n\n[measured]\nwhere = "here"\n')
    mixed = load_cluster("lab/mixed_6")
    for device in (load_device("a100-sxm-80gb"), load_device(str(file))):
        assert [(gpu, len(on)) for gpu, on in mixed.with_gpu(device).devices(range(6))] == [(device, 6)]
    assert load_device(str(file)).name == "ours"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "no such device file; write one with: python -m des_ref.bench_ops"),
        ("[transport]\n", r"has no \[gpu\]; write one with"),
        ('[gpu]\npart = "h200-sxm"\nmemory = 3\n', "gpu.memory: size needs a unit"),
        ("[gpu\n", "not TOML"),
    ],
)
def test_device_files_that_cannot_be_used_are_refused(tmp_path: Path, text: str | None, words: str) -> None:
    file = tmp_path / "device.toml"
    if text is not None:
        file.write_text(text)
    with pytest.raises(ClusterError, match=words):
        load_device(str(file))
    with pytest.raises(UsageError, match=r"device 'h300' is unknown; choose from .*; or give a .toml file"):
        load_device("h300")
