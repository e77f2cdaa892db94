"""Synthetic clicks with a planted teacher: Zipf ids whose hidden weights decide the label.

Sample i, field f draws its ids from a vocabulary of its own by Zipf's law: rank r with probability ~ r**-skew, by
inverting the law's continuous approximation. The teacher gives each id a weight from (seed, id) and draws the label
with probability sigmoid(scale * sum of weights + bias), so a model can learn, and the best AUC is well below 1.

Deterministic by (seed, sample): the data do not depend on how they are read.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from des_ref.data.batch import Examples, InMemory, split
from des_ref.embedding.init import normal_rows
from des_ref.hashing import feature_id

_TEACHER = 7919  # keeps the teacher's weights apart from the initial rows, which hash the same ids


@dataclass(frozen=True, slots=True)
class Zipf:
    """`ids_per_field` ids a field on average: at least one, the rest geometric, when it is above 1 (multi-hot)."""

    fields: int
    ids_per_field: float = 1.0
    vocabulary: float = 1e5  # over all fields
    skew: float = 1.05
    seed: int = 0
    teacher_scale: float = 1.0

    def examples(self, samples: int, part: int = 0) -> Examples:
        """`samples` samples; another `part` gives other samples of the same teacher."""
        rng = np.random.default_rng((self.seed, part))
        bags = np.ones((samples, self.fields), dtype=np.int64)
        if self.ids_per_field > 1:
            bags = rng.geometric(1 / self.ids_per_field, size=bags.shape)
        counts = bags.reshape(-1)
        n = int(counts.sum())
        field = np.repeat(np.tile(np.arange(self.fields), samples), counts)
        raw = _zipf_ranks(rng.random(n), max(self.vocabulary / self.fields, 1.0), self.skew)
        ids = feature_id(torch.from_numpy(field), torch.from_numpy(raw))
        offsets = torch.from_numpy(np.concatenate([[0], bags.sum(axis=1).cumsum()]))
        labels = self._labels(ids, offsets, rng)
        return Examples(ids, torch.from_numpy(field), offsets, labels)

    def _labels(self, ids: torch.Tensor, offsets: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
        std = self.teacher_scale / (self.fields * self.ids_per_field) ** 0.5
        weights = normal_rows(ids, 1, self.seed + _TEACHER, std * 2, torch.float64)[:, 0]
        sums = torch.cat([torch.zeros(1, dtype=torch.float64), weights.cumsum(0)])
        logits = (sums[offsets[1:]] - sums[offsets[:-1]]).numpy()
        return torch.from_numpy((rng.random(len(logits)) < 1 / (1 + np.exp(-logits))).astype(np.float32))

    def open(self, samples: int) -> InMemory:
        """A source of `samples` samples, 80/10/10."""
        return split(self.examples(samples), torch.arange(samples), self.seed)


def _zipf_ranks(uniform: np.ndarray, vocabulary: float, skew: float) -> np.ndarray:
    """Ranks 0 .. vocabulary - 1 by inverting the cumulative distribution of x**-skew on [1, vocabulary + 1)."""
    if abs(skew - 1) < 1e-9:
        ranks = (vocabulary + 1) ** uniform
    else:
        power = 1 - skew
        ranks = (1 + uniform * ((vocabulary + 1) ** power - 1)) ** (1 / power)
    return np.minimum(ranks.astype(np.int64) - 1, int(vocabulary) - 1)
