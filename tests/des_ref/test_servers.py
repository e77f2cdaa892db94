"""Tables whose rows are spread over one server: certificates, scores and checkpoints, on servers of several sizes."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path

import pytest
import torch

from des_ref.certify.case import SEED, Case, batches
from des_ref.comm import Comm
from des_ref.device.emulated import EMULATED, emulated
from des_ref.models.build import Network
from des_ref.pipeline import Pipeline
from des_ref.strategies import build
from des_ref.strategies.base import Optimizers
from des_ref.tracing.session import TraceOptions, TraceSession
from dessim.trace.check import check_trace
from dessim.trace.io import load_trace
from dessim.workload.composed import TablePlan
from tests.des_ref.planned import (
    COPY,
    FETCH,
    ROW,
    assert_all_certified,
    equal_model,
    resumes,
    server,
    split,
    whole,
)
from tests.des_ref.ranks import on_ranks
from tests.des_ref.small_models import DENSE, different_widths

ALONE = (server(0, 1), server(1, 1), server(1, 1), server(0, 1), server(1, 1))
MIXED = (server(0, 2), COPY, FETCH, server(0, 2), whole(1, 4))
"""On two ranks: on servers of one rank, and on one server."""


@pytest.mark.parametrize("ranks", [2, 4])
def test_mixed_plans_equal_one_process_with_the_bytes_of_their_formulas(ranks: int, tmp_path: Path) -> None:
    """Two servers of half the ranks, one of all, and one for each rank; a server without a table; empty bags."""
    half = ranks // 2
    first, second = server(0, half), server(half, half)
    equal = Case(ranks, 2, equal_model(tmp_path), "", "cpu", optimizer="adam")
    different = replace(equal, model=different_widths(tmp_path, DENSE), optimizer="adagrad")
    cases = [
        equal.planned([second, ROW, whole(0), first, COPY]),
        replace(equal, optimizer="rowwise_adagrad").planned([*ALONE[:4], server(ranks - 1, 1)]),
        different.planned([second, FETCH, first, second]),
        different.planned([second, FETCH, COPY, second]),
        replace(different, optimizer="sgd").planned([server(0, ranks), split((0, 3), (1, 1)), server(0, ranks), COPY]),
    ]
    assert_all_certified(cases)


def _scores(tables: tuple[TablePlan, ...], model: str, comm: Comm) -> list[float]:
    """Losses of three steps, and predictions for unseen samples."""
    case = Case(comm.world_size, 4, model, "", "cpu")
    loaded = case.load()
    *shown, unseen = (batch.to(comm.device) for batch in batches(case, loaded, comm))
    network = Network(loaded, SEED, torch.float64, comm.device)
    strategy = build("table_wise", network, Optimizers(init_std=0.1), comm, tables=tables)
    losses = torch.stack([strategy.step(strategy.share(batch)).loss for batch in shown])
    return [*losses.tolist(), *strategy.predict(strategy.share(unseen)).tolist()]


def _compared(model: str, folder: Path, comm: Comm) -> dict[str, object]:
    """Scores by plan, on a CPU and on an emulated GPU, and whether a run resumes."""
    found = {name: _scores(tables, model, comm) for name, tables in (("whole", ()), ("alone", ALONE), ("mixed", MIXED))}
    with emulated() as counts:
        found["on GPU"] = _scores(MIXED, model, replace(comm, device=EMULATED))
    _trace(model, folder / "run.trace", comm)
    return {"scores": found, "atomics": len(counts.atomics), "resumes": resumes(model, folder / "run", MIXED, comm)}


def _trace(model: str, path: Path, comm: Comm) -> None:
    """Record a step of the plan ALONE, in which each rank is in a group that the other one is not in."""
    case = Case(comm.world_size, 1, model, "", "cpu").planned(ALONE)
    loaded = case.load()
    (batch,) = batches(case, loaded, comm)
    strategy = case.build(Network(loaded, SEED, torch.float64, "cpu"), comm)
    pipeline = Pipeline(strategy, comm, ((0, strategy.share(batch)) for _ in count()), None)
    session = TraceSession(TraceOptions(path, 1, 1), comm, strategy, pipeline=pipeline, model=loaded, batch=len(batch))
    while not session.done:
        session.step()
    pipeline.close()


def test_they_score_as_whole_tables_do_resume_and_are_traced(tmp_path: Path) -> None:
    rendezvous = tmp_path / "rendezvous"
    rendezvous.mkdir()
    for of_rank in on_ranks(2, rendezvous, partial(_compared, equal_model(tmp_path), tmp_path)):
        expected = of_rank["scores"].pop("whole")
        for name, scores in of_rank["scores"].items():
            assert scores == pytest.approx(expected, rel=1e-12), name
        assert of_rank["resumes"] and not of_rank["atomics"]
    trace = load_trace(tmp_path / "run.trace")
    assert check_trace(trace) == [] and {"part 0", "part 1"} <= set(trace.header.groups)
