"""How the collectives of a recorded trace were timed, for simulations that replay them."""

from __future__ import annotations

from dessim.collectives import Options
from dessim.collectives.timing import Timing
from dessim.trace.schema import Header


def options_of(header: Header) -> Options:
    """Options under which the simulated time of a collective covers what its recorded time covers."""
    return Options(timing=Timing.KERNEL) if header.times_kernels else Options()
