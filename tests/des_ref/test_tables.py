"""Unequal tables (version 2 of model files) in real training: certificates, bytes, and the law of the drawn ids."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from des_ref.certify.case import Case
from des_ref.certify.group import certify_all
from des_ref.data.synthetic import Zipf
from des_ref.models.build import Network
from des_ref.strategies import STRATEGIES, VARIANTS
from dessim.errors import UsageError
from dessim.workload.model import load_model
from dessim.workload.strategies import spec_of
from tests.des_ref.certified import assert_certified
from tests.des_ref.small_models import THREE_TABLES

THREE = f"""
schema_version = 2
name = "three"
[input]
batch_per_worker = 64
[embedding]
width = 8
{THREE_TABLES}
[[operators]]
kind = "lr"
[[operators]]
kind = "fm"
[[operators]]
kind = "mlp"
widths = [16, 8]
"""
SYNCHRONOUS = [
    *(name for name in (*STRATEGIES, *VARIANTS) if spec_of(name).synchronous and "cache_rows" not in name),
    "row_all_gather+cache_rows=400",
]


@pytest.fixture
def three(tmp_path: Path) -> Path:
    path = tmp_path / "three.toml"
    path.write_text(THREE)
    return path


@pytest.mark.parametrize(("ranks", "strategies"), [(2, SYNCHRONOUS), (4, SYNCHRONOUS), (8, ["table_wise", "row_wise"])])
def test_unequal_tables_pass_the_certificate_with_the_bytes_of_their_formulas(
    ranks: int, strategies: list[str], three: Path
) -> None:
    """On 8 ranks five own no table. In the third step a cache reloads rows that left it in the second."""
    steps = {name: 3 if "cache_rows" in name else 2 for name in strategies}
    for result in certify_all([Case(ranks, steps[name], str(three), name, "cpu") for name in strategies]):
        assert_certified(result)


def test_des_with_field_placement_leaves_ranks_without_a_table(three: Path) -> None:
    cases = [
        Case(4, 2, str(three), name, "cpu", placement="field") for name in ("des_all_reduce", "des_reduce_scatter")
    ]
    for result in certify_all(cases):
        assert result["bytes_match"] and result["max_param_diff"] < 1e-12, result


def test_drawn_ids_have_the_stated_shares(tmp_path: Path) -> None:
    path = tmp_path / "shares.toml"
    path.write_text(THREE.replace("rows = 40\nskew = 0.5", "rows = 3\nshares = [0.7, 0.2, 0.1]"))
    model = load_model(path)
    samples = 40_000
    batch = Zipf.of(model, 5).examples(samples).take(torch.arange(samples))
    _, counts = torch.unique(batch.ids[batch.field == 1], return_counts=True)
    found = sorted((counts / samples).tolist(), reverse=True)
    assert found == pytest.approx([0.7, 0.2, 0.1], abs=0.01)


def test_drawn_ids_follow_the_laws_of_their_tables(three: Path) -> None:
    model = load_model(three)
    samples = 40_000
    batch = Zipf.of(model, 5).examples(samples).take(torch.arange(samples))
    for number, table in enumerate(model.tables):
        ids = batch.ids[batch.field == number]
        assert len(ids) / samples == pytest.approx(table.ids, rel=0.02)
        counts = np.sort(torch.unique(ids, return_counts=True)[1].numpy())[::-1]
        p = (np.arange(1.0, table.rows + 1) + table.offset) ** -table.skew
        p /= p.sum()
        assert counts[:5] / len(ids) == pytest.approx(p[:5], rel=0.06)
        assert len(counts) == pytest.approx(table.law.unique(len(ids)), rel=0.02)


def test_a_shipped_model_of_unequal_tables_is_shrunk_for_the_certificate() -> None:
    case = Case(1, 1, "criteo_kaggle", "table_wise", "cpu", small=True)
    small = case.load()
    assert len(small.tables) == small.input.fields < 26 and max(table.rows for table in small.tables) <= 200


def test_a_model_in_another_precision_is_refused() -> None:
    model = load_model("fm")
    half = model.at(model.precision.changed("wire=fp16"))
    with pytest.raises(
        UsageError, match=r"fm states \[precision\] dense fp32, rows fp32, wire fp16, and des_ref trains"
    ):
        Network(half, 0, torch.float32, "cpu")
