"""Assigns the samples of a global batch to workers: each to one that owns most of its rows, the same number to each.

Every worker reads the whole batch and computes the same result, because all of it is integer arithmetic on the CPU. An
id weighs 1 / (its occurrences in the batch): an id that occurs in many samples is needed everywhere in any case.

Greedy: in each round, every remaining sample prefers the open worker with the highest score, and samples that would
lose most by their second choice choose first. A worker with its full share is closed. Herald (Zeng et al., NSDI 2024)
solves the same problem with another heuristic.
"""

from __future__ import annotations

import torch
from torch import Tensor

from des_ref.data.batch import Batch

_UNIT_WEIGHT = 1 << 20  # weight of an id that occurs once


def assign_samples(whole: Batch, owner: Tensor, workers: int) -> Tensor:
    """int64 [B]: the worker of each sample.

    `owner` [n] is the worker that has the row of each occurrence; -1 if all workers have it.
    """
    _, inverse, times = torch.unique(whole.ids, return_inverse=True, return_counts=True)
    weight = torch.where(owner < 0, 0, torch.div(_UNIT_WEIGHT, times, rounding_mode="floor")[inverse])
    score = torch.zeros(len(whole) * workers, dtype=torch.int64)
    score.index_add_(0, whole.sample * workers + owner.clamp_min(0), weight)
    return _balanced_assignment(score.view(len(whole), workers), len(whole) // workers)


def samples_of(whole: Batch, worker: Tensor, rank: int) -> Batch:
    """The samples that `worker` [B] assigns to `rank`, in their order, with their places in the global batch."""
    place = (worker == rank).nonzero().squeeze(1)
    new_number = torch.full((len(whole),), -1, dtype=torch.int64)
    new_number[place] = torch.arange(len(place))
    mine = new_number[whole.sample] >= 0
    dense = None if whole.dense is None else whole.dense[place]
    return Batch(
        whole.ids[mine],
        new_number[whole.sample[mine]],
        whole.field[mine],
        whole.labels[place],
        place=place,
        dense=dense,
    )


def _balanced_assignment(score: Tensor, share: int) -> Tensor:
    """[B]: the worker of each of B = N * share samples, from scores [B, N]."""
    samples, workers = score.shape
    chosen = torch.full((samples,), -1, dtype=torch.int64)
    room = [share] * workers
    while len(unassigned := (chosen < 0).nonzero().squeeze(1)):
        is_open = torch.tensor([free > 0 for free in room])
        best, favourite = score[unassigned].masked_fill(~is_open, -1).max(dim=1)
        second = score[unassigned].masked_fill(~is_open, -1).scatter(1, favourite[:, None], -1).max(dim=1).values
        order = torch.argsort(best - second, descending=True, stable=True)
        # The loop ends: each round fills at least one worker.
        for worker in is_open.nonzero().squeeze(1).tolist():
            taken = unassigned[order[favourite[order] == worker][: room[worker]]]
            chosen[taken] = worker
            room[worker] -= len(taken)
    return chosen
