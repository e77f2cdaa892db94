"""64-bit feature ids, and the hashes that assign them to workers and initialise their rows. Pure functions on int64.

A feature id names one value of one field: `id = mix64(mix64(raw) + (field + 1) * GOLDEN)`. With 64 bits, a million ids
collide with probability 3e-8 (birthday bound n**2 / 2**65). Ids therefore need no vocabulary, and new ones may appear
at any time.

`mix64` is the finaliser of splitmix64 (Steele, Lea, Flood, OOPSLA 2014; constants from Vigna's public-domain
splitmix64.c). It is a bijection on 64-bit words. torch has no unsigned shift, so `_shift_right` masks the sign bits;
multiplication of int64 wraps, as the algorithm requires.
"""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

from dessim.workload.model_sections import GROUP_BITS

_WORD = 1 << 64


def signed(word: int) -> int:
    """The int64 with the same 64 bits as `word`."""
    word %= _WORD
    return word - _WORD if word >= _WORD >> 1 else word


GOLDEN = signed(0x9E3779B97F4A7C15)  # 2**64 / golden ratio: splitmix64's increment
_MULTIPLY_1 = signed(0xBF58476D1CE4E5B9)
_MULTIPLY_2 = signed(0x94D049BB133111EB)


def _shift_right(x: Tensor, bits: int) -> Tensor:
    return (x >> bits).bitwise_and_((1 << (64 - bits)) - 1)


def mix64(x: Tensor) -> Tensor:
    """splitmix64's finaliser, elementwise on int64 [...]."""
    # In place, which saves a quarter of the time.
    x = _shift_right(x, 30).bitwise_xor_(x).mul_(_MULTIPLY_1)
    x = _shift_right(x, 27).bitwise_xor_(x).mul_(_MULTIPLY_2)
    return _shift_right(x, 31).bitwise_xor_(x)


def mix64_int(word: int) -> int:
    """`mix64` of one Python integer; the result is signed."""
    word %= _WORD
    word = (word ^ (word >> 30)) * (_MULTIPLY_1 % _WORD) % _WORD
    word = (word ^ (word >> 27)) * (_MULTIPLY_2 % _WORD) % _WORD
    return signed(word ^ (word >> 31))


def words(keys: Tensor, count: int) -> Tensor:
    """int64 [n, count]: the first `count` words of the stream of each key [n], each from a counter."""
    counters = torch.arange(1, count + 1, dtype=torch.int64, device=keys.device) * GOLDEN
    return mix64(keys[:, None] + counters)


def owner_of(ids: Tensor, world_size: int | Tensor) -> Tensor:
    """The worker that owns each id: mix64(id) mod N, int64 [...]. Dropping the sign bit keeps it positive."""
    return _shift_right(mix64(ids), 1) % world_size


def feature_id(field: Tensor | int, raw: Tensor) -> Tensor:
    """Feature ids of raw int64 values. `field` is a number or an int64 tensor that broadcasts with `raw`."""
    offset = signed((field + 1) * GOLDEN) if isinstance(field, int) else (field + 1) * GOLDEN
    return mix64(mix64(raw) + offset)


def in_group(ids: Tensor, group: Tensor) -> Tensor:
    """The ids [n] with `group` [n] in their lowest bits (dessim.workload.model_sections.GROUP_BITS)."""
    return (ids >> GROUP_BITS << GROUP_BITS) | group


def text_key(text: str) -> int:
    """The raw value of a text: the first 8 bytes of its BLAKE2b digest as int64, the same on every machine."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little", signed=True)


def uniform(words: Tensor) -> Tensor:
    """float64 in (0, 1) from the top 53 bits of hashed words; never exactly 0, so its logarithm is finite."""
    return (_shift_right(words, 11).to(torch.float64) + 0.5) * 2.0**-53
