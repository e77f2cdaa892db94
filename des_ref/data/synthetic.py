"""Synthetic clicks with a planted teacher: ids follow Zipf's law, and their hidden weights decide the label.

Each field has its own vocabulary, from which sample i draws its ids: rank r with probability ~ r**-skew, by inverting
the continuous approximation of Zipf's law. Unequal tables (version 2 of model files) have their own sizes, skews and
offsets, and follow the law itself. Dense features are exponential with mean 1, like the logarithm of a count. The
teacher gives each id and each dense feature a weight from (seed, id) and draws the label with probability
sigmoid(scale * sum of weights + bias), so a model can learn, and the best AUC is well below 1.

The data depend on (seed, sample) only, not on how they are read.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from des_ref.data.batch import Examples, InMemory, split
from des_ref.embedding.init import normal_rows
from des_ref.hashing import feature_id
from dessim.workload.model import Model
from dessim.workload.model_sections import Table

_EXACT_RANKS = 64  # of a table; beyond, the continuous approximation differs by less than 1e-4
TEACHER = 7919  # added to the seed, so that the teacher's weights differ from initial rows, which hash the same ids


@dataclass(frozen=True, slots=True)
class Zipf:
    """A generator of samples.

    A field has one id; if `ids_per_field` is above 1 (multi-hot), a geometric number of ids with that mean. With
    `tables`, one for each field, these give the ids a sample, the vocabulary and the skew of their fields.
    """

    fields: int
    ids_per_field: float = 1.0
    vocabulary: float = 1e5  # over all fields
    skew: float = 1.05
    seed: int = 0
    teacher_scale: float = 1.0
    tables: tuple[Table, ...] = ()
    dense: int = 0  # dense features of a sample

    @classmethod
    def of(cls, model: Model, seed: int) -> Zipf:
        """The generator of the samples that a model file describes."""
        shape = model.input
        per_field = shape.ids_per_sample / shape.fields
        law = (shape.fields, per_field, shape.vocabulary, shape.skew)
        return cls(*law, seed, tables=model.tables, dense=model.dense_features)

    def examples(self, samples: int, part: int = 0) -> Examples:
        """`samples` samples. Another `part` gives other samples with the same teacher."""
        rng = np.random.default_rng((self.seed, part))
        sizes = self._sizes(samples, rng)
        counts = sizes.reshape(-1)
        n = int(counts.sum())
        field = np.repeat(np.tile(np.arange(self.fields), samples), counts)
        uniform = rng.random(n)
        if self.tables:
            raw = np.zeros(n, dtype=np.int64)
            for number, table in enumerate(self.tables):
                of_table = field == number
                raw[of_table] = _table_ranks(uniform[of_table], table)
        else:
            raw = _zipf_ranks(uniform, max(self.vocabulary / self.fields, 1.0), self.skew)
        ids = feature_id(torch.from_numpy(field), torch.from_numpy(raw))
        offsets = torch.from_numpy(np.concatenate([[0], sizes.sum(axis=1).cumsum()]))
        dense = torch.from_numpy(rng.standard_exponential((samples, self.dense), np.float32)) if self.dense else None
        labels = self._labels(ids, offsets, dense, rng)
        return Examples(ids, torch.from_numpy(field), offsets, labels, dense)

    def _sizes(self, samples: int, rng: np.random.Generator) -> np.ndarray:
        """The number of ids of each sample and field [samples, fields]."""
        if self.tables:
            means = [table.ids for table in self.tables]
            columns = [
                rng.geometric(1 / mean, size=samples) if mean > 1 else (rng.random(samples) < mean).astype(np.int64)
                for mean in means
            ]
            return np.stack(columns, axis=1)
        sizes = np.ones((samples, self.fields), dtype=np.int64)
        return rng.geometric(1 / self.ids_per_field, size=sizes.shape) if self.ids_per_field > 1 else sizes

    def _labels(
        self, ids: torch.Tensor, offsets: torch.Tensor, dense: torch.Tensor | None, rng: np.random.Generator
    ) -> torch.Tensor:
        std = self.teacher_scale / (self.fields * self.ids_per_field) ** 0.5
        weights = normal_rows(ids, 1, self.seed + TEACHER, std * 2, torch.float64)[:, 0]
        sums = torch.cat([torch.zeros(1, dtype=torch.float64), weights.cumsum(0)])
        of_samples = sums[offsets[1:]] - sums[offsets[:-1]]
        if dense is not None:
            of_samples += dense_logits(dense, self.fields, self.seed, self.teacher_scale)
        logits = of_samples.numpy()
        return torch.from_numpy((rng.random(len(logits)) < 1 / (1 + np.exp(-logits))).astype(np.float32))

    def open(self, samples: int) -> InMemory:
        """A source of `samples` samples, split 80/10/10."""
        return split(self.examples(samples), torch.arange(samples), self.seed)


def dense_logits(dense: torch.Tensor, fields: int, seed: int, scale: float = 1.0) -> torch.Tensor:
    """float64 [samples]: the teacher's sum over dense features [samples, d] of mean and variance 1.

    Its weights are those of the one id of d further fields.
    """
    count = dense.shape[1]
    ids = feature_id(torch.arange(fields, fields + count), torch.zeros(count, dtype=torch.int64))
    weights = normal_rows(ids, 1, seed + TEACHER, scale / count**0.5, torch.float64)[:, 0]
    return ((dense.to(torch.float64) - 1) * weights).sum(dim=1)


def _zipf_ranks(uniform: np.ndarray, vocabulary: float, skew: float) -> np.ndarray:
    """Ranks 0 .. vocabulary - 1 by inverting the cumulative distribution of x**-skew on [1, vocabulary + 1)."""
    if abs(skew - 1) < 1e-9:
        ranks = (vocabulary + 1) ** uniform
    else:
        power = 1 - skew
        ranks = (1 + uniform * ((vocabulary + 1) ** power - 1)) ** (1 / power)
    return np.minimum(ranks.astype(np.int64) - 1, int(vocabulary) - 1)


def _table_ranks(uniform: np.ndarray, table: Table) -> np.ndarray:
    """Ranks 0 .. rows - 1 of a table's ids: the most frequent by their probabilities, the others as `_zipf_ranks`."""
    if table.shares:
        upto = np.cumsum(table.shares)
        return np.minimum(np.searchsorted(upto, uniform * upto[-1], side="right"), len(upto) - 1).astype(np.int64)
    rows = int(table.rows)
    head = min(rows, _EXACT_RANKS)
    frequent = np.cumsum((np.arange(1.0, head + 1) + table.offset) ** -table.skew)
    power = 1 - table.skew
    low = head + 0.5 + table.offset
    high = rows + 0.5 + table.offset
    if abs(power) < 1e-9:
        rest = np.log(high / low)
    else:
        rest = (high**power - low**power) / power
    at = uniform * (frequent[-1] + rest)
    beyond = np.maximum(at - frequent[-1], 0.0)
    x = low * np.exp(beyond) if abs(power) < 1e-9 else (low**power + power * beyond) ** (1 / power)
    ranks = np.where(at < frequent[-1], np.searchsorted(frequent, at, side="right"), np.round(x - table.offset) - 1)
    return np.clip(ranks, 0, rows - 1).astype(np.int64)
