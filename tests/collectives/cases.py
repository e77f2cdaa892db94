"""Every op and algorithm on all small layouts that it fits: the cases for the tests of schedules."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from dessim.collectives import ALGORITHMS, Layout, Options, Stage, schedule
from dessim.trace.schema import Collective

SIZES = (*range(1, 18), 32, 64)


class Case(NamedTuple):
    """One schedule: an algorithm for an op, on a layout."""

    op: Collective
    name: str
    layout: Layout
    options: Options

    def stages(self, size: float = 1.0) -> Iterator[Stage]:
        return schedule(self.op, self.name, self.layout, size, options=self.options)

    def __str__(self) -> str:
        layout, options = self.layout, self.options
        shape = f"{layout.n}x{layout.per_node}" + ("" if not layout.dims else f" on {layout.dims}")
        return f"{self.op} {self.name} {shape} {options.chunks} chunks root {options.root}"


def layouts(n: int) -> Iterator[Layout]:
    """Layouts of n ranks: flat, one node, several nodes, all with switches that sum."""
    yield Layout(n, 1, sharp=True)
    if n > 1:
        yield Layout(n, n, nvls=True, sharp=True)
    for g in (2, 3, 4, 8):
        if Layout(n, g).is_hierarchical:
            yield Layout(n, g, nvls=True, sharp=True)


def cases(sizes: tuple[int, ...] = SIZES) -> Iterator[Case]:
    """All cases with these numbers of ranks. Algorithms that run on a flat layout run on that one only."""
    for op, table in ALGORITHMS.items():
        for name, algorithm in table.items():
            for n in sizes:
                fit = [layout for layout in layouts(n) if not algorithm.unfit(layout)]
                flat = [layout for layout in fit if layout.per_node == 1]
                for layout in flat or fit:
                    for chunks in (1, 3) if "chunks" in algorithm.takes else (None,):
                        roots = sorted({0, 1, n // 2, n - 1} & set(range(n))) if "root" in algorithm.takes else (0,)
                        for root in roots:
                            yield Case(op, name, layout, Options(chunks, root))
