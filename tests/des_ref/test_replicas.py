"""Plans with replicas of the tables: certificates, copies, checkpoints, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from des_ref.certify import program as certificate
from des_ref.certify.case import Case
from des_ref.embedding.lifetime import Lifetime
from des_ref.strategies.base import Optimizers
from des_ref.strategies.composed import check_optimizers
from dessim.errors import UsageError
from tests.des_ref.planned import (
    COPY,
    FETCH,
    ROW,
    assert_all_certified,
    equal_model,
    plan_file,
    refused,
    resumes,
    server,
    split,
    whole,
)
from tests.des_ref.ranks import on_ranks
from tests.des_ref.small_models import DENSE, WIDTHS, different_widths


@pytest.mark.parametrize(("ranks", "replicas"), [(2, 2), (4, 2), (4, 4)])
def test_replicas_equal_one_process_with_the_bytes_of_their_formulas(ranks: int, replicas: int, tmp_path: Path) -> None:
    """Rows have copies that are equal to the last bit, in blocks of one and of two workers."""
    models = equal_model(tmp_path), different_widths(tmp_path, DENSE)
    equal, different = (Case(ranks, 2, model, "", "cpu") for model in models)
    last = ranks // replicas - 1
    cases = [
        equal.planned([whole(last), COPY, whole(0), ROW, FETCH], replicas),
        replace(equal, optimizer="adam", pipeline=False).planned([ROW, FETCH, ROW, whole(last), whole(last)], replicas),
        different.planned([ROW, whole(last, WIDTHS[1]), FETCH, COPY], replicas),
    ]
    for result in assert_all_certified(cases):
        sent = {op["name"]: op["recorded_bytes"] for op in result["ops"]}
        assert sent["replica_grads.row_wise"] > 0 and not any(name.endswith("y.data_parallel") for name in sent)


def test_a_resumed_run_is_the_same_run(tmp_path: Path) -> None:
    rendezvous = tmp_path / "rendezvous"
    rendezvous.mkdir()
    tables = [whole(0), COPY, FETCH, ROW, whole(0)]
    work = partial(resumes, equal_model(tmp_path), tmp_path / "run", tables, replicas=2)
    assert on_ranks(2, rendezvous, work) == [True, True]


def test_what_has_no_replicas_is_refused_in_one_line(tmp_path: Path) -> None:
    model = equal_model(tmp_path, 6)

    def found(*tables: object, gpus: int = 4, **options: object) -> str:
        plan = plan_file(tmp_path, model, gpus, tables, **options)  # type: ignore[arg-type]
        return refused(certificate, "--plan", plan, "--model", model, *arguments)

    arguments: tuple[str, ...] = ()
    assert "column_wise tables have none" in found(*[split((0, 3), (1, 3))] * 5, replicas=2)
    assert "table_row_wise tables have none" in found(*[server(0, 2)] * 5, replicas=2)
    assert "4 GPUs do not divide evenly into 3 blocks" in found(*[ROW] * 5, replicas=3)
    assert "must differ and be below 2" in found(*[whole(2, 6)] * 5, replicas=2)
    assert "mesh trains the whole model" in found(strategy="mesh", replicas=2)
    arguments = ("--codec", "bf16")
    assert "messages of replicas are sent as they are" in found(*[ROW] * 5, replicas=2)


def test_rows_that_are_admitted_late_have_no_replicas() -> None:
    with pytest.raises(UsageError, match="admit_after and expire_after count ids in each replica"):
        check_optimizers(Optimizers(lifetime=Lifetime(admit_after=2)), replicas=2)
