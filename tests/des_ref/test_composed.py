"""Plans of several strategies: certificates, training from a plan file, checkpoints, and refused plans."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from des_ref import train
from des_ref.certify import program as certificate
from des_ref.certify.case import Case
from des_ref.checkpoint.state import check_identity, identity
from des_ref.train_flags import parser, settings_from
from dessim.cli.app import app
from dessim.errors import FileError
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
    whole,
)
from tests.des_ref.ranks import on_ranks
from tests.des_ref.small_models import DENSE, WIDTHS, different_widths

# -- equal to one process, and to the byte ------------------------------------------------------------------------


@pytest.mark.parametrize("ranks", [2, 4])
def test_mixed_plans_equal_one_process_with_the_bytes_of_their_formulas(ranks: int, tmp_path: Path) -> None:
    """Tables have owners out of turn, and some rank has none; tables differ in width, below a bottom mlp."""
    models = equal_model(tmp_path), different_widths(tmp_path, DENSE)
    equal, different = (Case(ranks, 2, model, "", "cpu") for model in models)
    last = ranks - 1
    cases = [
        equal.planned([whole(last), COPY, whole(0), ROW, whole(last)]),
        equal.planned([FETCH, COPY, COPY, FETCH, ROW]),
        different.planned([ROW, whole(1, WIDTHS[1]), whole(1, WIDTHS[2]), COPY]),
        different.planned([whole(last, WIDTHS[0]), COPY, FETCH, ROW]),
    ]
    assert_all_certified(cases)


# -- from the command line ----------------------------------------------------------------------------------------


def dessim_plan(folder: Path, model: str) -> str:
    """A plan for one GPU, written by `dessim plan` with the strategies of all tables fixed."""
    kinds = ("row_wise", "data_parallel", "table_wise", "row_all_to_all", "table_wise")
    keep, out = folder / "keep.toml", folder / "cli.plan.toml"
    keep.write_text("".join(f'[[tables]]\nname = "t{n}"\nstrategy = "{kind}"\n' for n, kind in enumerate(kinds)))
    command = ["plan", "--model", model, "--cluster", "one-switch_16", "--gpus", "1", "--batch", "64"]
    done = CliRunner().invoke(app, [*command, "--keep", str(keep), "-o", str(out)])
    assert done.exit_code == 0, done.output
    return str(out)


def trained(capsys: pytest.CaptureFixture[str], model: str, *arguments: str) -> dict[str, Any]:
    config = Path(model).with_suffix(".run.toml")
    config.write_text(f'model = "{model}"\ndtype = "float64"\n[data]\nsource = "synthetic"\nsamples = 1000\n')
    assert train.main(["--config", str(config), "--steps", "6", "--device", "cpu", "--json", *arguments]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_file_of_dessim_plan_is_trained_and_evaluated_like_one_strategy(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = equal_model(tmp_path)
    planned = trained(capsys, model, "--plan", dessim_plan(tmp_path, model))
    alone = trained(capsys, model, "--strategy", "row_wise", "--batch", "64")
    assert planned["strategy"] == "2 table_wise, 1 row_wise, 1 row_all_to_all, 1 data_parallel"
    assert planned["batch"] == 64 and planned["world_size"] == 1
    for score in ("loss", "auc", "validation_auc"):
        assert planned[score] == pytest.approx(alone[score], rel=1e-12)
    assert set(planned["bytes_by_op"]) >= {"ids.table_wise", "pooled.row_wise", "row_grads.data_parallel", "dense_grad"}


def test_a_plan_of_one_strategy_is_trained_by_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = equal_model(tmp_path)
    planned = trained(capsys, model, "--plan", plan_file(tmp_path, model, 1, strategy="mesh"))
    assert planned["strategy"] == "mesh" and planned["batch"] == 32


# -- checkpoints --------------------------------------------------------------------------------------------------

RESUMED = [whole(1), COPY, FETCH, ROW, whole(0)]


def test_a_resumed_run_is_the_same_run(tmp_path: Path) -> None:
    rendezvous = tmp_path / "rendezvous"
    rendezvous.mkdir()
    assert on_ranks(2, rendezvous, partial(resumes, equal_model(tmp_path), tmp_path / "run", RESUMED)) == [True, True]


def test_a_checkpoint_of_another_plan_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, run = equal_model(tmp_path), str(tmp_path / "run")
    trained(capsys, model, "--plan", plan_file(tmp_path, model, 1, [ROW] * 5), "--checkpoint", run)
    other = plan_file(tmp_path, model, 1, [ROW] * 4 + [COPY])
    with pytest.raises(FileError, match="was saved with"):
        trained(capsys, model, "--plan", other, "--checkpoint", run, "--resume")


def test_a_checkpoint_of_the_same_tables_on_other_workers_is_refused(tmp_path: Path) -> None:
    """Tables without owners are equal in plans for 1 and 2 GPUs; the rows are on other workers."""
    name = equal_model(tmp_path)

    def planned(gpus: int) -> dict[str, Any]:
        plan = plan_file(tmp_path, name, gpus, [ROW] * 4 + [COPY], batch=64)
        args = parser("").parse_args(["--data", "synthetic", "--model", name, "--plan", plan])
        return identity(settings_from(args), load_model(name), {})

    saved, ours = planned(1), planned(2)
    assert saved["tables"] == ours["tables"]
    check_identity(tmp_path, saved, planned(1))
    with pytest.raises(FileError, match="was saved with workers = 1, but this run has 2"):
        check_identity(tmp_path, saved, ours)


def test_a_checkpoint_of_a_plan_of_one_strategy_is_resumed_without_the_plan(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, run = equal_model(tmp_path), str(tmp_path / "run")
    trained(capsys, model, "--plan", plan_file(tmp_path, model, 1, strategy="mesh"), "--checkpoint", run)
    again = trained(capsys, model, "--strategy", "mesh", "--batch", "32", "--checkpoint", run, "--resume")
    assert again["resumed_from_step"] == 6


# -- what is refused ----------------------------------------------------------------------------------------------


def test_a_plan_for_something_else_is_refused_in_one_line(tmp_path: Path) -> None:
    model, other = equal_model(tmp_path), different_widths(tmp_path, DENSE)
    for_two = plan_file(tmp_path, model, 2, [ROW] * 5)
    common = ("--data", "synthetic", "--plan", for_two)
    assert "is for 2 workers, and 1 run" in refused(train, *common, "--model", model)
    assert "is for mixed, not different widths" in refused(train, *common, "--model", other)
    assert "name its file with --model" in refused(train, *common)
    assert "leave out --strategy or --plan" in refused(train, *common, "--model", model, "--strategy", "mesh")
    assert "is for 2 ranks" in refused(certificate, "--plan", for_two, "--model", model, "--ranks", "2,4")
    assert "certifies one plan" in refused(certificate, "--plan", for_two, "--all")
    text = Path(model).read_text()
    Path(model).write_text(text.replace("rows = 300", "rows = 301"))
    assert "model mixed has changed" in refused(train, *common, "--model", model)


def test_a_plan_is_no_setting(tmp_path: Path) -> None:
    config = tmp_path / "run.toml"
    config.write_text('[plan]\npath = "job.plan.toml"\ngpus = 2\n')
    assert "--plan" in refused(train, "--config", str(config))


# -- codecs that a plan names -------------------------------------------------------------------------------------


def test_a_plan_names_the_codecs_of_its_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = equal_model(tmp_path, 6)
    tables = [whole(0, 6), COPY, ROW, FETCH, whole(0, 6)]
    plan = plan_file(tmp_path, model, 1, tables, codecs="activations=bf16,gradients=fp16")
    assert trained(capsys, model, "--plan", plan)["codecs"] == "activations=bf16,gradients=fp16"
    assert trained(capsys, model, "--plan", plan, "--codec", "dense=fp6")["codecs"] == "dense=fp6"
    two = plan_file(tmp_path, model, 2, [whole(1, 6), COPY, ROW, FETCH, whole(0, 6)], codecs="gradients=bf16")
    assert certificate.main(["--plan", two, "--model", model, "--steps", "2", "--device", "cpu", "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)["cases"]
    assert found["codecs"] == "gradients=bf16" and not found["equivalent"] and found["bytes_match"]
    assert set(found["lost"]) == {
        "pooled_grad.table_wise",
        "pooled_grad.row_wise",
        "rows_grad.row_all_to_all",
        "row_grads.data_parallel",
    }
