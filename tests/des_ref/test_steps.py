"""des_ref.steps times many jobs in one launch."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from des_ref import steps
from des_ref.cli import run
from dessim.commands.support.lab_training import Trained
from dessim.errors import LabError
from dessim.trace.io import load_trace


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[]", "not a file of jobs"),
        ('{"jobs": [{"model": "fm", "strategy": "gossip"}]}', "gossip"),
        ('{"jobs": [{"model": "fm", "strategy": "mesh", "batches": 3}]}', "batches"),
        ('{"jobs": [{"model": "fm"}]}', "give either strategy or tables"),
        ('{"jobs": [{"model": "fm", "tables": [{"strategy": "row_wise"}]}]}', "plans 1 tables; fm has 39"),
        ('{"jobs": [{"model": "fm", "strategy": "mesh", "batch": 0}]}', "batch: Input should be greater than 0"),
        ('{"jobs": [{"model": "fm", "strategy": "mesh", "steps": -3}]}', "steps: Input should be greater than 0"),
        ('{"jobs": [{"model": "fm", "strategy": "mesh", "steps": "ten"}]}', "steps: Input should be a valid integer"),
        ('{"jobs": [{"model": "fm", "strategy": "mesh", "trace": "/proc"}]}', "/proc: exists and is not a trace"),
        ('{"jobs": [{"model": "fm", "strategy": "mesh", "batch": 10, "samples": 10}]}', "less than a batch of 10"),
    ],
)
def test_mistakes_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, said: str) -> None:
    jobs = tmp_path / "jobs.json"
    jobs.write_text(text)
    assert run("des_ref.steps", lambda: steps.main([str(jobs)])) != 0
    line = capsys.readouterr().err
    assert line.count("\n") == 1 and said in line


def test_steps_are_timed_and_traced_and_frames_are_not_counted_without_a_lab(tiny: Path, tmp_path: Path) -> None:
    jobs, out, trace = tmp_path / "jobs.json", tmp_path / "steps.json", tmp_path / "a.trace"
    asked = {"model": str(tiny), "strategy": "mesh", "batch": 32, "steps": 3, "trace": str(trace)}
    jobs.write_text(json.dumps({"jobs": [asked, asked | {"trace": None, "name": "again", "pipeline": False}]}))
    assert steps.main([str(jobs), "-o", str(out)]) == 0
    found, again = json.loads(out.read_text())["jobs"]
    (ends,) = found["ends_s"]
    assert len(ends) == 4 and ends == sorted(ends)
    assert (found["name"], again["name"], again["pipeline"]) == ("mesh", "again", False)
    assert len(load_trace(trace).header.recorded_steps) == 3
    # One rank sends nothing, and outside a lab no shaper counts frames.
    assert Trained(found).payload == 0.0 and Trained(found).step_s > 0
    with pytest.raises(LabError, match="no shaper counted"):
        _ = Trained(found).frames
