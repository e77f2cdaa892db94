"""The kernels that are timed: products of matrices by precision and size, rows by bytes and ids, copies."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import cycle

import torch
import torch.nn.functional as F
from torch import Tensor

from des_ref.device.clock import Clock
from dessim.compute import Access, Precision

BAG = 10  # ids of a bag that is pooled
MOST_S = 8.0  # limit for the products of one precision; a processor that emulates it takes long
_TYPES = {
    Precision.FP32: torch.float32,
    Precision.TF32: torch.float32,
    Precision.BF16: torch.bfloat16,
    Precision.FP16: torch.float16,
    Precision.FP8: torch.float8_e4m3fn,
}


@dataclass(frozen=True, slots=True)
class Sizes:
    """Sizes of what is timed. `shapes` are (m, n, k); `table_bytes` and `copied_bytes` exceed the device's caches."""

    shapes: tuple[tuple[int, int, int], ...]
    row_bytes: tuple[int, ...]
    ids: tuple[int, ...]
    table_bytes: int
    copied_bytes: int

    @classmethod
    def of(cls, device: torch.device) -> Sizes:
        """Sizes that show a device's rates in under two minutes."""
        squares: tuple[int, ...] = (64, 128, 256, 512, 1024)
        wide = 2048
        table = 1 << 28
        copied = 1 << 27
        ids = (1000, 100_000)
        if device.type == "cuda":
            squares = (256, 512, 1024, 2048, 4096, 8192)
            wide = 8192
            table = 1 << 31
            copied = 1 << 30
            ids = (1000, 1_000_000)
        # Squares, the layers of a recommender's mlp, and the gradient of their weights.
        shapes = (*((n, n, n) for n in squares), (wide, 512, 512), (wide, 64, 512), (512, 512, wide))
        return cls(shapes, (32, 64, 128, 256, 512), ids, table, copied)


@dataclass(frozen=True, slots=True)
class Timed:
    """One measurement: `what` was done at a size, the FLOPs or bytes of it, and its seconds."""

    what: str
    size: tuple[int, ...]
    work: float
    seconds: float


def supported(device: torch.device) -> list[Precision]:
    """The precisions in which the device multiplies matrices."""
    return [precision for precision in Precision if _multiplies(device, precision)]


def _multiplies(device: torch.device, precision: Precision) -> bool:
    if device.type == "cuda":
        # Older GPUs emulate these formats, or refuse them when a kernel runs.
        first = {Precision.TF32: (8, 0), Precision.BF16: (8, 0), Precision.FP8: (8, 9)}.get(precision, (0, 0))
        if torch.version.hip is None and torch.cuda.get_device_capability(device) < first:
            return False
        if torch.version.hip is not None and precision is Precision.TF32:
            return False
    elif precision in (Precision.TF32, Precision.FP8):
        return False
    try:
        product(device, precision, 64, 64, 64)()
    except (RuntimeError, NotImplementedError, AttributeError):
        return False
    return True


def product(device: torch.device, precision: Precision, m: int, n: int, k: int) -> Callable[[], object]:
    """A call that multiplies m x k by k x n values."""
    left = torch.ones(m, k, device=device)
    right = torch.ones(n, k, device=device)
    if precision is Precision.FP8:
        one = torch.ones((), device=device)
        a = left.to(_TYPES[precision])
        b = right.to(_TYPES[precision]).t()
        return lambda: torch._scaled_mm(a, b, scale_a=one, scale_b=one, out_dtype=torch.bfloat16)
    a, b = (x.to(_TYPES[precision]) for x in (left, right.t().contiguous()))
    out = a.new_empty(m, n)
    return lambda: torch.mm(a, b, out=out)


@contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """Let products of float32 matrices use TF32, or not."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = allowed
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


def time_products(clock: Clock, sizes: Sizes, precision: Precision) -> list[Timed]:
    """Products in a precision, of all shapes that can be timed in `MOST_S`; `work` is in FLOPs."""
    products: list[Timed] = []
    end = time.monotonic() + MOST_S
    with tf32(precision is Precision.TF32):
        for m, n, k in sizes.shapes:
            work = 2.0 * m * n * k
            least = min((timed.seconds / timed.work for timed in products), default=0.0) * work
            if products and time.monotonic() + 2 * least > end:
                continue
            products.append(
                Timed(str(precision), (m, n, k), work, clock.seconds(product(clock.device, precision, m, n, k)))
            )
    return products


def time_rows(clock: Clock, sizes: Sizes) -> list[Timed]:
    """Gathers, pools and scatters by the bytes of a row and the number of ids; `work` is in bytes read and written.

    If a call has few ids, the next call has others, whose rows are not in a cache. Tables are written before they are
    read: an operating system may map memory that was never written to a single page of zeros.
    """
    generator = torch.Generator(clock.device).manual_seed(0)
    accesses = []
    for row_bytes in sizes.row_bytes:
        width = row_bytes // 4
        table = torch.ones(sizes.table_bytes // row_bytes, width, device=clock.device)
        for count in sizes.ids:
            sets = max(1, max(sizes.ids) // count)
            ids = torch.randint(len(table), (sets, count), generator=generator, device=clock.device)
            values = torch.ones(count, width, device=clock.device)
            moved = float(count * row_bytes)
            for access, call, work in (
                (Access.GATHER, _gather(table, ids, values), 2 * moved),
                (Access.POOL, _pool(table, ids), moved * (1 + 1 / BAG)),
                (Access.SCATTER, _scatter(table, ids, values), 3 * moved),
            ):
                accesses.append(Timed(str(access), (row_bytes, count), work, clock.seconds(call)))
        del table
    return accesses


def _gather(table: Tensor, ids: Tensor, out: Tensor) -> Callable[[], object]:
    turns = cycle(ids)
    return lambda: torch.index_select(table, 0, next(turns), out=out)


def _pool(table: Tensor, ids: Tensor) -> Callable[[], object]:
    turns = cycle(ids)
    offsets = torch.arange(0, ids.shape[1], BAG, device=ids.device)
    return lambda: F.embedding_bag(next(turns), table, offsets, mode="sum")


def _scatter(table: Tensor, ids: Tensor, values: Tensor) -> Callable[[], object]:
    turns = cycle(ids)
    return lambda: table.index_add_(0, next(turns), values)


def time_copy(clock: Clock, sizes: Sizes) -> Timed:
    """A copy inside the device's memory; `work` is in bytes read and written."""
    source = torch.ones(sizes.copied_bytes // 4, device=clock.device)
    target = torch.ones_like(source)
    return Timed("copy", (sizes.copied_bytes,), 2.0 * sizes.copied_bytes, clock.seconds(lambda: target.copy_(source)))


def time_from_host(clock: Clock, sizes: Sizes) -> Timed | None:
    """A copy from the host's pinned memory; None for a CPU."""
    if clock.device.type != "cuda":
        return None
    size = min(sizes.copied_bytes, 1 << 28)
    source = torch.ones(size // 4, pin_memory=True)
    target = torch.ones(size // 4, device=clock.device)
    return Timed("from_host", (size,), float(size), clock.seconds(lambda: target.copy_(source, non_blocking=True)))
