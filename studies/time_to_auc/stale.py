"""Trainings with gradients of older parameters, in one process: what a server does with the pushes of its workers.

    curves = train(data, settings, lags)

Update k is the gradient of batch k at the parameters as they were `lags[k]` updates earlier; lags of zero are
synchronous training. The model is a factorization machine with linear weights (dessim's operators `lr` and `fm`), whose
gradient is written out below; ids, initial rows and optimizers are the trainer's (des_ref). Several seeds are trained
at once, each on its own rows of one table. tests/studies/test_time_to_auc.py compares all of it with des_ref's
references, which the certificate uses as well.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse

from des_ref.data.batch import Examples, InMemory
from des_ref.embedding.init import normal_rows
from des_ref.embedding.optim import RowOptimizer
from des_ref.metrics import auc

INIT_STD = 0.01
Floats = NDArray[np.floating[Any]]
Ints = NDArray[np.int64]


@dataclass(slots=True)
class Columns:
    """Values and state by name, one row for each id of each seed, as an optimizer of des_ref updates them."""

    columns: dict[str, torch.Tensor]


@dataclass(frozen=True, slots=True)
class Local:
    """The samples of one batch for every seed: `ids` [u] distinct rows, `uses` [seeds * b, u] 1 where a sample has one.

    `used_by` is the transpose of `uses`.
    """

    ids: torch.Tensor
    uses: sparse.csr_matrix
    used_by: sparse.csr_matrix
    labels: Floats


@dataclass(frozen=True, slots=True)
class Data:
    """A split of a data set for several seeds, whose rows follow each other: seed s has the rows from s * `vocabulary`.

    `train` is [samples * 1, V] with ones; `held_out` has the validation samples, then those of the test.
    """

    seeds: tuple[int, ...]
    ids: torch.Tensor
    train: sparse.csr_matrix
    labels: Floats
    held_out: sparse.csr_matrix
    held_out_labels: Floats
    validation: int
    _kept: dict[tuple[int, int], list[Local]] = field(default_factory=dict)

    @classmethod
    def of(cls, source: InMemory, seeds: Sequence[int]) -> Data:
        """The samples of `source`."""
        held_out = Examples.concatenate([source.validation, source.test])
        ids = torch.unique(torch.cat([source.train.ids, held_out.ids]))
        return cls(
            seeds=tuple(seeds),
            ids=ids,
            train=_matrix(source.train, ids),
            labels=source.train.labels.numpy(),
            held_out=_matrix(held_out, ids),
            held_out_labels=held_out.labels.numpy(),
            validation=len(source.validation),
        )

    def batches(self, epoch: int, size: int) -> list[Local]:
        """The epoch's batches of `size` samples, in each seed's own order; an incomplete last batch is dropped."""
        if (epoch, size) not in self._kept:
            self._kept[epoch, size] = list(self._batches(epoch, size))
        return self._kept[epoch, size]

    def _batches(self, epoch: int, size: int) -> Iterator[Local]:
        n = self.train.shape[0]
        orders = [np.random.default_rng((seed, epoch)).permutation(n) for seed in self.seeds]
        vocabulary = len(self.ids)
        for first in range(0, n - size + 1, size):
            which = np.concatenate([order[first : first + size] for order in orders])
            mine = self.train[which]
            of_seed = np.repeat(np.arange(len(self.seeds)) * vocabulary, size)
            rows = mine.indices + np.repeat(of_seed, np.diff(mine.indptr))
            distinct, place = np.unique(rows, return_inverse=True)
            uses = sparse.csr_matrix(
                (mine.data, place.astype(np.int32), mine.indptr), shape=(len(which), len(distinct))
            )
            yield Local(torch.from_numpy(distinct.astype(np.int64)), uses, uses.T.tocsr(), self.labels[which])


def _matrix(examples: Examples, ids: torch.Tensor) -> sparse.csr_matrix:
    """[samples, V]: how often a sample has an id."""
    place = torch.searchsorted(ids, examples.ids).numpy()
    ones = np.ones(len(place), dtype=np.float32)
    return sparse.csr_matrix((ones, place, examples.offsets.numpy()), shape=(len(examples), len(ids)))


class Model:
    """A factorization machine for each seed: w and v of every row, and a bias, with the state of the optimizer."""

    def __init__(self, data: Data, optimizer: RowOptimizer, width: int, dtype: torch.dtype = torch.float32) -> None:
        self.n = len(data.seeds)
        self.width = width
        self._optimizer = optimizer
        rows = torch.cat([normal_rows(data.ids, 1 + width, seed, INIT_STD, dtype) for seed in data.seeds])
        self.rows = Columns({"w": rows[:, :1].clone(), "v": rows[:, 1:].clone()})
        self.bias = Columns({"bias": torch.zeros(self.n, 1, dtype=dtype)})
        for table in (self.rows, self.bias):
            state = optimizer.state({name: values.shape[1] for name, values in table.columns.items()})
            length = len(next(iter(table.columns.values())))
            table.columns |= {name: torch.zeros(length, width, dtype=dtype) for name, width in state.items()}

    def pull(self, batch: Local) -> tuple[Floats, Floats, Floats]:
        """w [u, 1], v [u, D] and the biases [seeds, 1] as they are now."""
        w, v = (self.rows.columns[name][batch.ids].numpy() for name in ("w", "v"))
        return w, v, self.bias.columns["bias"].numpy().copy()

    def push(self, batch: Local, pulled: tuple[Floats, Floats, Floats], workers: int = 1) -> None:
        """Apply the gradient of `batch` at `pulled`: the sum over `workers` equal parts of each part's mean."""
        w, v, bias = pulled
        uses = batch.uses
        sums = uses @ v  # [b, D]
        logits = (uses @ w)[:, 0] + 0.5 * ((sums**2).sum(axis=1) - uses @ (v**2).sum(axis=1))
        logits = logits.reshape(self.n, -1) + bias
        error = _sigmoid(logits) - batch.labels.reshape(self.n, -1)
        error = (error * (workers / error.shape[1])).astype(v.dtype)
        flat = error.reshape(-1, 1)
        grad_w = batch.used_by @ flat
        grads = {"w": torch.from_numpy(grad_w), "v": torch.from_numpy(batch.used_by @ (flat * sums) - grad_w * v)}
        self._optimizer.update(self.rows, batch.ids, grads)  # type: ignore[arg-type]
        grad_bias = torch.from_numpy(error.sum(axis=1, keepdims=True))
        self._optimizer.update(self.bias, torch.arange(self.n), {"bias": grad_bias})  # type: ignore[arg-type]

    def score(self, samples: sparse.csr_matrix) -> Floats:
        """Logits [samples, seeds]."""
        w = self.rows.columns["w"].numpy().reshape(self.n, -1).T
        v = self.rows.columns["v"].numpy().reshape(self.n, -1, self.width)
        squares = (v**2).sum(axis=2).T
        out = samples @ w - 0.5 * (samples @ squares) + self.bias.columns["bias"].numpy()[:, 0]
        for s in range(self.n):
            out[:, s] += 0.5 * ((samples @ v[s]) ** 2).sum(axis=1)
        return np.asarray(out)


def _sigmoid(x: Floats) -> Floats:
    return np.asarray(1.0 / (1.0 + np.exp(-np.clip(x, -60.0, 60.0))))


@dataclass(frozen=True, slots=True)
class Point:
    """AUCs of every seed after a part of the training: on the validation samples and on those of the test."""

    epochs: float
    validation: tuple[float, ...]
    test: tuple[float, ...]


def train(
    data: Data,
    model: Model,
    epochs: int,
    size: int,
    lags: Sequence[Sequence[int]] | None = None,
    workers: int = 1,
    parts: Sequence[float] = (),
) -> list[Point]:
    """Train for `epochs`, with batches of `size` samples, and score after each and after these `parts` of the first.

    Epoch e takes the lags of its updates from `lags[e]`, and begins again where the list ends; workers wait for each
    other at the end of an epoch. Without lags training is synchronous: a batch is that of `workers` workers together.
    """
    points = []
    for epoch in range(epochs):
        batches = data.batches(epoch, size)
        marks = {max(1, round(part * len(batches))): part for part in parts} if epoch == 0 else {}
        late = lags[epoch % len(lags)] if lags else [0] * len(batches)
        pulls: dict[int, list[int]] = {}  # batches by the version that they pull
        for k in range(len(batches)):
            pulls.setdefault(k - late[k], []).append(k)
        pulled = {}
        for k, batch in enumerate(batches):
            pulled |= {j: model.pull(batches[j]) for j in pulls.get(k, ())}
            model.push(batch, pulled.pop(k), workers)
            if k + 1 in marks:
                points.append(_point(data, model, marks[k + 1]))
        points.append(_point(data, model, epoch + 1.0))
    return points


def _point(data: Data, model: Model, epochs: float) -> Point:
    scores = model.score(data.held_out)
    aucs = [
        tuple(_auc(scores[part, s], data.held_out_labels[part]) for s in range(model.n))
        for part in (slice(None, data.validation), slice(data.validation, None))
    ]
    return Point(epochs, *aucs)


def _auc(scores: Floats, labels: Floats) -> float:
    """A model whose values have overflowed scores 0.5."""
    return auc(scores, labels) if np.isfinite(scores).all() else 0.5
