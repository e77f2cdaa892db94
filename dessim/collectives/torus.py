"""Bucket algorithm on a 2-D or 3-D torus: a ring along each dimension in turn, on successively smaller data.

reduce_scatter runs along dimension 0 on S, along dimension 1 on S/d0, and so on; all_gather is its reverse; all_reduce
runs both. The algorithm is bandwidth-optimal like a ring, with sum(d_i - 1) stages instead of n - 1. It works on any
network, but only on a torus is each message one hop. Left out: running all dimensions at the same time on parts of the
data (multi-port).

Source: Barnett, Littlefield, Payne and van de Geijn, "Global Combine on Mesh Architectures with Wormhole Routing", IPPS
1993; Chan et al., "Collective communication: theory, practice, and experience", CCPE 19, 2007.

Rank = (... x2 * d1 + x1) * d0 + x0, so dimension 0 joins neighbouring ranks.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from dessim.arrays import Ints
from dessim.collectives.schedule import Layout, Stage
from dessim.errors import UsageError


def torus_2d_reduce_scatter(layout: Layout, size: float) -> Iterator[Stage]:
    """(d0 - 1) + (d1 - 1) stages."""
    yield from _reduce_scatter(factors(layout, 2), size)


def torus_2d_all_gather(layout: Layout, size: float) -> Iterator[Stage]:
    """The reverse of reduce_scatter, in as many stages."""
    yield from _all_gather(factors(layout, 2), size)


def torus_2d_all_reduce(layout: Layout, size: float) -> Iterator[Stage]:
    """reduce_scatter, then all_gather."""
    yield from torus_2d_reduce_scatter(layout, size)
    yield from torus_2d_all_gather(layout, size)


def torus_3d_reduce_scatter(layout: Layout, size: float) -> Iterator[Stage]:
    """(d0 - 1) + (d1 - 1) + (d2 - 1) stages."""
    yield from _reduce_scatter(factors(layout, 3), size)


def torus_3d_all_gather(layout: Layout, size: float) -> Iterator[Stage]:
    """The reverse of reduce_scatter, in as many stages."""
    yield from _all_gather(factors(layout, 3), size)


def torus_3d_all_reduce(layout: Layout, size: float) -> Iterator[Stage]:
    """reduce_scatter, then all_gather."""
    yield from torus_3d_reduce_scatter(layout, size)
    yield from torus_3d_all_gather(layout, size)


def factors(layout: Layout, count: int) -> tuple[int, ...]:
    """The sides of the torus: `layout.dims` if given, else the `count` factors of n with the smallest sum.

    Factors are in descending order. Raises UsageError if `layout.dims` are not `count` factors of n.
    """
    if layout.dims:
        if len(layout.dims) != count or math.prod(layout.dims) != layout.n:
            shown = "x".join(map(str, layout.dims))
            raise UsageError(f"--dims {shown} are not {count} factors of {layout.n} ranks")
        return layout.dims
    return min(_splits(layout.n, count), key=lambda dims: (sum(dims), dims[::-1]))


def _splits(n: int, count: int) -> Iterator[tuple[int, ...]]:
    """All products of `count` factors, in descending order, that equal n."""
    if count == 1:
        yield (n,)
        return
    for last in range(1, math.isqrt(n) + 1):
        if n % last == 0:
            yield from ((*rest, last) for rest in _splits(n // last, count - 1) if min(rest) >= last)


def _reduce_scatter(dims: tuple[int, ...], size: float) -> Iterator[Stage]:
    for axis in range(len(dims)):
        yield from _ring(dims, axis, size, reduce=True, shift=1)


def _all_gather(dims: tuple[int, ...], size: float) -> Iterator[Stage]:
    for axis in reversed(range(len(dims))):
        yield from _ring(dims, axis, size, reduce=False, shift=0)


def _ring(dims: tuple[int, ...], axis: int, size: float, reduce: bool, shift: int) -> Iterator[Stage]:
    """A ring along `axis`: d - 1 repetitions in which each rank sends one bundle of shares to its next neighbour.

    A rank's bundle b holds the shares with coordinate b along `axis` and the rank's own coordinates along lower axes.
    """
    if dims[axis] < 2:
        return
    n = math.prod(dims)
    d = dims[axis]
    stride = math.prod(dims[:axis])
    ranks: Ints = np.arange(n, dtype=np.int64)
    x = ranks // stride % d

    def carries(t: int) -> list[list[int]]:
        # A bundle has n // stride // d shares: those of all coordinates along higher axes.
        first_share = ranks % stride + (x - shift - t) % d * stride
        return [list(range(int(first), n, stride * d)) for first in first_share]

    yield Stage(
        pattern=("torus ring", stride, d),
        src=ranks,
        dst=ranks + ((x + 1) % d - x) * stride,
        size=np.full(n, size / stride / d),
        repeat=d - 1,
        reduce=reduce,
        carries=carries,
    )
