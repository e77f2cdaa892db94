"""The memory that the plan predicts for a step against the tensors that the trainer allocates."""

from __future__ import annotations

import gc
from functools import partial

import pytest
import torch

from des_ref.comm import open_comm
from des_ref.data.synthetic import Zipf
from des_ref.device.peak_memory import peak_bytes
from des_ref.models.build import Network
from des_ref.models.dense_optim import DenseOptimizer
from des_ref.strategies import STRATEGIES
from des_ref.strategies.base import Optimizers
from dessim.workload.memory import memory_of
from dessim.workload.model import load_model


@pytest.fixture(scope="module")
def only_new_garbage() -> None:
    """Exempt all objects of earlier tests from garbage collection, which would visit them before each measurement."""
    import torch._dynamo  # noqa: F401  otherwise the first optimizer does

    gc.collect()
    gc.freeze()


@pytest.mark.usefixtures("only_new_garbage")
@pytest.mark.parametrize(
    ("name", "strategy", "batch"),
    [
        ("fm", "des_all_reduce", 1024),
        ("deepfm", "des_all_reduce", 1024),
        ("deepfm", "des_reduce_scatter", 1024),
        ("deepfm_multihot", "des_all_reduce", 256),
        ("nfm", "des_all_reduce", 512),
        ("dcn", "des_all_reduce", 512),
        ("dcn_v2", "des_all_reduce", 512),
        ("dlrm", "des_all_reduce", 512),
        ("criteo_1tb", "des_all_reduce", 256),
        ("criteo_1tb", "des_reduce_scatter", 256),
        ("fvae", "des_all_reduce", 128),
        ("fvae", "des_reduce_scatter", 128),
        ("deepfm", "table_wise", 1024),
        ("deepfm", "row_all_to_all", 1024),
        ("deepfm_multihot", "row_wise", 256),
        ("criteo_1tb", "mesh", 64),
    ],
)
def test_a_step_allocates_the_memory_that_its_plan_predicts(name: str, strategy: str, batch: int) -> None:
    model = load_model(name)
    ids_per_field = model.input.ids_per_sample / model.input.fields
    optimizers = Optimizers(dense=DenseOptimizer("Adam", {"foreach": True}))  # as on a GPU
    with open_comm() as comm:
        shape = (model.input.fields, ids_per_field, 50_000)
        examples = Zipf(*shape, 1.05, 3, dense=model.dense_features).examples(batch, 0)
        whole = examples.take(torch.arange(batch))
        trainer = STRATEGIES[strategy](Network(model, 1, torch.float32, comm.device), optimizers, comm)
        counts = trainer.step(whole).counts  # inserts the rows and creates Adam's moments
        # The time at which threads free memory varies, and so does the peak: take the highest of several runs.
        peaks = []
        for _ in range(3):
            gc.collect()  # otherwise leftovers of earlier steps would count as freed in this one
            peaks.append(peak_bytes(comm, partial(trainer.step, whole)))
    rows = {"U": float(counts.rows), "u": float(counts.rows)}
    measured = model.symbols(1, batch) | rows | {"m": counts.ids_owned / batch, "q": counts.pairs / batch}
    assert memory_of(trainer.plan, measured).activations == pytest.approx(max(peaks), rel=0.25)
