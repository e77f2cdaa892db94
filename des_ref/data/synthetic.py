"""Synthetic clicks with a planted teacher: ids follow Zipf's law, and their hidden weights decide the label.

Each field has its own vocabulary, from which sample i draws its ids: rank r with probability ~ r**-skew, by inverting
the continuous approximation of Zipf's law. The teacher gives each id a weight from (seed, id) and draws the label with
probability sigmoid(scale * sum of weights + bias), so a model can learn, and the best AUC is well below 1.

The data depend on (seed, sample) only, not on how they are read.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from des_ref.data.batch import Examples, InMemory, split
from des_ref.embedding.init import normal_rows
from des_ref.hashing import feature_id

_TEACHER = 7919  # added to the seed, so that the teacher's weights differ from initial rows, which hash the same ids


@dataclass(frozen=True, slots=True)
class Zipf:
    """A generator of samples.

    A field has one id; if `ids_per_field` is above 1 (multi-hot), a geometric number of ids with that mean.
    """

    fields: int
    ids_per_field: float = 1.0
    vocabulary: float = 1e5  # over all fields
    skew: float = 1.05
    seed: int = 0
    teacher_scale: float = 1.0

    def examples(self, samples: int, part: int = 0) -> Examples:
        """`samples` samples. Another `part` gives other samples with the same teacher."""
        rng = np.random.default_rng((self.seed, part))
        sizes = np.ones((samples, self.fields), dtype=np.int64)
        if self.ids_per_field > 1:
            sizes = rng.geometric(1 / self.ids_per_field, size=sizes.shape)
        counts = sizes.reshape(-1)
        n = int(counts.sum())
        field = np.repeat(np.tile(np.arange(self.fields), samples), counts)
        raw = _zipf_ranks(rng.random(n), max(self.vocabulary / self.fields, 1.0), self.skew)
        ids = feature_id(torch.from_numpy(field), torch.from_numpy(raw))
        offsets = torch.from_numpy(np.concatenate([[0], sizes.sum(axis=1).cumsum()]))
        labels = self._labels(ids, offsets, rng)
        return Examples(ids, torch.from_numpy(field), offsets, labels)

    def _labels(self, ids: torch.Tensor, offsets: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
        std = self.teacher_scale / (self.fields * self.ids_per_field) ** 0.5
        weights = normal_rows(ids, 1, self.seed + _TEACHER, std * 2, torch.float64)[:, 0]
        sums = torch.cat([torch.zeros(1, dtype=torch.float64), weights.cumsum(0)])
        logits = (sums[offsets[1:]] - sums[offsets[:-1]]).numpy()
        return torch.from_numpy((rng.random(len(logits)) < 1 / (1 + np.exp(-logits))).astype(np.float32))

    def open(self, samples: int) -> InMemory:
        """A source of `samples` samples, split 80/10/10."""
        return split(self.examples(samples), torch.arange(samples), self.seed)


def _zipf_ranks(uniform: np.ndarray, vocabulary: float, skew: float) -> np.ndarray:
    """Ranks 0 .. vocabulary - 1 by inverting the cumulative distribution of x**-skew on [1, vocabulary + 1)."""
    if abs(skew - 1) < 1e-9:
        ranks = (vocabulary + 1) ** uniform
    else:
        power = 1 - skew
        ranks = (1 + uniform * ((vocabulary + 1) ** power - 1)) ** (1 / power)
    return np.minimum(ranks.astype(np.int64) - 1, int(vocabulary) - 1)
