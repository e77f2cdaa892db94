"""The most frequent ids, whose rows are on every worker.

Which these are is settled before training, by counting ids in the first global batches: every worker reads them and
counts alike. What is frequent later and was not then is an ordinary row; training is the same whichever rows are hot.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from des_ref.data.batch import Batch


def hottest(batches: Iterable[Batch], count: int) -> Tensor:
    """The `count` most frequent ids of these batches, int64, sorted; fewer if they have no more. Of equally frequent
    ones the smaller ids."""
    ids = [batch.ids for batch in batches]
    unique, times = torch.unique(torch.cat(ids), return_counts=True) if ids else (torch.empty(0).long(),) * 2
    return unique[torch.argsort(times, descending=True, stable=True)[:count]].sort().values


@dataclass(frozen=True, slots=True)
class HotRows:
    """`ids` int64 [H], sorted."""

    ids: Tensor

    def __len__(self) -> int:
        return len(self.ids)

    def find(self, ids: Tensor) -> Tensor:
        """Places of ids [n] among the hot ones, -1 where there is none."""
        if not len(self.ids):
            return torch.full_like(ids, -1)
        place = torch.searchsorted(self.ids, ids).clamp_max(len(self.ids) - 1)
        return torch.where(self.ids[place] == ids, place, -1)
