"""Tables whose rows are in the host's memory: the same training to the last bit, and the copies that plans expect."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from des_ref import train
from des_ref.certify import program as certificate
from des_ref.certify.case import SEED, Case, batches
from des_ref.checkpoint.state import check_identity, identity
from des_ref.comm import Comm, open_comm
from des_ref.data.synthetic import Zipf
from des_ref.device.emulated import EMULATED, emulated
from des_ref.embedding.lifetime import Lifetime
from des_ref.embedding.spilt_rows import SpiltRows
from des_ref.models.build import Network
from des_ref.strategies import build
from des_ref.strategies.base import Optimizers, Strategy
from des_ref.train_flags import parser, settings_from
from dessim.errors import FileError, UsageError
from dessim.trace.check import check_trace
from dessim.trace.io import load_trace
from dessim.trace.schema import Kind
from dessim.workload.composed import TablePlan
from dessim.workload.model import load_model
from tests.des_ref.planned import (
    COPY,
    FETCH,
    ROW,
    assert_all_certified,
    equal_model,
    plan_file,
    resumes,
    server,
    split,
    whole,
)
from tests.des_ref.ranks import on_ranks
from tests.des_ref.small_models import DENSE, WIDTHS, different_widths


@pytest.fixture
def single() -> Iterator[Comm]:
    with open_comm("cpu") as comm:
        yield comm


def spilt(table: TablePlan, cached_rows: int = 40) -> TablePlan:
    return replace(table, cached_rows=cached_rows)


@pytest.mark.parametrize("ranks", [2, 4])
def test_plans_with_spilt_tables_equal_one_process(ranks: int, tmp_path: Path) -> None:
    """Caches are smaller than tables, or of one row; a rank has no spilt table; columns and servers are spilt too."""
    last = ranks - 1
    equal = Case(ranks, 4, equal_model(tmp_path), "", "cpu", optimizer="adam")
    wide = replace(equal, model=equal_model(tmp_path, 6), optimizer="adagrad")
    different = replace(equal, model=different_widths(tmp_path, DENSE), optimizer="rowwise_adagrad")
    cases = [
        equal.planned([spilt(whole(last)), COPY, spilt(whole(last), 1), spilt(ROW, 60), FETCH]),
        wide.planned([spilt(split((0, 4), (last, 2))), whole(0, 6), spilt(server(0, 2)), ROW, spilt(whole(1, 6), 5)]),
        different.planned([spilt(ROW, 99), whole(1, WIDTHS[1]), spilt(whole(1, WIDTHS[2]), 30), COPY]),
    ]
    for result in assert_all_certified(cases):
        moved = {op["name"]: op["recorded_bytes"] for op in result["ops"] if op["name"].startswith("rows_")}
        by_group = {name.partition(".")[2] for name in moved if name.startswith(("rows_in", "rows_out"))}
        assert by_group and all(0 < moved[f"rows_out.{g}"] < moved[f"rows_in.{g}"] for g in by_group)


def _trained(tables: Sequence[TablePlan], model: str, comm: Comm) -> tuple[Strategy, list[float], list[torch.Tensor]]:
    """The strategy, its losses and predictions, and the values of all rows after some steps."""
    case = Case(1, 7, model, "", "cpu", optimizer="ftrl").planned(tables)
    loaded = case.load()
    *shown, unseen = (batch.to(comm.device) for batch in batches(case, loaded, comm))
    strategy = build("", Network(loaded, SEED, torch.float64, comm.device), case.optimizers(), comm, tables=tables)
    losses = [float(strategy.step(strategy.share(batch)).loss) for batch in shown]
    scores = strategy.predict(unseen).tolist()
    ids, places = torch.unique(torch.cat([batch.ids for batch in shown]), return_inverse=True)
    field = torch.empty_like(ids).scatter_(0, places, torch.cat([batch.field for batch in shown]))
    rows = strategy.insert(ids, field)
    return strategy, losses + scores, [*strategy.table.values(ids, rows, tuple(loaded.row_widths)).values()]


def test_training_is_the_same_to_the_last_bit(tmp_path: Path, single: Comm) -> None:
    """Also on an emulated GPU, where rows are on a device and their columns are not."""
    model, on_gpus = equal_model(tmp_path), [whole(0), ROW, whole(0), ROW, whole(0)]
    in_host = [spilt(whole(0)), spilt(ROW, 7), whole(0), spilt(ROW, 90), whole(0)]
    _, numbers, values = _trained(on_gpus, model, single)
    strategy, again, spilt_values = _trained(in_host, model, single)
    assert again == numbers and all(map(torch.equal, values, spilt_values))
    stores = [store for store in strategy.table._tables if isinstance(store, SpiltRows)]
    assert len(stores) == 3 and all(len(store) > len(store.cache.columns["v"]) for store in stores[::2])
    with emulated():
        _, there, values_there = _trained(in_host, model, replace(single, device=EMULATED))
    assert there == pytest.approx(numbers, rel=1e-12)
    for one, other in zip(values_there, values, strict=True):
        assert torch.allclose(one.cpu(), other, rtol=0, atol=1e-12)


def test_misses_are_those_that_the_plan_expects(tmp_path: Path, single: Comm) -> None:
    """A stream of Zipf ids, and caches of two sizes, after the caches and the tables have filled."""
    path = tmp_path / "zipf.toml"
    text = Path(equal_model(tmp_path, 6)).read_text()
    path.write_text(text.replace("rows = 300", "rows = 20000").replace("rows = 900", "rows = 6000\nskew = 0.8"))
    model, batch, steps = load_model(path), 256, 40
    tables = [spilt(whole(0, 6), 3000), ROW, ROW, spilt(ROW, 1500), ROW]
    strategy = build("", Network(model, SEED, torch.float32, "cpu"), Optimizers(), single, tables=tables)
    source = Zipf.of(model, 1)
    counted = []
    for step in range(steps):
        whole_batch = source.examples(batch, part=step).take(torch.arange(batch))
        counted.append([group.missed_floats for group in strategy.step(whole_batch).counts.groups])
    expected = strategy.plan.symbols(model.symbols(1, batch))
    means = torch.tensor(counted[steps // 2 :], dtype=torch.float64).mean(dim=0).tolist()
    names = [f"MW_{group.name}" for group in strategy.plan.groups]
    for name, mean in zip(names, means, strict=True):
        assert mean == pytest.approx(expected[name], rel=0.04), name


def test_a_run_is_traced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """From a plan file; the trace has the copies of each step."""
    model, trace = equal_model(tmp_path), tmp_path / "run.trace"
    plan = plan_file(tmp_path, model, 1, [spilt(whole(0)), ROW, spilt(ROW), COPY, FETCH])
    common = ["--plan", plan, "--model", model, "--data", "synthetic", "--device", "cpu", "--json"]
    steps = ["--steps", "12", "--trace", str(trace), "--trace-steps", "2", "--trace-warmup", "2"]
    assert train.main([*common, *steps]) == 0
    assert json.loads(capsys.readouterr().out)["strategy"].endswith(", 2 spilt")
    recorded = load_trace(trace)
    assert not check_trace(recorded)
    copies = {op.name for rank in recorded.ranks for op in rank if op.kind is Kind.COPY}
    assert copies == {f"{copy}.{group}" for copy in ("rows_in", "rows_out") for group in ("table_wise", "row_wise")}


def test_a_checkpoint_of_other_caches_is_refused(tmp_path: Path) -> None:
    """One of tables on GPUs is that of an earlier release, which names no caches."""
    name = equal_model(tmp_path)

    def planned(*tables: TablePlan) -> dict[str, Any]:
        plan = plan_file(tmp_path, name, 1, [*tables, ROW, ROW, ROW, ROW])
        args = parser("").parse_args(["--data", "synthetic", "--model", name, "--plan", plan])
        return identity(settings_from(args), load_model(name), {})

    assert "cached_rows" not in str(planned(ROW))
    with pytest.raises(FileError, match="was saved with tables"):
        check_identity(tmp_path, planned(spilt(ROW, 40)), planned(spilt(ROW, 50)))


def test_a_resumed_run_is_the_same_run(tmp_path: Path) -> None:
    rendezvous = tmp_path / "rendezvous"
    rendezvous.mkdir()
    tables = [spilt(whole(1)), COPY, FETCH, spilt(ROW), spilt(whole(0), 3)]
    assert on_ranks(2, rendezvous, partial(resumes, equal_model(tmp_path), tmp_path / "run", tables)) == [True, True]


def test_a_stream_is_learned_as_on_gpus(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every batch is scored before its step, and a run that ended with rows in caches goes on."""
    model = equal_model(tmp_path)
    in_host = [spilt(whole(0)), spilt(ROW, 7), COPY, spilt(ROW, 90), FETCH]

    def go(tables: Sequence[TablePlan], *arguments: str) -> tuple[Any, ...]:
        plan = plan_file(tmp_path, model, 1, tables)
        common = ["--plan", plan, "--model", model, "--data", "stream", "--device", "cpu", "--json"]
        assert train.main([*common, *arguments]) == 0
        found = json.loads(capsys.readouterr().out)
        return tuple(found[key] for key in ("steps", "auc", "logloss", "table_rows"))

    whole_run = go([replace(table, cached_rows=0) for table in in_host], "--steps", "12")
    checkpoint = ["--checkpoint", str(tmp_path / "run")]
    go(in_host, *checkpoint, "--steps", "7")
    assert go(in_host, *checkpoint, "--resume", "--steps", "12") == whole_run


def test_rows_that_expire_are_refused(tmp_path: Path, single: Comm) -> None:
    network = Network(load_model(equal_model(tmp_path)), SEED, torch.float64, "cpu")
    with pytest.raises(UsageError, match="cached_rows needs rows that never expire"):
        build("", network, Optimizers(lifetime=Lifetime(2)), single, tables=[spilt(ROW)] * 5)


def test_the_certificate_reads_both_memories(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = equal_model(tmp_path)
    plan = plan_file(tmp_path, model, 2, [spilt(ROW), ROW, ROW, spilt(ROW), ROW])
    assert certificate.main(["--plan", plan, "--model", model, "--steps", "2", "--device", "cpu", "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)["cases"]
    assert found["equivalent"] and found["bytes_match"] and found["max_param_diff"] < 1e-12
