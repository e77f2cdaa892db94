"""Generates rows without end: Zipf ids that appear and vanish, and labels from a hidden teacher.

Each field has a vocabulary of fixed size; the frequency of an id follows from its rank r in it, ~ (r + 1)**-skew. The
ids behind the ranks drift: each id lives for `life` rows, then a new id, never seen before, takes its rank. Ranks
change hands at different times, spread evenly, so that frequencies are the same at any time. The teacher is that of
data/synthetic.py, and so is the law of dense features; a model's knowledge of an id says nothing about the id that
replaces it.

Row i is a function of (seed, i): workers generate their own rows, and a run can resume at any row.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from des_ref.data.batch import Batch
from des_ref.data.synthetic import TEACHER, dense_logits
from des_ref.embedding.init import normal_rows
from des_ref.hashing import GOLDEN, feature_id, mix64, mix64_int, uniform
from dessim.workload.model import Model

_MAX_IDS_PER_FIELD = 64


@dataclass(frozen=True, slots=True)
class Drift:
    """A generator of rows.

    ids_per_field  mean number of ids per field: one, or a geometric number (at most 64) if it is above 1
    vocabulary     size of each field's vocabulary
    life           rows for which an id lives; None: for ever
    dense          number of dense features
    """

    fields: int
    ids_per_field: float
    vocabulary: int
    skew: float
    seed: int
    life: int | None
    dense: int = 0

    @classmethod
    def of(cls, model: Model, seed: int, life: int | None) -> Drift:
        """Rows in the shape of a model's input. The fields share the model's vocabulary equally."""
        shape = model.input
        vocabulary = max(int(shape.vocabulary / shape.fields), 1)
        law = (shape.fields, shape.ids_per_sample / shape.fields, vocabulary, shape.skew)
        return cls(*law, seed, life, model.dense_features)

    def batch(self, first: int, rows: int) -> Batch:
        """The rows first, first + 1, ..., first + rows - 1."""
        start = mix64(torch.arange(first, first + rows) ^ mix64_int(self.seed))  # [rows], seeds of the rows
        words = mix64(start[:, None] + torch.arange(1, self.fields + 1) * GOLDEN).view(-1)  # one per (row, field)
        sample = torch.arange(rows).repeat_interleave(self.fields)
        field = torch.arange(self.fields).repeat(rows)
        if self.ids_per_field > 1:
            sizes = self._sizes(uniform(mix64(words)))
            words, sample, field = (x.repeat_interleave(sizes) for x in (words, sample, field))
            within = torch.arange(len(words)) - (sizes.cumsum(0) - sizes).repeat_interleave(sizes)
            words = mix64(words + (within + 1) * GOLDEN)
        ids = feature_id(field, self._values(uniform(words), field, first + sample))
        logits = torch.zeros(rows, dtype=torch.float64).index_add_(0, sample, self._weights(ids))
        dense = self._dense(start) if self.dense else None
        if dense is not None:
            logits += dense_logits(dense, self.fields, self.seed)
        labels = (uniform(mix64(start - GOLDEN)) < torch.sigmoid(logits)).to(torch.float32)
        return Batch(ids, sample, field, labels, dense=dense)

    def _dense(self, start: Tensor) -> Tensor:
        """Dense features [rows, d] from the seeds [rows] of the rows, exponential by inversion."""
        words = mix64(start[:, None] + torch.arange(self.fields + 1, self.fields + 1 + self.dense) * GOLDEN)
        return -uniform(mix64(words)).log().to(torch.float32)

    def _sizes(self, u: Tensor) -> Tensor:
        """Numbers of ids, geometric by inversion: P(size > k) = (1 - 1 / mean)**k."""
        sizes = 1 + (u.log() / math.log1p(-1 / self.ids_per_field)).floor()
        return sizes.clamp_max(_MAX_IDS_PER_FIELD).to(torch.int64)

    def _values(self, u: Tensor, field: Tensor, row: Tensor) -> Tensor:
        """Raw values: the id that holds, at the time of each row, the rank that `u` in (0, 1) draws."""
        rank = zipf_ranks(u, self.vocabulary, self.skew)
        if self.life is None:
            return rank
        phase = (mix64(rank * self.fields + field) & (2**62 - 1)) % self.life  # when this rank changes hands
        return rank + torch.div(row + phase, self.life, rounding_mode="floor") * self.vocabulary

    def _weights(self, ids: Tensor) -> Tensor:
        """The teacher's weights, scaled so that the sum over a row has a standard deviation of 2."""
        std = 2 / (self.fields * self.ids_per_field) ** 0.5
        return normal_rows(ids, 1, self.seed + TEACHER, std, torch.float64)[:, 0]


def zipf_ranks(u: Tensor, vocabulary: int, skew: float) -> Tensor:
    """Ranks 0 .. vocabulary - 1 by inverting the cumulative distribution of x**-skew on [1, vocabulary + 1)."""
    if abs(skew - 1) < 1e-9:
        ranks = (vocabulary + 1) ** u
    else:
        power = 1 - skew
        ranks = (1 + u * ((vocabulary + 1) ** power - 1)) ** (1 / power)
    return (ranks.to(torch.int64) - 1).clamp_max_(vocabulary - 1)
