"""The workers on which hash placement puts the ids of the trainer's synthetic data (des_ref/hashing.py, in numpy)."""

from __future__ import annotations

import numpy as np

from dessim.arrays import Ints
from dessim.cluster.hashing import Hashes, mix

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def frequent_ids_owners(field: int, ids: int, workers: int) -> Ints:
    """The owner of the `ids` most frequent ids of a field [ids], most frequent first."""
    raw = _mix64(np.arange(ids, dtype=np.uint64))
    feature = _mix64(raw + np.arange(1, field + 2, dtype=np.uint64)[-1:] * _GOLDEN)
    return np.asarray((_mix64(feature) >> np.uint64(1)) % np.uint64(workers)).astype(np.int64)


def _mix64(words: Hashes) -> Hashes:
    """splitmix64's finaliser alone: `mix` adds the golden ratio first."""
    return mix(words - _GOLDEN)
