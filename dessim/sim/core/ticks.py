"""Time in whole ticks, so that the order of events does not depend on the last bits of a processor's arithmetic.

In a packet network events coincide all the time: a link has sent one packet at the very moment at which the next one
arrives from a link of the same rate. With plain floats rounding errors decide which event comes first, the order of
events decides which packet goes first, and a whole training step moves by up to 10 %. Delays that are whole multiples
of a power of two add up without rounding. Events that should coincide then do so exactly, and the event loop handles
them in the order in which they were scheduled.
"""

from __future__ import annotations

import math

_TICK_S = 2.0**-40
"""0.9 ps: 1e-5 of the time that a packet takes at 400 Gb/s. Sums are exact up to 2**53 ticks, more than two hours."""
_COARSE_TICK_S = 2.0**-24
"""60 ns, for compute times: a relative error of 1e-12 in 10 ms hardly ever changes the number of ticks."""
_BYTE_FRACTION = 2.0**-6
"""For sizes: formulas give fractions of a byte, mostly halves and thirds, which this keeps apart."""


def whole_ticks(seconds: float) -> float:
    """The nearest delay [s] that is a whole number of ticks."""
    return round(seconds / _TICK_S) * _TICK_S


def coarse_ticks(seconds: float) -> float:
    """The nearest compute time [s] that is a whole number of coarse ticks."""
    return round(seconds / _COARSE_TICK_S) * _COARSE_TICK_S


def whole_bytes(size: float) -> float:
    """The nearest size [B] that is a whole number of 1/64 bytes; infinity stays infinite."""
    return round(size / _BYTE_FRACTION) * _BYTE_FRACTION if size < math.inf else size
