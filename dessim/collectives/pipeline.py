"""Pipelines: data cut into chunks that follow each other along fixed edges, as in a chain or a tree.

An edge sends its first chunk in stage `start` and the next one in each stage after it, until it has sent all. While the
same edges are busy, stages are equal and are solved once: a pipeline of c chunks over depth d has c + d - 1 stages, but
only about 2 d different ones: it fills, runs steadily, and drains.

A stage is as long as its slowest edge. Left out: that on unequal links a real pipeline lets fast edges run ahead.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from dessim.cluster.routing.trees import Trees
from dessim.collectives.schedule import Bools, Carries, Ints, Stage

MESSAGE_SIZE = 512 * 1024
"""Bytes: NCCL's Simple protocol moves slices of NCCL_BUFFSIZE / NCCL_STEPS = 4 MiB / 8 (NCCL src/include/comm.h)."""


def chunks_for(size: float, lanes: int, chunks: int | None = None) -> int:
    """How many chunks each of `lanes` equal parts of S is cut into: as asked for, else as few as keep messages within
    512 KiB; at least one."""
    return max(1, chunks if chunks is not None else int(np.ceil(size / lanes / MESSAGE_SIZE)))


@dataclass(frozen=True, slots=True)
class Edges:
    """Who sends to whom: `src`, `dst` [m], or `trees`, as in `Stage`; from stage `start` [m] on.

    Chunk k of edge i is piece `lane[i] * chunks + k` of the data; `reduce` [m] says whether the receiver adds.
    """

    src: Ints
    dst: Ints
    start: Ints
    lane: Ints
    reduce: Bools
    trees: Trees | None = None

    @classmethod
    def join(cls, *parts: Edges) -> Edges:
        """All edges together; either all parts have trees or none."""
        trees = [part.trees for part in parts if part.trees is not None]
        return cls(
            np.concatenate([part.src for part in parts]),
            np.concatenate([part.dst for part in parts]),
            np.concatenate([part.start for part in parts]),
            np.concatenate([part.lane for part in parts]),
            np.concatenate([part.reduce for part in parts]),
            Trees.join(*trees) if trees else None,
        )


def pipelined(name: tuple[object, ...], edges: Edges, size: float, lanes: int, chunks: int) -> Iterator[Stage]:
    """The stages of S = `size` bytes in `lanes` x `chunks` pieces, one a message. `name` tells the edges apart."""
    if not len(edges.start):
        return
    starts = np.unique(edges.start)
    changes = np.unique(np.concatenate([starts, starts + chunks])).tolist()
    piece = size / lanes / chunks
    for begin, end in itertools.pairwise(changes):
        busy = np.flatnonzero((edges.start <= begin) & (edges.start > begin - chunks))
        if not len(busy):
            continue
        first, last = int(edges.start[busy].min()), int(edges.start[busy].max())
        yield Stage(
            pattern=(*name, first, last),
            src=edges.src[busy],
            dst=edges.dst[busy],
            size=np.full(len(busy), piece),
            repeat=end - begin,
            reduce=edges.reduce[busy],
            carries=_carries(edges.lane[busy] * chunks + begin - edges.start[busy]),
            pieces=lanes * chunks,
            trees=edges.trees.take(busy) if edges.trees is not None else None,
        )


def _carries(first: Ints) -> Carries:
    return lambda repetition: [[piece + repetition] for piece in first.tolist()]
