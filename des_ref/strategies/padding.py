"""Padding: all_gather and reduce_scatter need equal shares, so each worker pads its lines to the largest number of any.

Counts are sent first, to identify the padding.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as nnf
from torch import Tensor

from des_ref.comm import Comm


@dataclass(frozen=True, slots=True)
class PaddedIds:
    """Ids of all workers, int64 [N * most], `most` of each; `is_real` bool [N * most]: those that are not padding."""

    ids: Tensor
    is_real: Tensor
    most: int


def gather_ids(own: Tensor, comm: Comm) -> PaddedIds:
    """The ids `own` of every worker, in the AllGathers `row_counts` and `row_ids`."""
    counts = own.new_empty(comm.world_size)
    comm.all_gather("row_counts", counts, own.new_full((1,), len(own))).wait()
    most = int(counts.max())
    ids = own.new_empty(comm.world_size * most)
    comm.all_gather("row_ids", ids, padded(own, most)).wait()
    return PaddedIds(ids, is_real(counts, most), most)


def padded(message: Tensor, lines: int) -> Tensor:
    """`message` [n, ..] with zeros up to `lines`."""
    return nnf.pad(message, (*(0, 0) * (message.dim() - 1), 0, lines - len(message)))


def is_real(counts: Tensor, most: int) -> Tensor:
    """bool [N * most]: which lines are not padding, if worker r has `counts[r]` of them."""
    return (torch.arange(most, device=counts.device) < counts[:, None]).view(-1)
