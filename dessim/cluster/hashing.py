"""Hashes of whole arrays, for colours and for pseudo-random choices among routes.

The result depends on the input only, so it is the same on every machine and needs no generator state.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Hashes = npt.NDArray[np.uint64]


GOLDEN = 0x9E3779B97F4A7C15
"""2**64 / golden ratio, splitmix64's increment."""
_WORD = 2**64 - 1


def mix(x: Hashes) -> Hashes:
    """Hash each element as splitmix64 does (Steele, Lea and Flood, 2014): its increment, then `mix64`."""
    return mix64(x + np.uint64(GOLDEN))


def mix_int(x: int) -> int:
    """`mix` of one number, which numpy would take ten times as long for."""
    x = (x + GOLDEN) & _WORD
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 & _WORD
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB & _WORD
    return x ^ (x >> 31)


def mix64(x: Hashes) -> Hashes:
    """The finaliser of splitmix64 alone, a bijection on 64 bits; as in des_ref/hashing.py."""
    x = x ^ (x >> np.uint64(30))
    x *= np.uint64(0xBF58476D1CE4E5B9)
    x ^= x >> np.uint64(27)
    x *= np.uint64(0x94D049BB133111EB)
    x ^= x >> np.uint64(31)
    return x
