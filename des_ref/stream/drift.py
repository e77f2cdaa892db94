"""Rows that are made as they are asked for, without end: Zipf ids that appear and vanish, and a teacher's labels.

Each field has a vocabulary of fixed size, and an id's frequency follows from its rank r in it, ~ (r + 1)**-skew. What
drifts is who has a rank: each id lives for `life` rows, then another one, never seen before, takes its place. Ranks
change hands at different times, spread evenly, so that frequencies look the same at any time. The teacher is as in
data/synthetic.py: what was learnt of an id is worth nothing for the one that takes its place.

Row i is a function of (seed, i), whoever makes it: workers make their own, and a run goes on at any row.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from des_ref.data.batch import Batch
from des_ref.embedding.init import normal_rows
from des_ref.hashing import GOLDEN, feature_id, mix64, mix64_int, uniform
from dessim.workload.model import Model

_TEACHER = 7919  # keeps the teacher's weights apart from the initial rows, which hash the same ids
_MOST_IDS = 64  # in a bag


@dataclass(frozen=True, slots=True)
class Drift:
    """`ids_per_field` ids a field on average: at least one, the rest geometric (at most 64), where it is above 1.
    `life` in rows; None: for ever."""

    fields: int
    ids_per_field: float
    vocabulary: int  # of each field
    skew: float
    seed: int
    life: int | None

    @classmethod
    def of(cls, model: Model, seed: int, life: int | None) -> Drift:
        shape = model.input
        vocabulary = max(int(shape.vocabulary / shape.fields), 1)
        return cls(shape.fields, shape.ids_per_sample / shape.fields, vocabulary, shape.skew, seed, life)

    def batch(self, first: int, rows: int) -> Batch:
        """Rows first, first + 1, ..."""
        start = mix64(torch.arange(first, first + rows) ^ mix64_int(self.seed))  # [rows], a stream of words each
        bag = mix64(start[:, None] + torch.arange(1, self.fields + 1) * GOLDEN).view(-1)
        sample, field = torch.arange(rows).repeat_interleave(self.fields), torch.arange(self.fields).repeat(rows)
        if self.ids_per_field > 1:
            sizes = self._sizes(uniform(mix64(bag)))
            bag, sample, field = (x.repeat_interleave(sizes) for x in (bag, sample, field))
            within = torch.arange(len(bag)) - (sizes.cumsum(0) - sizes).repeat_interleave(sizes)
            bag = mix64(bag + (within + 1) * GOLDEN)
        ids = feature_id(field, self._values(uniform(bag), field, first + sample))
        chance = torch.sigmoid(torch.zeros(rows, dtype=torch.float64).index_add_(0, sample, self._weights(ids)))
        labels = (uniform(mix64(start - GOLDEN)) < chance).to(torch.float32)
        return Batch(ids, sample, field, labels)

    def _sizes(self, u: Tensor) -> Tensor:
        """Geometric, by inversion: P(size > k) = (1 - 1 / mean)**k."""
        return (1 + (u.log() / math.log1p(-1 / self.ids_per_field)).floor()).clamp_max(_MOST_IDS).to(torch.int64)

    def _values(self, u: Tensor, field: Tensor, row: Tensor) -> Tensor:
        """Raw values: who has the rank that `u` in (0, 1) draws, at the time of each row."""
        rank = zipf_ranks(u, self.vocabulary, self.skew)
        if self.life is None:
            return rank
        hands_over = (mix64(rank * self.fields + field) & (2**62 - 1)) % self.life
        return rank + torch.div(row + hands_over, self.life, rounding_mode="floor") * self.vocabulary

    def _weights(self, ids: Tensor) -> Tensor:
        """The teacher's: a row's sum has a deviation of 2."""
        std = 2 / (self.fields * self.ids_per_field) ** 0.5
        return normal_rows(ids, 1, self.seed + _TEACHER, std, torch.float64)[:, 0]


def zipf_ranks(u: Tensor, vocabulary: int, skew: float) -> Tensor:
    """Ranks 0 .. vocabulary - 1 by inverting the cumulative distribution of x**-skew on [1, vocabulary + 1)."""
    if abs(skew - 1) < 1e-9:
        ranks = (vocabulary + 1) ** u
    else:
        power = 1 - skew
        ranks = (1 + u * ((vocabulary + 1) ** power - 1)) ** (1 / power)
    return (ranks.to(torch.int64) - 1).clamp_max_(vocabulary - 1)
