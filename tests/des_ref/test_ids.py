"""`--ids` of the trainer and the certificate: the job trained has the ids that were planned."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from des_ref import train
from des_ref.certify import program as certificate
from des_ref.comm import Comm
from des_ref.train_flags import parser, settings_from
from des_ref.training.samples import train_on_samples
from dessim.cluster import load_cluster
from dessim.workload.composed import compose
from dessim.workload.id_logs.in_model import model_with_ids
from dessim.workload.plan_file import JobPlan, write_plan
from tests.des_ref.planned import COPY, FETCH, ROW, equal_model, refused, whole
from tests.des_ref.ranks import on_ranks

MEASURED = """
[[tables]]
name = "t0"
rows = 2000
ids = 4.5
skew = 0.3
offset = 5.0
[[tables]]
name = "t1"
rows = 3
shares = [0.8, 0.15, 0.05]
[[tables]]
name = "t3"
rows = 500
skew = 1.6
"""
TABLES = (FETCH, whole(1), COPY, FETCH, ROW)


def planned(folder: Path, batch: int = 64) -> tuple[str, ...]:
    """Arguments with a model, measured ids, and a plan for two ranks that was made with them."""
    model, ids, plan = equal_model(folder), folder / "ids.toml", folder / "job.plan.toml"
    ids.write_text(MEASURED)
    write_plan(plan, JobPlan(2, batch, TABLES), model_with_ids(model, ids), load_cluster("one-switch_16"))
    return "--model", model, "--plan", str(plan), "--ids", str(ids)


def _sent(arguments: tuple[str, ...], comm: Comm) -> dict[str, tuple[float, float]]:
    """For each collective the bytes that a worker sent in a step, mean over a run, and those planned."""
    settings = settings_from(parser("").parse_args([*arguments, "--data", "synthetic", "--steps", "12"]))
    model = settings.load_model()
    strategy = train.build_strategy(settings, model, comm)
    summary = train_on_samples(settings, model, comm, strategy, checkpoint=None, trace=None, epoch_log=None)
    sent = summary["bytes_by_op"]
    planned = model_with_ids(settings.model, settings.ids)
    plan = compose(planned, settings.tables)
    symbols = plan.symbols(planned.symbols(comm.world_size, settings.training.batch))
    return {op.name: (sent[op.name], op.sent_bytes(symbols)) for op in plan.collectives}


def test_the_job_trained_has_the_bytes_planned(tmp_path: Path) -> None:
    """Distinct ids of a batch follow the measured laws, within the noise of 12 batches."""
    rendezvous = tmp_path / "rendezvous"
    rendezvous.mkdir()
    found = on_ranks(2, rendezvous, partial(_sent, planned(tmp_path, 512)))[0]
    # Own ids are the most of the ids of one table, and rows by hash are halved over two workers only on average.
    assert {name for name, (sent, expected) in found.items() if sent != pytest.approx(expected, rel=0.05)} == set()
    assert {"rows.row_all_to_all", "row_grads.data_parallel", "ids.table_wise"} <= set(found)


def test_a_plan_made_with_ids_is_certified_with_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = planned(tmp_path)
    assert certificate.main([*arguments, "--steps", "2", "--device", "cpu"]) == 0
    assert "FAILED" not in capsys.readouterr().out


def test_what_cannot_have_them_is_refused_in_one_line(tmp_path: Path) -> None:
    arguments = planned(tmp_path)
    ids = Path(arguments[-1])
    for program in (train, certificate):
        assert "planned with other --ids" in refused(program, *arguments[:-2])
        assert "No such file" in refused(program, *arguments[:-1], str(tmp_path / "none.toml"))
    assert "a stream draws the ids of all tables by one law" in refused(train, *arguments, "--data", "stream")
    assert "leave out --all" in refused(certificate, "--all", "--ids", str(ids))
    equal = ("--model", "deepfm", "--ids", str(ids))
    assert "deepfm has equal tables" in refused(train, *equal, "--data", "synthetic")
    assert "deepfm has equal tables" in refused(certificate, *equal)
    ids.write_text(MEASURED.replace("t3", "user"))
    assert "mixed has no table 'user'" in refused(train, *arguments)
