"""The benchmark of trainers: contenders train the same model on the same ids, and tables rank them by speed."""

from __future__ import annotations

import torch

from des_ref.data.batch import Batch
from tests.bench.contenders import Numbered
from tests.bench.training import TORCHREC, contenders_of, table

COLUMNS = torch.tensor([[7, 100], [9, 100], [7, 300]])


def test_ids_become_numbers_within_the_table_of_their_field() -> None:
    labels = torch.zeros(2)
    batches = [Batch.of_columns(COLUMNS[:2], labels), Batch.of_columns(COLUMNS[1:], labels)]
    numbered = Numbered(2, batches)
    assert numbered.sizes == [2, 2]
    assert [numbers.tolist() for numbers in numbered.numbers] == [[0, 0, 1, 0], [1, 0, 0, 1]]


def test_every_contender_takes_part() -> None:
    assert len(contenders_of("fm", 1, "")) == 2
    assert {"des_all_reduce", "des_reduce_scatter, whole fields", "ps_sync"} <= contenders_of("deepfm", 2, "").keys()
    assert set(contenders_of("fm", 2, "mesh")) == {"mesh"}


def test_the_fastest_comes_first_beside_its_ratio() -> None:
    text = table("fm", 2, {"slow": [90.0, 100.0, 5000.0], TORCHREC: [200.0, 100.0, 400.0]}, TORCHREC)
    lines = text.splitlines()
    assert lines[2] == f"| {TORCHREC} | 200 | 100 to 400 | 1.00 |"
    assert lines[3] == "| slow | 100 | 90 to 5,000 | 0.50 |"
    assert table("fm", 1, {"slow": [1.0]}, TORCHREC).endswith("| slow | 1 | 1 to 1 | - |")
