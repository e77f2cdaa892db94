"""Kernels of a device: tiles of products, shares of the memory bandwidth by the bytes of a row."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dessim.cluster.kernels import Kernels
from dessim.compute import Access

CURVE = ((64.0, 0.4), (256.0, 0.8))
KERNELS = Kernels(processors=132, tile=128, floor=2e-6, graph_launch=1e-6, gather=CURVE, pool=CURVE, scatter=CURVE)
SIZES = st.integers(1, 20_000)


def test_whole_waves_of_whole_tiles_waste_nothing() -> None:
    assert KERNELS.padded_flops(128 * 12, 128 * 11, 4096, 1) == 2 * 128 * 12 * 128 * 11 * 4096


def test_one_more_tile_than_processors_takes_two_waves() -> None:
    full = KERNELS.padded_flops(128 * 132, 128, 4096, 1)
    assert KERNELS.padded_flops(128 * 132 + 1, 128, 4096, 1) == 2 * full


def test_processors_share_a_long_k_when_tiles_are_few() -> None:
    """512 x 512 outputs are 16 tiles, so that 8 of the 132 processors work on each."""
    assert KERNELS.padded_flops(512, 512, 65_536, 1) == pytest.approx(2 * 512 * 512 * 65_536 * 132 / 128)
    # A k of 512 is not cut.
    assert KERNELS.padded_flops(128, 128, 512, 1) == 2 * 128 * 128 * 512 * 132


@given(SIZES, SIZES, SIZES, st.integers(1, 100), st.integers(1, 4000))
def test_larger_products_take_no_less_and_never_beat_the_peak(m: int, n: int, k: int, count: int, more: int) -> None:
    flops = KERNELS.padded_flops(m, n, k, count)
    assert flops >= 2 * m * n * k * count * (1 - 1e-12)
    larger = [(m + more, n, k, count), (m, n + more, k, count), (m, n, k + more, count), (m, n, k, count + more)]
    assert all(KERNELS.padded_flops(*sizes) >= flops for sizes in larger)


def test_shares_follow_the_points_between_them_and_sectors_below() -> None:
    shares = [KERNELS.share(Access.POOL, size) for size in (16, 32, 64, 128, 256, 4096)]
    assert shares == pytest.approx([0.1, 0.2, 0.4, 0.6, 0.8, 0.8])


def test_launches_scale_together() -> None:
    twice = KERNELS.launched(2.0)
    assert (twice.floor, twice.graph_launch) == (4e-6, 2e-6)
    assert replace(KERNELS, graph_launch=None).launched(2.0).graph_launch is None
