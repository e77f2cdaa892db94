"""Rows of Criteo's format for tests."""

from __future__ import annotations

import random


def text(count: int, seed: int = 0) -> list[str]:
    """`count` lines whose label mostly follows from their first id."""
    rng = random.Random(seed)
    lines = []
    for _ in range(count):
        first = rng.randrange(8)
        label = int(rng.random() < (0.9 if first % 2 else 0.1))
        integers = [str(rng.randrange(9)) if rng.random() < 0.9 else "" for _ in range(13)]
        ids = [f"{first:08x}", *(f"{rng.randrange(20):08x}" for _ in range(25))]
        lines.append("\t".join([str(label), *integers, *ids]) + "\n")
    return lines
