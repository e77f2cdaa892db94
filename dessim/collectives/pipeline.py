"""Pipelines: data cut into chunks that follow each other along fixed edges, as in a chain or a tree.

An edge sends its first chunk in stage `start` and one more in each following stage, until it has sent all. Stages in
which the same edges are busy are equal and are solved once: a pipeline of c chunks over depth d fills, runs steadily
and drains in c + d - 1 stages, of which only about 2 d are different.

A stage takes as long as its slowest edge. Left out: in a real pipeline over unequal links, fast edges run ahead.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from dessim.arrays import Bools, Ints
from dessim.cluster.routing.trees import Trees
from dessim.collectives.schedule import Carries, Stage

MESSAGE_SIZE = 512 * 1024
"""Bytes: NCCL's Simple protocol moves slices of NCCL_BUFFSIZE / NCCL_STEPS = 4 MiB / 8 (NCCL src/include/comm.h)."""


CHUNK_COUNTS = tuple(2**power for power in range(13))
"""The numbers of chunks from which the fastest is chosen where the caller gives none.

NCCL halves its chunk until a collective has several chunks for each hop of its tree, by constants fitted to its GPUs
(NCCL src/enqueue.cc, calcCollChunking). The rule behind these constants, to take the fastest number, also suits other
links. Each number's time grows with the size, and so does the smallest of these times.
"""


def chunks_for(size: float, lanes: int, chunks: int | None = None) -> int:
    """The number of chunks that each of `lanes` equal parts of `size` bytes is cut into; at least one.

    It is `chunks` if given, else the smallest number that keeps messages within 512 KiB.
    """
    return max(1, chunks if chunks is not None else int(np.ceil(size / lanes / MESSAGE_SIZE)))


@dataclass(frozen=True, slots=True)
class Edges:
    """m edges of a pipeline: senders `src` and receivers `dst` [m], or `trees`, as in `Stage`.

    Edge i sends its first chunk in stage `start[i]`. Its chunk k is piece `lane[i] * chunks + k` of the data. `reduce`
    [m] says whether the receiver adds the chunk to its own.
    """

    src: Ints
    dst: Ints
    start: Ints
    lane: Ints
    reduce: Bools
    trees: Trees | None = None

    @classmethod
    def join(cls, *sets: Edges) -> Edges:
        """The union of several sets of edges, which either all have trees or all have none."""
        trees = [edges.trees for edges in sets if edges.trees is not None]
        return cls(
            src=np.concatenate([edges.src for edges in sets]),
            dst=np.concatenate([edges.dst for edges in sets]),
            start=np.concatenate([edges.start for edges in sets]),
            lane=np.concatenate([edges.lane for edges in sets]),
            reduce=np.concatenate([edges.reduce for edges in sets]),
            trees=Trees.join(*trees) if trees else None,
        )


def pipelined(name: tuple[object, ...], edges: Edges, size: float, lanes: int, chunks: int) -> Iterator[Stage]:
    """The stages that send `size` bytes along `edges`, in `lanes` * `chunks` pieces, one per message.

    `name` must identify the edges: stages are recognised as equal by it.
    """
    if not len(edges.start):
        return
    starts = np.unique(edges.start)
    changes = np.unique(np.concatenate([starts, starts + chunks])).tolist()
    piece = size / lanes / chunks
    for begin, end in itertools.pairwise(changes):
        busy = np.flatnonzero((edges.start <= begin) & (edges.start > begin - chunks))
        if not len(busy):
            continue
        first = int(edges.start[busy].min())
        last = int(edges.start[busy].max())
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
