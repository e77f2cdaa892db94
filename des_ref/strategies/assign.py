"""Samples of a global batch dealt out to workers, each to one that has most of its rows, equally many to each.

Every worker reads the whole batch and comes to the same result: all of it is integer arithmetic, on the CPU. An id
weighs 1 / (its occurrences in the batch), because an id that many samples have is needed everywhere in any case.

Greedy: of the samples that are left, those that would lose most by their second choice choose first; a worker that has
its share is closed. Herald (Zeng et al., NSDI 2024) solves the same problem with a heuristic of its own.
"""

from __future__ import annotations

import torch
from torch import Tensor

from des_ref.data.batch import Batch

_ONE = 1 << 20  # weight of an id that occurs once


def assign(whole: Batch, owner: Tensor, workers: int) -> Tensor:
    """The worker of each sample, int64 [B]. `owner` [n] is the worker that has the row of each occurrence; -1: all."""
    _, inverse, times = torch.unique(whole.ids, return_inverse=True, return_counts=True)
    weight = torch.where(owner < 0, 0, torch.div(_ONE, times, rounding_mode="floor")[inverse])
    score = torch.zeros(len(whole) * workers, dtype=torch.int64)
    score.index_add_(0, whole.sample * workers + owner.clamp_min(0), weight)
    return _dealt(score.view(len(whole), workers), len(whole) // workers)


def share_of(whole: Batch, worker: Tensor, rank: int) -> Batch:
    """The samples that are `rank`'s, in their order, with their places in the batch."""
    place = (worker == rank).nonzero().squeeze(1)
    new = torch.full((len(whole),), -1, dtype=torch.int64)
    new[place] = torch.arange(len(place))
    mine = new[whole.sample] >= 0
    return Batch(whole.ids[mine], new[whole.sample[mine]], whole.field[mine], whole.labels[place], place)


def _dealt(score: Tensor, share: int) -> Tensor:
    """[B] from scores [B, N] of B = N * share samples."""
    samples, workers = score.shape
    chosen = torch.full((samples,), -1, dtype=torch.int64)
    room = [share] * workers
    while len(left := (chosen < 0).nonzero().squeeze(1)):
        is_open = torch.tensor([free > 0 for free in room])
        best, first = score[left].masked_fill(~is_open, -1).max(dim=1)
        second = score[left].masked_fill(~is_open, -1).scatter(1, first[:, None], -1).max(dim=1).values
        # At least one worker is full after each round.
        order = torch.argsort(best - second, descending=True, stable=True)
        for worker in is_open.nonzero().squeeze(1).tolist():
            taken = left[order[first[order] == worker][: room[worker]]]
            chosen[taken] = worker
            room[worker] -= len(taken)
    return chosen
