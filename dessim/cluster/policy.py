"""Routing policies: which of the equal ways that a fabric offers each flow takes.

`split` takes all of them evenly: per-packet spraying, or ECMP over very many flows. `static` takes one by destination,
as an InfiniBand subnet manager does with D-mod-k: (port of the destination in its leaf) mod k (Zahavi, "D-Mod-K
Routing Providing Non-Blocking Traffic for Shift Permutations on Real Life Fat Trees", Technion CCIT 776, 2010).
`ecmp` takes one by a hash of what stands for the 5-tuple (RFC 2992): seed, both ends, and which of the pair's flows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dessim.cluster.hashing import Hashes, mix
from dessim.cluster.links import IntArray
from dessim.cluster.routing import Fabric, Segment


@dataclass(frozen=True, slots=True)
class Routing:
    """A policy, the seed of its hash, and as how many flows the traffic of a pair of GPUs goes."""

    policy: str = "split"
    seed: int = 0
    flows_per_pair: int = 1

    def segments(self, fabric: Fabric, src: IntArray, dst: IntArray, key: Hashes) -> list[Segment]:
        """The way of n flows from NIC `src` to NIC `dst` [n] through `fabric`; `key` [n] tells flows apart."""

        def pick(rows: IntArray, k: int, static: IntArray) -> IntArray | None:
            if self.policy == "split":
                return None
            if self.policy == "static":
                return static
            hashed: IntArray = (mix(key[rows] + np.uint64(self.seed)) % np.uint64(k)).astype(np.int64)
            return hashed

        return fabric.segments(src, dst, pick)
