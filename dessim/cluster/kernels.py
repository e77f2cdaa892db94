"""How the kernels of a device fall short of its peak rates: launches, products of matrices, and rows of tables.

A part without `Kernels` is priced by a plain roofline (dessim.sim.core.device).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import pairwise

from dessim.compute import Access

Curve = tuple[tuple[float, float], ...]
"""Points (bytes of a row, share of the memory bandwidth), ascending in both."""


@dataclass(frozen=True, slots=True)
class Kernels:
    """Properties of a device's kernels.

    `processors`, `tile`: a product of matrices is cut into tiles of at most `tile` x `tile` outputs, and each of the
    `processors` (SMs, compute units, cores) computes one at a time.
    `floor` [s]: device time of a kernel with next to no work.
    `graph_launch` [s]: time between two kernels that a CUDA graph launches; None if the device has no graphs.
    `gather`, `pool`, `scatter`: shares of the memory bandwidth that kernels reach which touch rows in random places, by
        the bytes of a row. All bytes that are read or written count.
    """

    processors: int
    tile: int
    floor: float
    graph_launch: float | None
    gather: Curve
    pool: Curve
    scatter: Curve

    def share(self, access: Access, row_bytes: float) -> float:
        """The share of the memory bandwidth for rows of `row_bytes` bytes; `access` is not STREAM.

        Linear in the logarithm of the bytes between points, constant above the last, and proportional to the bytes
        below the first: memory moves no less than a sector at a time.
        """
        points: Curve = getattr(self, access.value)
        if row_bytes <= points[0][0]:
            return points[0][1] * row_bytes / points[0][0]
        for (below, low), (above, high) in pairwise(points):
            if row_bytes <= above:
                return low + (high - low) * math.log(row_bytes / below) / math.log(above / below)
        return points[-1][1]

    def launched(self, factor: float) -> Kernels:
        """The same kernels with all times that do not depend on their work multiplied by `factor`."""
        graph_launch = None if self.graph_launch is None else self.graph_launch * factor
        return replace(self, floor=self.floor * factor, graph_launch=graph_launch)

    def padded_flops(self, m: float, n: float, k: float, count: float) -> float:
        """FLOPs for which the processors are busy with `count` products of m x k by k x n.

        They exceed 2 m n k, because tiles at the edges are padded and the last wave of tiles may leave processors idle.
        Where there are fewer tiles than processors, several add up parts of a long k.
        """
        rows, columns = (min(self.tile, _padded(size)) for size in (m, n))
        tiles = math.ceil(m / rows) * math.ceil(n / columns) * math.ceil(count)
        depth = max(k / max(1, self.processors // tiles), min(k, _LEAST_DEPTH))
        waves = math.ceil(tiles / self.processors)
        return 2.0 * rows * columns * _padded(depth) * waves * self.processors


_GRAIN = 16  # rows, columns and depth of the product that tensor cores multiply (CUDA's wmma: m16n16k16)
_LEAST_DEPTH = 512  # of k that a processor adds up; shorter parts would not pay for summing them (assumed)


def _padded(size: float) -> int:
    return math.ceil(size / _GRAIN) * _GRAIN
