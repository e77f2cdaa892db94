"""Times of ops on devices whose kernels are described."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dessim.cluster import load_cluster
from dessim.cluster.kernels import Kernels
from dessim.compute import Access, Precision
from dessim.errors import UsageError
from dessim.sim.core.device import roofline
from dessim.sim.core.kernel_times import Product, Work, op_seconds

PLAIN = replace(load_cluster("one-switch_16").gpu, kernels=None, peaks=(), flops=50e12, efficiency_flops=0.8)
KERNELS = Kernels(
    processors=100,
    tile=128,
    floor=2e-6,
    graph_launch=1e-6,
    gather=((64.0, 0.4), (256.0, 0.8)),
    pool=((64.0, 0.5), (256.0, 0.8)),
    scatter=((64.0, 0.2), (256.0, 0.4)),
)
PEAKS = ((Precision.FP32, 50e12, 0.8), (Precision.BF16, 800e12, 0.75))
GPU = replace(PLAIN, kernels=KERNELS, peaks=PEAKS, memory_bandwidth=2e12, efficiency_memory=0.9, launch_overhead=5e-6)


def test_a_part_without_kernels_is_a_roofline() -> None:
    work = Work(flops=1e12, bytes=1e9, kernels=3, products=(Product(1024, 1024, 1024),), access=Access.SCATTER)
    assert op_seconds(PLAIN, work) == roofline(PLAIN, 1e12, 1e9, 3)
    with pytest.raises(UsageError, match=r"no graph_launch under \[gpu.kernels\]"):
        op_seconds(PLAIN, work, graphs=True)


def test_a_large_product_runs_at_its_precision() -> None:
    product = Product(12_800, 12_800, 8192)
    work = Work(product.flops, product.values * 2, 1, (product,), precision=Precision.BF16, value_bytes=2)
    assert op_seconds(GPU, work) == pytest.approx(2e-6 + product.flops / (800e12 * 0.75))
    with pytest.raises(UsageError, match="states no rate for fp8; choose from fp32, bf16"):
        op_seconds(GPU, replace(work, precision=Precision.FP8))


def test_a_thin_product_is_bound_by_its_bytes() -> None:
    product = Product(65_536, 16, 16)
    work = Work(product.flops, product.values * 4, 1, (product,))
    assert op_seconds(GPU, work) == pytest.approx(2e-6 + product.values * 4 / (2e12 * 0.9))


def test_what_products_leave_of_an_op_is_added() -> None:
    product = Product(12_800, 12_800, 8192)
    alone = Work(product.flops, product.values * 4, 1, (product,))
    more = replace(alone, bytes=alone.bytes + 1.8e9)
    assert op_seconds(GPU, more) - op_seconds(GPU, alone) == pytest.approx(1e-3)


def test_short_rows_are_slower_than_long_ones_and_scatters_slower_than_gathers() -> None:
    def seconds(access: Access, row_bytes: float) -> float:
        return op_seconds(GPU, Work(0, 2e9, 0, access=access, row_bytes=row_bytes))

    assert seconds(Access.STREAM, 0) == pytest.approx(1e-3 / 0.9)
    assert seconds(Access.GATHER, 64) == pytest.approx(1e-3 / 0.4)
    assert seconds(Access.SCATTER, 512) == pytest.approx(1e-3 / 0.4)


def test_the_host_launches_while_kernels_run_and_graphs_launch_faster() -> None:
    empty = Work(0, 0, 10)
    assert op_seconds(GPU, empty) == pytest.approx(50e-6)
    assert op_seconds(GPU, empty, graphs=True) == pytest.approx(30e-6)
    long = Work(0, 1.8e9, 10)
    assert op_seconds(GPU, long) == pytest.approx(1e-3 + 20e-6)
    assert op_seconds(GPU, long, graphs=True) == pytest.approx(1e-3 + 30e-6)


@given(
    st.floats(1, 1e5), st.floats(1, 1e5), st.floats(1, 1e5), st.floats(0, 1e10), st.sampled_from(Access), st.booleans()
)
def test_no_op_beats_the_peaks(m: float, n: float, k: float, moved: float, access: Access, graphs: bool) -> None:
    product = Product(m, n, k)
    work = Work(product.flops, product.values * 4 + moved, 1, (product,), access, row_bytes=100)
    least = max(work.flops / GPU.peak(Precision.FP32), work.bytes / GPU.memory_bandwidth)
    assert op_seconds(GPU, work, graphs) >= least * (1 - 1e-12)
