"""Composed plans that several tests train: models, strategies of tables, plan files, and runs that resume."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from des_ref.certify.case import SEED, Case, batches
from des_ref.certify.group import certify_all
from des_ref.checkpoint import folder as checkpoints
from des_ref.checkpoint.resume import restore_run
from des_ref.checkpoint.writer import Writer
from des_ref.comm import Comm
from des_ref.models.build import Network
from des_ref.progress import Progress
from des_ref.strategies.base import Strategy
from dessim.cluster import load_cluster
from dessim.errors import FileError, UsageError
from dessim.workload.codecs import parse_codecs
from dessim.workload.composed import TablePlan, compose
from dessim.workload.model import load_model
from dessim.workload.plan_file import JobPlan, write_plan
from tests.des_ref.certified import assert_certified

_MODEL = """
schema_version = 2
name = "mixed"
[input]
batch_per_worker = 32
[embedding]
width = {width}
{tables}{fm}[[operators]]
kind = "mlp"
widths = [6, 4]
dropout = 0.2
"""
_TABLES = ((300, 3.0), (20, 1.0), (100, 2.0), (900, 2.0), (12, 1.0))
ROW, FETCH, COPY = TablePlan("row_wise"), TablePlan("row_all_to_all"), TablePlan("data_parallel")


def whole(rank: int, width: int = 4) -> TablePlan:
    return TablePlan("table_wise", (rank,), (width,))


def server(first: int, workers: int) -> TablePlan:
    """Rows spread over the server of `workers` ranks from `first` on."""
    return TablePlan("table_row_wise", tuple(range(first, first + workers)))


def split(*parts: tuple[int, int]) -> TablePlan:
    """Columns on several ranks: the rank and the columns of each part."""
    ranks, columns = zip(*parts, strict=True)
    return TablePlan("table_wise", ranks, columns)


def equal_model(folder: Path, width: int = 4) -> str:
    """Five tables of one width, with fm if it is 4; fm's bags cannot be split by columns."""
    tables = (f'[[tables]]\nname = "t{n}"\nrows = {rows}\nids = {ids}\n' for n, (rows, ids) in enumerate(_TABLES))
    path = folder / f"equal{width}.toml"
    fm = '[[operators]]\nkind = "fm"\n' if width == 4 else ""
    path.write_text(_MODEL.format(width=width, tables="".join(tables), fm=fm))
    return str(path)


def plan_file(
    folder: Path,
    model: str,
    gpus: int,
    tables: Sequence[TablePlan] = (),
    strategy: str = "",
    batch: int | None = None,
    codecs: str = "fp32",
    replicas: int = 1,
) -> str:
    path = folder / "job.plan.toml"
    job = JobPlan(gpus, batch or 32 * gpus, tuple(tables), strategy, parse_codecs(codecs), replicas=replicas)
    write_plan(path, job, load_model(model), load_cluster("one-switch_16"))
    return str(path)


def assert_all_certified(cases: Sequence[Case]) -> list[dict[str, Any]]:
    """Every case is certified, and every message and copy of its plan has been recorded. Returns the results."""
    results = certify_all(cases)
    for case, result in zip(cases, results, strict=True):
        assert_certified(result)
        recorded = {op["name"]: op["recorded_bytes"] for op in result["ops"]}
        plan = compose(case.load(), case.tables, case.replicas)
        planned = {op.name for op in (*plan.collectives, *plan.copies)}
        assert set(recorded) == planned and all(recorded.values()), recorded
    return results


def refused(program: Any, *arguments: str) -> str:
    """The one line with which a program refuses its arguments."""
    with pytest.raises((FileError, UsageError)) as problem:
        program.main([*arguments, "--device", "cpu"])
    assert "\n" not in str(problem.value)
    return str(problem.value)


def _parameters(strategy: Strategy) -> list[torch.Tensor]:
    rows = [column for lines in strategy.table.export().values() for column in lines.values()]
    return [*rows, *(p.detach().clone() for p in strategy.network.dense_parameters)]


def resumes(model: str, folder: Path, tables: Sequence[TablePlan], comm: Comm, replicas: int = 1) -> bool:
    """Whether a run that resumes from a checkpoint in `folder` ends with the state of one that goes on."""
    case = Case(comm.world_size, 5, model, "", "cpu", optimizer="adam").planned(tables, replicas)
    loaded = case.load()
    global_batches = batches(case, loaded, comm)

    def new() -> Strategy:
        return case.build(Network(loaded, SEED, torch.float64, "cpu"), comm)

    strategy, writer = new(), Writer(comm, folder, 1, 9, {"a run": 1})
    for batch in global_batches[:3]:
        strategy.step(strategy.share(batch))
    writer.save(strategy, Progress(steps=3))
    writer.finish()
    writer.close()
    resumed = new()
    restore_run(resumed, checkpoints.newest_first(folder)[0], {"a run": 1}, comm)
    for trainer in (strategy, resumed):
        for batch in global_batches[3:]:
            trainer.step(trainer.share(batch))
    return all(torch.equal(a, b) for a, b in zip(_parameters(strategy), _parameters(resumed), strict=True))
