"""broadcast and reduce composed of two ops on shares, as MPI libraries run them for long messages.

    broadcast   scatter (binomial), then all_gather (Bruck)
    reduce      reduce_scatter (recursive halving), then gather (binomial)

Both take 2 log2 n stages and move at most twice the optimal number of bytes. Sources: van de Geijn's broadcast (Barnett
et al., "Interprocessor collective communication library", SHPCC 1994) and Rabenseifner's reduce (Thakur, Rabenseifner
and Gropp, IJHPCA 19, 2005).
"""

from __future__ import annotations

from collections.abc import Iterator

from dessim.collectives.bruck import bruck_all_gather
from dessim.collectives.halving_doubling import halving_doubling_reduce_scatter
from dessim.collectives.rooted import binomial_gather, binomial_scatter
from dessim.collectives.schedule import Layout, Stage


def scatter_all_gather_broadcast(layout: Layout, size: float, root: int = 0) -> Iterator[Stage]:
    """2 ceil(log2 n) stages; about 2 S through the busiest port."""
    yield from binomial_scatter(layout, size, root)
    yield from bruck_all_gather(layout, size)


def reduce_scatter_gather_reduce(layout: Layout, size: float, root: int = 0) -> Iterator[Stage]:
    """The mirror image for sums: 2 log2 n stages; about 2 S through the busiest port."""
    yield from halving_doubling_reduce_scatter(layout, size)
    yield from binomial_gather(layout, size, root)
