"""The device part with the results of measurements, as TOML for `dessim project --device` or a topology file.

- The rate of a precision is that of its fastest product.
- The memory bandwidth is that of a copy. The rates of rows are shares of it, of at most 1, and never fall with the
  bytes of a row: if shorter rows were faster, caches served them.
- The floor is the time of a kernel that adds two numbers. On a GPU it is measured in a CUDA graph, and so includes the
  graph's launches; without graphs, the host launches the kernels. On a CPU it is the time of a call.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate

from des_ref.device.kernels import Timed
from dessim.compute import Access

TILES = {"cuda": 128, "cpu": 32}  # outputs on a side that a processor computes at a time; assumed, not measured


@dataclass(frozen=True, slots=True)
class Measured:
    """Measurements of a device and what its driver states.

    `launch_s`: seconds in which the host issues a kernel. `graph_s`: seconds of a tiny kernel in a CUDA graph; None
    without graphs. `memory` [bytes].
    """

    name: str
    kind: str
    where: str
    memory: int
    processors: int
    launch_s: float
    graph_s: float | None
    copy: Timed
    from_host: Timed | None
    products: Sequence[Timed]
    rows: Sequence[Timed]

    @property
    def floor_s(self) -> float:
        return self.launch_s if self.graph_s is None else self.graph_s

    @property
    def bandwidth(self) -> float:
        """Bytes/s of a copy, read and written."""
        return self.copy.work / self.copy.seconds

    def rates(self) -> dict[str, float]:
        """The fastest product [FLOP/s] of each precision, its floor deducted."""
        rates: dict[str, float] = {}
        for timed in self.products:
            rate = timed.work / max(timed.seconds - self.floor_s, timed.seconds / 2)
            rates[timed.what] = max(rates.get(timed.what, 0.0), rate)
        return rates

    def shares(self, access: Access) -> list[tuple[int, float]]:
        """The share of the memory bandwidth by the bytes of a row, for the largest number of ids."""
        rows = [timed for timed in self.rows if timed.what == access]
        most = max(timed.size[1] for timed in rows)
        many = sorted((timed for timed in rows if timed.size[1] == most), key=lambda timed: timed.size)
        shares = (timed.work / max(timed.seconds - self.floor_s, timed.seconds / 2) / self.bandwidth for timed in many)
        return [(timed.size[0], min(share, 1.0)) for timed, share in zip(many, accumulate(shares, max), strict=True)]


def to_toml(measured: Measured) -> str:
    """The TOML text of a device."""
    m = measured
    curves = [(access, m.shares(access)) for access in (Access.GATHER, Access.POOL, Access.SCATTER)]
    rates = ", ".join(f'{name} = "{rate / 1e9:.5g} GFLOP/s"' for name, rate in m.rates().items())
    host = m.from_host
    lines = [
        "# Written by des_ref.bench_ops. Use it with --device, or copy [gpu] and [gpu.kernels] into a topology file.",
        "",
        "[gpu]",
        f"name = {json.dumps(m.name)}",
        f"flops = {{{rates}}}",
        f'memory_bandwidth = "{m.bandwidth / 1e9:.5g} GB/s"',
        f'memory = "{m.memory} B"',
        f'launch_overhead = "{m.launch_s * 1e6:.4g} us"',
        "efficiency_flops = 1.0     # the rates above are measured",
        "efficiency_memory = 1.0",
        *([f'host_bandwidth = "{host.work / host.seconds / 1e9:.4g} GB/s"'] if host else []),
        f"source = {json.dumps(f'measured by des_ref.bench_ops: {m.where}')}",
        "",
        "[gpu.kernels]",
        f"processors = {m.processors}",
        f"tile = {TILES[m.kind]}     # assumed",
        f'floor = "{m.floor_s * 1e6:.4g} us"',
        *(['graph_launch = "0 us"     # part of the floor'] if m.graph_s is not None else []),
        *(f"{access} = {_curve(curve)}" for access, curve in curves),
        "",
        "[measured]",
        f"where = {json.dumps(m.where)}",
        "# what, size, seconds: products by precision and (m, n, k), rows by access and (bytes of a row, ids), copies",
        "seconds = [",
        *(f"    {_entry(timed)}," for timed in _all(m)),
        "]",
    ]
    return "\n".join(lines) + "\n"


def _curve(points: Iterable[tuple[int, float]]) -> str:
    return "[" + ", ".join(f'["{size} B", {share:.4g}]' for size, share in points) + "]"


def _all(measured: Measured) -> Iterable[Timed]:
    return (*measured.products, *measured.rows, measured.copy, *([measured.from_host] if measured.from_host else []))


def _entry(timed: Timed) -> str:
    return f"[{json.dumps(timed.what)}, {list(timed.size)}, {timed.seconds:.4g}]"
