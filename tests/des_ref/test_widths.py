"""Tables of different widths in real training: certificates, bytes on every number of ranks, and what is stored."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from des_ref.certify.case import SEED, Case, batches
from des_ref.certify.group import certify_all
from des_ref.checkpoint.files import read_rows, write_rows
from des_ref.comm import open_comm
from des_ref.models.build import Network
from des_ref.strategies import STRATEGIES, build
from des_ref.strategies.base import Optimizers
from dessim.errors import UsageError
from dessim.workload.codecs import parse_codecs
from dessim.workload.coded_plan import coded
from dessim.workload.model import Model, load_model
from dessim.workload.strategies import plan as plan_of
from tests.des_ref.certified import assert_certified
from tests.des_ref.small_models import DENSE, WIDTHS, different_widths

SUMS = """
[[operators]]
kind = "lr"
[[operators]]
kind = "mlp"
widths = [16, 8]
"""
CONCATENATED = f"""{DENSE}[[operators]]
kind = "cross_v2"
layers = 2
"""
SEPARATED = """
[[operators]]
kind = "cross"
layers = 2
[[operators]]
kind = "cross_v2"
layers = 2
rank = 3
[[operators]]
kind = "mlp"
widths = [12]
"""
ALL = [name for name in STRATEGIES if name != "ps_async"]


def certify(cases: list[Case]) -> dict[str, dict[str, int]]:
    """Certify the cases; the recorded bytes of each strategy's ops, which equal those of the formulas."""
    recorded = {}
    for case, result in zip(cases, certify_all(cases), strict=True):
        assert_certified(result)
        recorded[case.strategy] = {op["name"]: op["recorded_bytes"] for op in result["ops"]}
    return recorded


@pytest.mark.parametrize("ranks", [2, 4, 8])
def test_every_strategy_trains_them_with_the_bytes_of_its_formulas(ranks: int, tmp_path: Path) -> None:
    """On 8 ranks half own no table."""
    model = different_widths(tmp_path, SUMS)
    steps, samples, value = 2, 128, 8
    recorded = certify([Case(ranks, steps, model, name, "cpu") for name in ALL])
    # All pooled vectors with their linear weights, once over all ranks; each rank's own weights' gradients.
    floats = sum(WIDTHS) + len(WIDTHS)
    assert recorded["table_wise"]["pooled"] == steps * samples * floats * value
    assert recorded["row_wise"]["pooled"] == ranks * steps * samples * floats * value
    assert recorded["des_all_reduce"]["shared_grad"] == ranks * steps * 16 * sum(WIDTHS) * value
    assert recorded["des_all_reduce"]["partials"] == ranks * steps * samples * (1 + 16) * value


@pytest.mark.parametrize(
    ("operators", "embedding", "strategies", "optimizer"),
    [
        (CONCATENATED, 'pooling = "mean"', ALL, "adagrad"),
        (SEPARATED, 'placement = "field"', ["des_all_reduce", "des_reduce_scatter"], "adam"),
        (SEPARATED, "", ["des_all_reduce", "row_all_to_all"], "ftrl"),
    ],
)
def test_operators_that_concatenate(
    operators: str, embedding: str, strategies: list[str], optimizer: str, tmp_path: Path
) -> None:
    """Under field placement rank 2 of 3 has one table only, and cross_v2 sends rounds of 3 floats a sample."""
    model = different_widths(tmp_path, operators, embedding)
    certify([Case(3, 2, model, name, "cpu", optimizer=optimizer) for name in strategies])


def test_servers_send_rows_of_their_own_width(tmp_path: Path) -> None:
    case = Case(2, 2, different_widths(tmp_path, SUMS), "ps_async", "cpu")
    result = certify_all([replace(case, ranks=1), case])
    assert result[0]["max_param_diff"] < 1e-12
    assert all(r["bytes_match"] for r in result), result


def trained(model: Model, file: str, strategy: str) -> tuple[torch.Tensor, object]:
    """The ids of a few training steps on one process, and the strategy's table after them."""
    with open_comm("cpu") as comm:
        case = Case(1, 3, file, strategy, "cpu")
        data = batches(case, model, comm)
        trainer = build(strategy, Network(model, SEED, torch.float64, "cpu"), Optimizers(), comm)
        for batch in data:
            trainer.step(batch)
    return torch.cat([batch.ids for batch in data]), trainer.table


def test_rows_are_stored_and_saved_in_their_own_width(tmp_path: Path) -> None:
    file = different_widths(tmp_path, SUMS)
    model = load_model(file)
    ids, table = trained(model, file, "row_wise")
    exported = table.export()
    stored = {name: lines["v"].shape for name, lines in exported.items()}
    assert {shape[1] for shape in stored.values()} == set(WIDTHS)
    assert sum(shape[0] for shape in stored.values()) == len(torch.unique(ids)) == len(table)
    write_rows(tmp_path / "rows.safetensors", exported)
    again = Network(model, SEED, torch.float64, "cpu").new_table(Optimizers().rows, 0.01)
    again.load(read_rows(tmp_path / "rows.safetensors"))
    unique = torch.unique(ids)
    for name in ("w", "v"):
        assert torch.equal(again.gather(unique, (name,))[name], table.gather(unique, (name,))[name])


def test_ids_without_a_row_read_its_initial_values(tmp_path: Path) -> None:
    network = Network(load_model(different_widths(tmp_path, SUMS)), SEED, torch.float64, "cpu")
    table = network.new_table(Optimizers().rows, 0.01)
    ids = 256 * torch.arange(60) + torch.arange(60) % 3  # the lowest bits name the width
    unseen = table.gather(ids, ("w", "v"))
    assert len(table) == 0
    rows = table.find_or_insert(ids)
    for name, values in table.values(ids, rows, ("w", "v")).items():
        assert torch.equal(unseen[name], values)


@pytest.mark.parametrize(
    ("strategy", "problem"),
    [
        ("row_all_to_all+hot_rows=20", "row_all_to_all\\+hot_rows=20 keeps rows of one width, different widths has"),
        ("ps_sync+look_ahead", "leave the option out"),
        ("row_all_gather+cache_rows=80", "leave the option out"),
    ],
)
def test_options_that_need_rows_of_one_width_are_refused(strategy: str, problem: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=problem):
        plan_of(strategy, load_model(different_widths(tmp_path, SUMS)))


def test_codecs_encode_rows_of_one_width_only(tmp_path: Path) -> None:
    model = load_model(different_widths(tmp_path, SUMS))
    codecs = parse_codecs("activations=bf16")
    assert coded(plan_of("des_all_reduce", model), model, codecs).op("partials_encode")
    with pytest.raises(UsageError, match="codecs encode rows of one width, and different widths has tables of 4 to 16"):
        coded(plan_of("table_wise", model), model, codecs)
