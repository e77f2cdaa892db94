"""The contenders of `tests/bench/training.py`: the strategies, plain torch on one process, TorchRec on several.

All train on the same samples in float32, with row-wise Adagrad for rows and Adam for the dense tail. Plain torch has no
row-wise Adagrad, so it and the strategy compared with it use Adagrad. The inputs of plain torch and TorchRec are
prepared outside the timed steps: they receive ids as numbers within their tables, while a strategy finds its rows by
64-bit ids in every step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from des_ref.comm import Comm
from des_ref.data.batch import Batch, slice_of
from des_ref.embedding.optim import RowAdagrad, RowOptimizer
from des_ref.models.build import Network
from des_ref.models.dense_optim import DenseOptimizer
from des_ref.pipeline import Pipeline
from des_ref.strategies import STRATEGIES
from des_ref.strategies.base import Lane, Optimizers, Strategy
from des_ref.strategies.ps_server import Server
from dessim.trace.schema import PREFETCH
from dessim.workload.model import Model
from dessim.workload.operators import Mlp

Step = Callable[[int], None]
"""Trains on the global batch with this number."""
DENSE = DenseOptimizer("Adam", {"lr": 1e-3})
STALENESS = 4
_ALIGNMENT = 4  # floats; FBGEMM aligns rows to a multiple of this


def strategy(name: str, model: Model, rows: RowOptimizer, batches: Sequence[Batch], comm: Comm, ahead: bool) -> Step:
    """Return the step of a strategy. `ahead`: another thread sends the next batch's ids during a step."""
    trained, step = build_strategy(name, model, rows, batches, comm)
    if not ahead:
        return step

    def endless() -> Iterator[tuple[int, Batch]]:
        while True:
            yield from ((0, slice_of(batch, comm.rank, comm.world_size)) for batch in batches)

    pipeline = Pipeline(trained, comm, endless(), Lane(comm.separate_group(PREFETCH)))
    return lambda number: void(pipeline.step())


def build_strategy(
    name: str, model: Model, rows: RowOptimizer, batches: Sequence[Batch], comm: Comm
) -> tuple[Strategy, Step]:
    """Return a strategy and its step without prefetch."""
    network = Network(model, 1, torch.float32, comm.device)
    trained = STRATEGIES[name](network, Optimizers(rows, DENSE), comm)
    shares = [slice_of(batch, comm.rank, comm.world_size) for batch in batches]
    return trained, lambda number: void(trained.step(shares[number]))


def serve(model: Model, rows: RowOptimizer, comm: Comm) -> None:
    """Run a server of ps_async until its workers have finished."""
    Server(Network(model, 1, torch.float32, comm.device), Optimizers(rows, DENSE), comm, STALENESS).serve()


def void(result: object) -> None:
    """Discard the result of a lambda."""


class Tail(nn.Module):
    """LR + FM (+ an MLP) over pooled vectors [b, F, D] and the sum of weights [b], in textbook form."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        width = model.input.fields * model.embedding.width
        widths = next((o.widths for o in model.operators if isinstance(o, Mlp)), None)
        self.bias = nn.Parameter(torch.zeros(()))
        self.mlp: nn.Module | None = None
        if widths is not None:
            layers = [nn.Sequential(nn.Linear(i, o), nn.ReLU()) for i, o in pairwise((width, *widths))]
            self.mlp = nn.Sequential(*layers, nn.Linear(widths[-1], 1))

    def forward(self, vectors: Tensor, weights: Tensor) -> Tensor:
        square = vectors.sum(dim=1).square() - vectors.square().sum(dim=1)
        logits = self.bias + weights + 0.5 * square.sum(dim=1)
        return logits if self.mlp is None else logits + self.mlp(vectors.flatten(1))[:, 0]


class Numbered:
    """Ids of all batches as indices into the table of their field.

    `sizes` [F] are the rows of each table, `numbers` the indices of each batch.
    """

    def __init__(self, fields: int, batches: Sequence[Batch]) -> None:
        ids = torch.cat([b.ids for b in batches]).numpy()
        field = torch.cat([b.field for b in batches]).numpy()
        numbers = np.empty_like(ids)
        self.sizes = []
        for f in range(fields):
            unique, numbers[field == f] = np.unique(ids[field == f], return_inverse=True)
            self.sizes.append(len(unique))
        self.numbers = torch.from_numpy(numbers).split([len(b.ids) for b in batches])


def plain(model: Model, rate: float, batches: Sequence[Batch]) -> Step:
    """Return the step of nn.EmbeddingBag with sparse gradients and torch.optim.Adagrad: two tables for all fields."""
    fields, width = model.input.fields, model.embedding.width
    numbered = Numbered(fields, batches)
    first = torch.tensor([0, *np.cumsum(numbered.sizes)[:-1]])
    vectors = nn.EmbeddingBag(sum(numbered.sizes), width, mode="sum", sparse=True)
    weights = nn.EmbeddingBag(sum(numbered.sizes), 1, mode="sum", sparse=True)
    nn.init.normal_(vectors.weight, std=0.01)
    nn.init.zeros_(weights.weight)
    tail = Tail(model)
    rows = torch.optim.Adagrad([vectors.weight, weights.weight], lr=rate, eps=1e-8)
    dense = DENSE(tail.parameters())
    inputs = []
    for batch, numbers in zip(batches, numbered.numbers, strict=True):
        bags = torch.bincount(batch.sample * fields + batch.field, minlength=len(batch) * fields)
        offsets = bags.cumsum(0) - bags
        inputs.append((numbers + first[batch.field], offsets, offsets[::fields], batch.labels))

    def step(number: int) -> None:
        index, bags, samples, labels = inputs[number]
        pooled = vectors(index, bags).view(len(labels), fields, width)
        loss = binary_cross_entropy_with_logits(tail(pooled, weights(index, samples)[:, 0]), labels)
        rows.zero_grad()
        dense.zero_grad()
        loss.backward()
        rows.step()
        dense.step()

    return step


def torchrec(model: Model, rows: RowAdagrad, batches: Sequence[Batch], comm: Comm) -> Step:
    """Return the step of TorchRec: table-wise sharding, FBGEMM's fused optimizer, the tail under DDP.

    A row holds the vector and the weight, so that one exchange moves both, padded to FBGEMM's alignment.
    """
    from tests.des_ref.torchrec_peer import Tables

    fields, width = model.input.fields, model.embedding.width
    row = -(-(width + 1) // _ALIGNMENT) * _ALIGNMENT
    numbered = Numbered(fields, batches)
    generator = torch.Generator().manual_seed(1)
    tables = Tables([0.01 * torch.randn(n, row, generator=generator) for n in numbered.sizes], "sum", rows, comm)
    tail = nn.parallel.DistributedDataParallel(Tail(model))
    dense = DENSE(tail.parameters())
    inputs = []
    for batch, numbers in zip(batches, numbered.numbers, strict=True):
        share = len(batch) // comm.world_size
        is_own = torch.div(batch.sample, share, rounding_mode="floor") == comm.rank
        field, sample = batch.field[is_own], batch.sample[is_own] - comm.rank * share
        order = torch.argsort(field * share + sample, stable=True)
        sizes = torch.bincount(field * share + sample, minlength=fields * share).to(torch.int32)
        labels = batch.labels[comm.rank * share : (comm.rank + 1) * share]
        inputs.append((tables.keyed(numbers[is_own][order], sizes), labels))

    def step(number: int) -> None:
        ids, labels = inputs[number]
        pooled = tables.pooled(ids)
        loss = binary_cross_entropy_with_logits(tail(pooled[..., :width], pooled[..., width].sum(dim=1)), labels)
        dense.zero_grad()
        loss.backward()
        dense.step()

    return step
