"""Time in whole ticks, so that the order of events does not hang on the last bits of a processor's arithmetic.

In a packet network events coincide all the time: a link is done with one packet at the very moment at which the next
one arrives from a link of the same rate. With plain floats rounding errors decide which event comes first, that decides
whose packet is sent first, and a whole training step may move by more than 1 %. Delays that are whole multiples of a
power of two add up without rounding, so events that coincide do so exactly, and the event loop keeps them in the order
in which they were scheduled.
"""

from __future__ import annotations

import math

_TICK_S = 2.0**-40
"""0.9 ps: 1e-5 of the time that a packet takes at 400 Gb/s. Sums are exact up to 2**53 ticks, more than two hours."""
_COARSE_S = 2.0**-24
"""60 ns, for long delays of which there are many: an error of 1e-12 of 10 ms hardly ever moves them by a tick."""
_PIECE = 2.0**-6
"""Bytes, for sizes: formulas give fractions of a byte, mostly halves and thirds, which this keeps apart."""


def whole_ticks(seconds: float) -> float:
    """The nearest delay [s] that is a whole number of ticks."""
    return round(seconds / _TICK_S) * _TICK_S


def coarse_ticks(seconds: float) -> float:
    """The same for compute, whose measured seconds have fewer digits."""
    return round(seconds / _COARSE_S) * _COARSE_S


def whole_bytes(size: float) -> float:
    """The nearest size [B] that is a whole number of 1/64 bytes; infinity stays."""
    return round(size / _PIECE) * _PIECE if size < math.inf else size
