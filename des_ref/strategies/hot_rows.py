"""Hot rows: the most frequent ids, whose rows every worker keeps.

They are chosen before training by counting ids in the first global batches; every worker counts the same batches and
gets the same result. An id that becomes frequent later is an ordinary row. Training gives the same result whichever
rows are hot.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from des_ref.data.batch import Batch


def hottest(batches: Iterable[Batch], count: int) -> Tensor:
    """int64, sorted: the `count` most frequent ids of these batches, or all if there are fewer; ties to smaller ids."""
    ids = [batch.ids for batch in batches]
    if not ids:
        return torch.empty(0, dtype=torch.int64)
    unique, times = torch.unique(torch.cat(ids), return_counts=True)
    return unique[torch.argsort(times, descending=True, stable=True)[:count]].sort().values


@dataclass(frozen=True, slots=True)
class HotRows:
    """The hot `ids`, int64 [H], sorted."""

    ids: Tensor

    def __len__(self) -> int:
        return len(self.ids)

    def find(self, ids: Tensor) -> Tensor:
        """int64 [n]: places of `ids` [n] among the hot ones, -1 for those that are not hot."""
        if not len(self.ids):
            return torch.full_like(ids, -1)
        place = torch.searchsorted(self.ids, ids).clamp_max(len(self.ids) - 1)
        return torch.where(self.ids[place] == ids, place, -1)
