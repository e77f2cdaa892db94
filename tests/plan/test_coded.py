"""`dessim plan --codecs`: formats of values on the wire as a choice, which a plan has only where the user allows it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dessim.errors import FileError, UsageError
from dessim.plan.coded import NONE, parse_allowed
from dessim.plan.scales import PlanRequest, run_plan
from dessim.workload.codecs import Buffer
from dessim.workload.plan_file import TABLE_STRATEGIES, read_plan
from dessim.workload.scale import Job
from tests.plan.small import BATCH, CLUSTER, TABLES, cluster, model_of, model_text
from tests.plan.test_plan import run

SMALL = TABLES[:2]
STRATEGIES = ("table_wise", "column_wise", "row_all_to_all")


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, dict[str, Any]]:
    """A model, a plan of it whose values may be bf16, and what was printed as JSON."""
    folder = tmp_path_factory.mktemp("coded")
    model, out = folder / "small.toml", folder / "job.plan.toml"
    model.write_text(model_text(SMALL))
    arguments = ("--model", model, "--cluster", CLUSTER, "--gpus", "16", "--batch", str(16 * BATCH))
    left_out = ",".join(name for name in TABLE_STRATEGIES if name not in STRATEGIES)
    code, text, error = run("plan", *arguments, "--without", left_out, "--codecs", "fp32,bf16", "-o", out, "--json")
    assert code == 0, error
    return model, out, json.loads(text)["scales"][0]


def test_each_kind_of_values_has_the_codecs_that_are_named_for_it() -> None:
    assert parse_allowed("fp32,bf16,dense=fp16") == {
        Buffer.ACTIVATIONS: ["fp32", "bf16"],
        Buffer.GRADIENTS: ["fp32", "bf16"],
        Buffer.DENSE: ["fp32", "bf16", "fp16"],
    }
    assert parse_allowed("gradients=bf16")[Buffer.ACTIVATIONS] == ["fp32"]
    for wrong in ("bf17", "rows=bf16", "dense=top_k:0.25", "dense="):
        with pytest.raises(UsageError):
            parse_allowed(wrong)


def test_a_plan_has_no_codec_unless_one_is_allowed() -> None:
    job, only = Job.of_model(model_of(SMALL)), ("row_all_to_all",)
    request = PlanRequest(job=job, cluster=cluster(), gpus=[8], batch=BATCH, strategies=only)
    assert request.codecs == NONE
    (scale,) = run_plan(request).scales
    assert not any(candidate.codecs for candidate in scale.plans.candidates)
    assert scale.to_json()["lead_of_codecs"] == 0


def test_the_fastest_plan_is_chosen_among_those_with_and_without_codecs(
    planned: tuple[Path, Path, dict[str, Any]],
) -> None:
    _, _, scale = planned
    plans = scale["plans"]
    assert any(not plan["codecs"] for plan in plans) and any(plan["codecs"] for plan in plans)
    assert all(plan["step_time_s"] >= plans[0]["step_time_s"] * (1 - 1e-9) for plan in plans)
    assert scale["codecs"] == plans[0]["codecs"] != ""  # half the bytes, on several servers
    plain = min(plan["step_time_s"] for plan in plans if not plan["codecs"])
    assert scale["lead_of_codecs"] == pytest.approx(plain / plans[0]["step_time_s"] - 1)
    # Rows that are encoded have one owner.
    encoded = [plan for plan in plans if "activations" in plan["codecs"] or "gradients" in plan["codecs"]]
    assert encoded and not any(t["strategy"] == "column_wise" for plan in encoded for t in plan["tables"])


def test_its_file_is_projected_to_the_planned_step(planned: tuple[Path, Path, dict[str, Any]]) -> None:
    model, out, scale = planned
    common = ("project", "--model", model, "--cluster", CLUSTER, "--plan", out)
    code, text, error = run(*common, "--json")
    assert code == 0, error
    (row,) = json.loads(text)["projection"]
    assert row["step_time_s"] == pytest.approx(scale["plans"][0]["step_time_s"], rel=1e-12)
    assert scale["codecs"] in row["caveat"]
    code, _, error = run(*common, "--codec", "fp16")
    assert code == 2 and "names codecs" in error and "leave --codec out" in error


def test_a_wrong_codec_in_a_file_gets_one_line(planned: tuple[Path, Path, dict[str, Any]], tmp_path: Path) -> None:
    _, out, scale = planned
    wrong = tmp_path / "wrong.plan.toml"
    wrong.write_text(out.read_text().replace(scale["codecs"], "activations=bf17"))
    with pytest.raises(FileError, match="codecs: codec 'bf17'"):
        read_plan(wrong, model_of(SMALL))


def test_what_cannot_be_encoded_is_refused_in_one_line(tmp_path: Path) -> None:
    model, keep = tmp_path / "small.toml", tmp_path / "keep.toml"
    model.write_text(model_text(SMALL))
    keep.write_text('[[tables]]\nname = "t0"\nstrategy = "column_wise"\nparts = 2\n')
    common = ("plan", "--model", model, "--cluster", CLUSTER, "--gpus", "8", "--batch", str(BATCH))
    wrong = {
        ("--codecs", "bf16", "--keep", keep): "--keep splits the columns of table 0",
        ("--codecs", "bf16", "--to", "torchrec", "-o", tmp_path / "plan.json"): "TorchRec's plans name no codecs",
        ("--codecs", "bf17"): "codec 'bf17'",
        ("--codecs", "bf16", "--precision", "wire=fp16"): "encodes float32, and the model sends fp16",
    }
    for options, message in wrong.items():
        code, _, error = run(*common, *options)
        assert code and message in error and error.strip().count("\n") == 0, error
