"""Batches of an epoch and of an evaluation: no sample is left out or counted twice."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from des_ref.comm import Comm
from des_ref.data.batch import Batch, Examples, InMemory
from des_ref.training.evaluation import predict


def numbered(samples: int) -> Examples:
    """Samples of one id each, whose label is their number."""
    return Examples.of_columns(torch.arange(samples)[:, None], torch.arange(samples).to(torch.float32))


@pytest.mark.parametrize("samples", [1, 6, 7])
def test_every_held_out_sample_is_predicted_once(samples: int) -> None:
    def logits(batch: Batch) -> Tensor:
        return batch.labels

    objective = SimpleNamespace(evaluation_batch=3)
    strategy: Any = SimpleNamespace(network=SimpleNamespace(objective=objective), predict=logits)
    comm = Comm(0, 1, torch.device("cpu"), "gloo")
    assert predict(numbered(samples), comm, strategy, 2).tolist() == list(range(samples))


def test_an_epoch_trains_on_every_full_batch() -> None:
    """Of 11 samples in batches of 4, each of 2 ranks gets 2 samples of 2 batches; 3 samples wait for another epoch."""
    source = InMemory(numbered(11), numbered(1), numbered(1), seed=3)
    read = [batch.labels for rank in range(2) for batch in source.batches(0, 4, rank, 2)]
    assert [len(labels) for labels in read] == [2] * 4 and len(set(torch.cat(read).tolist())) == 8
