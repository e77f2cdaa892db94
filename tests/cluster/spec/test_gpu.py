"""`[gpu]` of a topology file: one rate or one for each precision, and the properties of kernels."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from dessim.cluster.spec.gpu import GpuTable
from dessim.cluster.spec.topology_file import problems
from dessim.compute import Access, Precision
from dessim.errors import UsageError

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
