"""Measurements of a device: the simulator reads the part that they make, and prices kernels as they were measured."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from des_ref import bench_ops
from des_ref.device.clock import Clock
from des_ref.device.kernels import Sizes, Timed, supported
from des_ref.device.part import Measured, to_toml
from dessim.cluster.load import load_device
from dessim.compute import Access, Precision
from dessim.errors import UsageError
from dessim.sim.core.kernel_times import Product, Work, op_seconds

CPU = torch.device("cpu")
TINY = Sizes(((16, 16, 16), (64, 64, 64)), (32, 128), (100, 1000), table_bytes=1 << 16, copied_bytes=1 << 16)
# A GPU of 100 TFLOP/s in bf16 and 2 TB/s, whose rows of 64 B are half as fast as those of 256 B.
GPU = Measured(
    name="Some GPU",
    kind="cuda",
    where="here",
    memory=80_000_000_000,
    processors=100,
    launch_s=5e-6,
    graph_s=2e-6,
    copy=Timed("copy", (10**9,), 2e9, 1e-3),
    from_host=Timed("from_host", (10**8,), 1e8, 2e-3),
    products=(
        Timed("fp32", (1280, 1280, 1024), 2 * 1280 * 1280 * 1024, 2e-6 + 2 * 1280 * 1280 * 1024 / 10e12),
        Timed("bf16", (256, 256, 256), 2 * 256**3, 2e-6 + 2 * 256**3 / 4e12),
        Timed("bf16", (1280, 1280, 1024), 2 * 1280 * 1280 * 1024, 2e-6 + 2 * 1280 * 1280 * 1024 / 100e12),
    ),
    rows=tuple(
        Timed(access, (row, ids), row * ids * 2.0, 2e-6 + row * ids * 2.0 / (share * 2e12))
        for access in ("gather", "pool", "scatter")
        for row, ids, share in ((64, 1000, 0.1), (64, 10**6, 0.4), (256, 10**6, 0.8), (512, 10**6, 0.7))
    ),
)


def written(measured: Measured, folder: Path) -> Path:
    path = folder / "device.toml"
    path.write_text(to_toml(measured))
    return path


def test_a_measured_device_is_read_and_priced_as_measured(tmp_path: Path) -> None:
    gpu = load_device(str(written(GPU, tmp_path)))
    assert (gpu.name, gpu.memory, gpu.assumed) == ("Some GPU", 8e10, "")
    assert [gpu.rate(p) for p in (Precision.FP32, Precision.BF16)] == pytest.approx([10e12, 100e12], rel=1e-4)
    assert gpu.memory_bandwidth == pytest.approx(2e12) and gpu.host_bandwidth == pytest.approx(5e10)
    product = Product(1280, 1280, 1024)
    work = Work(product.flops, product.values * 2, 1, (product,), precision=Precision.BF16, value_bytes=2)
    assert op_seconds(gpu, work, graphs=True) == pytest.approx(GPU.products[2].seconds, rel=1e-3)
    rows = Work(0, 64e6 * 2, 1, access=Access.POOL, row_bytes=64)
    assert op_seconds(gpu, rows, graphs=True) == pytest.approx(GPU.rows[1].seconds, rel=1e-3)


def test_shares_never_fall_with_the_bytes_of_a_row_and_are_at_most_1() -> None:
    assert GPU.shares(Access.POOL) == [(64, pytest.approx(0.4)), (256, pytest.approx(0.8)), (512, pytest.approx(0.8))]
    cached = replace(GPU, copy=Timed("copy", (1,), 1e9, 1e-3))
    assert cached.shares(Access.POOL)[-1] == (512, 1.0)


def test_this_cpu_makes_a_part(tmp_path: Path) -> None:
    measured = bench_ops.measure(CPU, TINY, budget_s=1e-3)
    gpu = load_device(str(written(measured, tmp_path)))
    assert gpu.kernels is not None and gpu.kernels.processors == torch.get_num_threads()
    assert gpu.flops > 1e6 and gpu.memory_bandwidth > 1e6 and gpu.kernels.graph_launch is None
    assert {timed.size for timed in measured.rows if timed.what == "pool"} == {
        (row, ids) for row in TINY.row_bytes for ids in TINY.ids
    }


def test_precisions_are_those_that_the_device_supports() -> None:
    found = supported(CPU)
    assert Precision.FP32 in found and Precision.TF32 not in found and Precision.FP8 not in found


def test_a_clock_divides_by_the_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]

    def call() -> None:
        now[0] += 0.25

    monkeypatch.setattr("des_ref.device.clock.time.perf_counter", lambda: now[0])
    assert Clock(CPU, budget_s=10.0).seconds(call) == 0.25
    assert Clock(CPU, budget_s=0.1).seconds(call) == Clock(CPU).host_seconds(call, count=8) == 0.25
    assert Clock(CPU).graph_seconds(call) is None


def test_cuda_is_refused_where_there_is_none(tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has CUDA")
    with pytest.raises(UsageError, match="--device cuda: torch sees no CUDA device"):
        bench_ops.main(["-o", str(tmp_path / "device.toml"), "--device", "cuda"])
    assert not (tmp_path / "device.toml").exists()


def test_a_gpu_is_measured_with_graphs() -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    sizes = replace(TINY, table_bytes=1 << 24, copied_bytes=1 << 24)
    measured = bench_ops.measure(torch.device("cuda"), sizes, budget_s=0.01)
    assert measured.graph_s is not None and measured.from_host is not None
    assert 0 < measured.graph_s < measured.launch_s < 1e-3
