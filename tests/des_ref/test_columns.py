"""Tables whose columns have several owners: certificates, what is stored and saved, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from des_ref.certify import program as certificate
from des_ref.certify.case import SEED, Case, batches
from des_ref.certify.compare import reference_states
from des_ref.certify.show import print_table
from des_ref.comm import Comm
from des_ref.device.emulated import EMULATED, emulated
from des_ref.embedding.by_width import ColumnRange, TablesByWidth
from des_ref.embedding.lifetime import Lifetime
from des_ref.embedding.optim import Adam
from des_ref.models.build import Network
from des_ref.strategies import build
from des_ref.strategies.base import Optimizers, Strategy
from dessim.workload.composed import TablePlan, compose
from dessim.workload.model import load_model
from tests.des_ref.planned import (
    COPY,
    FETCH,
    ROW,
    assert_all_certified,
    equal_model,
    plan_file,
    refused,
    resumes,
    split,
    whole,
)
from tests.des_ref.ranks import on_ranks
from tests.des_ref.small_models import DENSE, different_widths

MIXED = (split((1, 4), (0, 2)), COPY, FETCH, split((0, 1), (1, 5)), whole(0, 6))
"""On two ranks, of tables of 6 columns."""
OWN = ((slice(0, 1), slice(4, 6)), (slice(0, 4), slice(1, 6)))
"""The columns of split tables that each rank stores, in the order of its stores."""


@pytest.mark.parametrize("ranks", [2, 4])
def test_mixed_plans_equal_one_process_with_the_bytes_of_their_formulas(ranks: int, tmp_path: Path) -> None:
    """Parts differ in width, beside other strategies and in tables of different widths; some ranks have no part."""
    equal = Case(ranks, 2, equal_model(tmp_path, 6), "", "cpu", optimizer="adam")
    different = replace(equal, model=different_widths(tmp_path, DENSE), optimizer="adagrad")
    last = ranks - 1
    parts = split((3, 1), (0, 3), (2, 2)) if ranks == 4 else split((1, 3), (0, 3))
    fetched = [split((0, 5), (1, 3)), FETCH, whole(last, 16), split((last, 1), (0, 3))]
    cases = [
        equal.planned([split((0, 4), (last, 2)), whole(0, 6), split((last, 1), (0, 5)), ROW, COPY]),
        replace(equal, optimizer="ftrl").planned([parts] * 5),
        different.planned([split((0, 5), (1, 3)), COPY, split((1, 10), (0, 6)), split((1, 1), (0, 3))]),
        replace(different, optimizer="sgd").planned(fetched),
    ]
    assert_all_certified(cases)


@pytest.mark.parametrize("ranks", [2, 4])
def test_means_over_a_row_are_those_of_each_owners_columns(
    ranks: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The one process it is compared with takes them so too; whole rows are trained otherwise."""
    equal = Case(ranks, 2, equal_model(tmp_path, 6), "", "cpu")
    different = replace(equal, model=different_widths(tmp_path, DENSE))
    last = ranks - 1
    cases = [
        equal.planned([split((0, 4), (last, 2)), whole(0, 6), split((last, 1), (0, 5)), ROW, COPY]),
        equal.planned([whole(0, 6), COPY, COPY, ROW, whole(last, 6)]),
        different.planned([split((0, 5), (1, 3)), COPY, split((1, 10), (0, 6)), split((1, 1), (0, 3))]),
    ]
    parted, same, _ = assert_all_certified(cases)
    assert not parted["equivalent"] and same["equivalent"]
    print_table([parted])
    assert "takes a row's mean over each owner's columns, as in TorchRec" in capsys.readouterr().out


def test_a_split_changes_what_means_train(tmp_path: Path) -> None:
    """So a plan with one says so; optimizers that work element by element train the same."""
    for optimizer, differs in (("rowwise_adagrad", True), ("adagrad", False)):
        case = Case(1, 2, equal_model(tmp_path, 6), "", "cpu", optimizer=optimizer)
        model, alone = case.load(), Comm(0, 1, torch.device("cpu"), "gloo")
        ends = []
        for tables in ((whole(0, 6), COPY, COPY, ROW, ROW), (split((0, 4), (1, 2)), COPY, COPY, ROW, ROW)):
            planned = case.planned(tables)
            *_, last = reference_states(planned, model, batches(planned, model, alone))
            ends.append(last.parameters["v"])
            assert bool(compose(model, tables).caveat) == (planned.splits_means)
        assert bool((ends[0] != ends[1]).any()) == differs


def _trained(tables: tuple[TablePlan, ...], model: str, comm: Comm) -> tuple[Strategy, list[float]]:
    """The strategy, whose rows start at the second occurrence of their id, after three steps; its losses, and behind
    them its predictions for unseen samples."""
    optimizers = Optimizers(Adam(), init_std=0.1, lifetime=Lifetime(admit_after=2))
    case = Case(2, 4, model, "", "cpu")
    loaded = case.load()
    *shown, unseen = (batch.to(comm.device) for batch in batches(case, loaded, comm))
    network = Network(loaded, SEED, torch.float64, comm.device)
    strategy = build("row_wise", network, optimizers, comm, tables=tables)
    losses = torch.stack([strategy.step(strategy.share(batch)).loss for batch in shown])
    return strategy, [*losses.tolist(), *strategy.predict(strategy.share(unseen)).tolist()]


def _stored(strategy: Strategy) -> list[dict[str, list[float]]]:
    """The rows that a rank stores, by id, store by store."""
    return [
        {str(key): row for key, row in zip(lines["keys"].tolist(), lines["v"].tolist(), strict=True)}
        for lines in strategy.table.export().values()
        if "v" in lines
    ]


def _compared(model: str, comm: Comm) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, tables in (("split", MIXED), ("row_wise", ())):
        strategy, scores = _trained(tables, model, comm)
        found[name] = scores, _stored(strategy)
    with emulated() as counts:
        found["on GPU"] = _trained(MIXED, model, replace(comm, device=EMULATED))[1]
    return found | {"atomics": len(counts.atomics)}


def test_they_train_score_and_export_as_whole_rows_do(tmp_path: Path) -> None:
    rendezvous = tmp_path / "rendezvous"
    rendezvous.mkdir()
    ranks = on_ranks(2, rendezvous, partial(_compared, equal_model(tmp_path, 6)))
    rows = {key: row for rank in ranks for store in rank["row_wise"][1] for key, row in store.items()}
    for of_rank, own_columns in zip(ranks, OWN, strict=True):
        scores, stored = of_rank["split"]
        assert scores == pytest.approx(of_rank["row_wise"][0], rel=1e-12)
        assert of_rank["on GPU"] == pytest.approx(scores, rel=1e-12) and not of_rank["atomics"]
        for store, own in zip(stored, (slice(0, 6), *own_columns), strict=True):
            assert store and all(row == pytest.approx(rows[key][own], abs=1e-12) for key, row in store.items())


def test_columns_start_as_those_of_whole_rows(tmp_path: Path) -> None:
    network = Network(load_model(equal_model(tmp_path, 6)), 3, torch.float64, "cpu")
    ids = torch.arange(7) * 977
    ranges = [ColumnRange(6, 0, 4), ColumnRange(6, 4, 2)]
    expected = network.new_table(Adam(), 0.1).gather(ids, ("v",))["v"]
    table = network.new_table(Adam(), 0.1, ranges=ranges)
    assert isinstance(table, TablesByWidth)
    for part in ranges:
        stores = torch.full_like(ids, table.store_of(part))
        own = torch.zeros_like(expected)
        own[:, part.own] = expected[:, part.own]
        assert torch.equal(table.gather(ids, ("v",), stores)["v"], own)
        rows = table.find_or_insert(ids, stores)
        assert torch.equal(table.find(ids, stores), rows) and torch.equal(table.values(ids, rows, ("v",))["v"], own)
    assert [lines["v"].shape for lines in table.export().values()] == [(0, 6), (7, 4), (7, 2)]


def test_a_resumed_run_is_the_same_run(tmp_path: Path) -> None:
    rendezvous = tmp_path / "rendezvous"
    rendezvous.mkdir()
    assert on_ranks(2, rendezvous, partial(resumes, equal_model(tmp_path, 6), tmp_path / "run", MIXED)) == [True, True]


def test_what_needs_whole_rows_is_refused(tmp_path: Path) -> None:
    model = equal_model(tmp_path, 6)
    plan = ("--plan", plan_file(tmp_path, model, 2, MIXED), "--model", model)
    found = refused(certificate, *plan, "--codec", "bf16")
    assert "codecs encode rows of one width" in found and "--without column_wise" in found
