"""Logs drawn from known laws, and Criteo's lines of them."""

from __future__ import annotations

import numpy as np

from dessim.arrays import Ints
from dessim.workload.ids import ZipfLaw


def drawn(law: ZipfLaw, count: int, seed: int) -> Ints:
    """`count` ids of a law, each a rank from 1 on."""
    weights = (np.arange(1.0, law.vocabulary + 1) + law.offset) ** -law.skew
    ends = np.cumsum(weights)
    return np.searchsorted(ends, np.random.default_rng(seed).random(count) * ends[-1], "right") + 1


def criteo_lines(samples: int, seed: int = 1) -> bytes:
    """Criteo's lines; table C`k` has 10 k equally likely ids, one of which is the empty cell."""
    rng = np.random.default_rng(seed)
    ids = [[f"{i:x}" if i else "" for i in rng.integers(0, 10 * k, samples)] for k in range(1, 27)]
    return "".join(
        f"{i % 2}\t{i}" + "\t" * 12 + "\t" + "\t".join(row) + "\n" for i, row in enumerate(zip(*ids, strict=True))
    ).encode()
