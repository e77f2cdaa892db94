"""The time of an op on a device whose kernels are described (dessim.cluster.kernels): products of matrices by their
shape, tables by the bytes of a row, a floor and a launch for each kernel.

The kernels of an op run one after the other. A product takes as long as the slower of its tiles and its bytes. The rest
of the op's FLOPs and bytes runs as a roofline. Left out: caches, and kernels that run side by side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from dessim.cluster import Gpu
from dessim.cluster.kernels import Kernels
from dessim.compute import Access, Precision
from dessim.errors import UsageError
from dessim.sim.core.device import roofline


@dataclass(frozen=True, slots=True)
class Product:
    """`count` products of a matrix of m x k values by one of k x n."""

    m: float
    n: float
    k: float
    count: float = 1.0

    @property
    def flops(self) -> float:
        return 2 * self.m * self.n * self.k * self.count

    @property
    def values(self) -> float:
        """Values that are read and written."""
        return (self.m * self.k + self.k * self.n + self.m * self.n) * self.count


@dataclass(frozen=True, slots=True)
class Work:
    """An op as a device sees it.

    `flops` and `bytes` are of the whole op, `products` included; `kernels` is the number of launches. `access` and
    `row_bytes` say how it reads and writes the bytes that belong to no product. Products have values of `precision` and
    `value_bytes`.
    """

    flops: float
    bytes: float
    kernels: float
    products: Sequence[Product] = ()
    access: Access = Access.STREAM
    row_bytes: float = 0.0
    precision: Precision = Precision.FP32
    value_bytes: float = 4.0

    def without_products(self) -> Work:
        """The FLOPs and bytes that belong to no product of matrices."""
        flops = self.flops - sum(product.flops for product in self.products)
        moved = self.bytes - sum(product.values for product in self.products) * self.value_bytes
        return replace(self, flops=max(flops, 0.0), bytes=max(moved, 0.0), products=())


def op_seconds(gpu: Gpu, work: Work, graphs: bool = False) -> float:
    """Seconds of an op. `graphs`: whether a CUDA graph launches its kernels.

    Raises UsageError where the device does not state the rate of the precision, or `graphs` and no times of graphs.
    """
    kernels = gpu.kernels
    if kernels is None:
        busy = roofline(gpu, work.flops, work.bytes, 0.0, work.precision)
    else:
        busy = _products(gpu, kernels, work) + _rest(gpu, kernels, work)
    return launched(gpu, work.kernels, busy, graphs)


def launched(gpu: Gpu, kernels: float, busy: float, graphs: bool = False) -> float:
    """Seconds of `kernels` kernels whose work takes `busy` seconds in total. Raises UsageError as `op_seconds` does."""
    described = gpu.kernels
    if graphs:
        if described is None or described.graph_launch is None:
            raise UsageError(f"{gpu.name} states no graph_launch under [gpu.kernels]; leave out --launch graph")
        return kernels * (described.floor + described.graph_launch) + busy
    if described is None:
        return kernels * gpu.launch_overhead + busy
    # The host launches kernels while others run, so that only the slower of the two counts.
    return max(kernels * gpu.launch_overhead, kernels * described.floor + busy)


def _products(gpu: Gpu, kernels: Kernels, work: Work) -> float:
    rate = gpu.rate(work.precision)
    memory_rate = gpu.memory_bandwidth * gpu.efficiency_memory
    return sum(
        max(
            kernels.padded_flops(product.m, product.n, product.k, product.count) / rate,
            product.values * work.value_bytes / memory_rate,
        )
        for product in work.products
    )


def _rest(gpu: Gpu, kernels: Kernels, work: Work) -> float:
    rest = work.without_products()
    streams = work.access is Access.STREAM
    share = gpu.efficiency_memory if streams else kernels.share(work.access, work.row_bytes)
    return max(rest.flops / gpu.rate(work.precision), rest.bytes / (gpu.memory_bandwidth * share))
