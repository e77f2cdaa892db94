"""Pooled lookups, row gradients and updates against TorchRec's table-wise sharding on two ranks.

Weights and gradients are small multiples of a power of two, so that float32 sums are exact in any order and results
can be compared bit by bit.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from des_ref.comm import Comm
from des_ref.data.batch import Batch, slice_of
from des_ref.embedding.optim import RowAdagrad, RowOptimizer, Sgd
from des_ref.hashing import feature_id
from des_ref.models.build import Network
from des_ref.models.dense_optim import DenseOptimizer
from des_ref.strategies import STRATEGIES
from des_ref.strategies.base import Optimizers
from dessim.workload.model import Model, parse_model
from tests.des_ref import torchrec_peer
from tests.des_ref.ranks import on_ranks

RANKS, FIELDS, WIDTH, ROWS, SAMPLES, STEPS = 2, 5, 4, 12, 16, 3
EXACT = [name for name in STRATEGIES if name != "ps_async"]
Compared = list[dict[str, list[dict[str, float]]]]
"""By rank; then by strategy, pooling and optimizer: the largest differences after each step."""
OPTIMIZERS: dict[str, RowOptimizer] = {"sgd": Sgd(0.5), "rowwise_adagrad": RowAdagrad(0.5)}


class Probe(nn.Module):
    """A head with logit 0 for any input and a distinct gradient for each of its floats; records the input."""

    def __init__(self, fields: int, width: int) -> None:
        super().__init__()
        self.register_buffer("slope", torch.arange(1, fields * width + 1).view(fields, width) / 8)
        self.seen = torch.empty(0)

    def forward(self, pooled: Tensor) -> Tensor:
        self.seen = pooled.detach().clone()
        share = (pooled * self.slope).sum(dim=(1, 2))
        return share - share.detach()


def model_of(pooling: str) -> Model:
    head = {"kind": "head", "module": f"{__name__}:Probe", "weights": 0, "multiply_adds": 0}
    return parse_model(
        {
            "schema_version": 1,
            "name": "probe",
            "input": {"fields": FIELDS, "ids_per_sample": 8},
            "embedding": {"width": WIDTH, "pooling": pooling},
            "operators": [head],
        },
        "probe",
    )


def draw(rng: np.random.Generator) -> tuple[Batch, Tensor, Tensor]:
    """A batch, the number of each id within its field, and the bag sizes [B, F]: zero, one, two or four ids."""
    sizes = torch.from_numpy(rng.choice([0, 1, 2, 4], (SAMPLES, FIELDS)))
    bag = torch.repeat_interleave(torch.arange(SAMPLES * FIELDS), sizes.flatten())
    number = torch.from_numpy(rng.integers(ROWS, size=len(bag)))
    field = bag % FIELDS
    labels = torch.from_numpy(rng.integers(2, size=SAMPLES).astype(np.float32))
    return Batch(feature_id(field, number), bag // FIELDS, field, labels), number, sizes


def _theirs(comm: Comm, pooling: str, optimizer: RowOptimizer, start: Tensor) -> list[tuple[Tensor, Tensor]]:
    """After each step, the bags that TorchRec pooled for this rank [b, F, width], and all rows [F, ROWS, width]."""
    tables = torchrec_peer.Tables(list(start), pooling, optimizer, comm)
    probe, rng, found = Probe(FIELDS, WIDTH), np.random.default_rng(3), []
    share = SAMPLES // comm.world_size
    mine = slice(comm.rank * share, (comm.rank + 1) * share)
    for _ in range(STEPS):
        batch, number, sizes = draw(rng)
        own = slice_of(batch, comm.rank, comm.world_size)
        number = number[torch.isin(batch.sample, torch.arange(SAMPLES)[mine])]
        order = torch.argsort(own.field * share + own.sample, stable=True)
        logits = probe(tables.pooled(tables.keyed(number[order], sizes[mine].T.flatten().to(torch.int32))))
        # TorchRec divides the gradients exchanged in backward by the number of workers.
        nn.functional.binary_cross_entropy_with_logits(logits, own.labels).backward()
        rows = torch.zeros_like(start)
        for field, values in tables.own_weights().items():
            rows[field] = values
        comm.all_reduce("rows", rows).wait()
        found.append((probe.seen, rows))
    return found


def _ours(
    comm: Comm, name: str, pooling: str, optimizer: RowOptimizer, start: Tensor
) -> list[tuple[Tensor, Tensor, Tensor]]:
    """The same for one of our strategies, with the gradients of all rows."""
    network = Network(model_of(pooling), 1, torch.float32, comm.device)
    # Without a learning rate the bias remains 0, and so do the logits.
    strategy = STRATEGIES[name](network, Optimizers(optimizer, DenseOptimizer("SGD", {"lr": 0.0})), comm)
    field, number = torch.arange(FIELDS).repeat_interleave(ROWS), torch.arange(ROWS).repeat(FIELDS)
    ids = feature_id(field, number)
    rows = strategy.table.find_or_insert(ids)
    strategy.table.columns["v"][rows] = start.view(-1, WIDTH)
    is_mine = strategy.owner(ids, field) == comm.rank
    probe, rng, found = network.operators["head"].module, np.random.default_rng(3), []
    assert isinstance(probe, Probe)
    for _ in range(STEPS):
        batch, _, _ = draw(rng)
        result = strategy.step(slice_of(batch, comm.rank, comm.world_size))
        grads = torch.zeros(len(ids), WIDTH)
        grads[[ids.tolist().index(i) for i in result.row_ids.tolist()]] = result.row_grads["v"]
        values = strategy.table.columns["v"][rows].clone()
        if not strategy.rows_replicated:
            values[~is_mine] = 0
            for part in (values, grads):
                comm.all_reduce("rows", part).wait()
        # A replicated tail sees the whole batch.
        seen = probe.seen.view(-1, SAMPLES // comm.world_size, FIELDS, WIDTH)
        found.append((seen[comm.rank if len(seen) > 1 else 0], values.view_as(start), grads.view_as(start)))
    return found


def _compared(comm: Comm) -> dict[str, list[dict[str, float]]]:
    start = torch.randint(-64, 65, (FIELDS, ROWS, WIDTH), generator=torch.Generator().manual_seed(5)) / 64
    found: dict[str, list[dict[str, float]]] = {}
    for pooling in ("sum", "mean"):
        for kind, optimizer in OPTIMIZERS.items():
            theirs = _theirs(comm, pooling, optimizer, start)
            for name in EXACT:
                ours, before, steps = _ours(comm, name, pooling, optimizer, start), start, []
                for (pooled, rows, grads), (their_pooled, their_rows) in zip(ours, theirs, strict=True):
                    pairs = {"pooled": (pooled, their_pooled), "rows": (rows, their_rows), "moved": (rows, before)}
                    pairs["grads"] = (grads, (before - their_rows) / optimizer.rate)  # meaningful with SGD only
                    steps.append({what: float((a - b).abs().max()) for what, (a, b) in pairs.items()})
                    before = their_rows
                found[f"{name} {pooling} {kind}"] = steps
    return found


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Compared:
    if reason := torchrec_peer.why_not():
        pytest.skip(reason)
    return on_ranks(RANKS, tmp_path_factory.mktemp("torchrec"), _compared, limit_s=200, imported="torchrec")


@pytest.mark.slow
@pytest.mark.parametrize("pooling", ["sum", "mean"])
@pytest.mark.parametrize("name", EXACT)
def test_lookups_and_gradients_are_bit_identical_to_torchrec(name: str, pooling: str, compared: Compared) -> None:
    for step in (step for rank in compared for step in rank[f"{name} {pooling} sgd"]):
        assert step["pooled"] == step["grads"] == step["rows"] == 0 and step["moved"] > 0.05, step


@pytest.mark.slow
@pytest.mark.parametrize("pooling", ["sum", "mean"])
@pytest.mark.parametrize("name", EXACT)
def test_row_wise_adagrad_matches_fbgemm(name: str, pooling: str, compared: Compared) -> None:
    for step in (step for rank in compared for step in rank[f"{name} {pooling} rowwise_adagrad"]):
        assert step["pooled"] < 1e-5 and step["rows"] < 1e-6 and step["moved"] > 0.05, step
