"""The change of a step: by how much, and in which op."""

from __future__ import annotations

from typing import Any

import pytest

from dessim.results.step_change import StepDifference, TimedStep, grown


def step(*path: tuple[str, str, float]) -> TimedStep:
    ops = [{"name": name, "what": what, "time_s": seconds} for name, what, seconds in path]
    row = {"step_time_s": sum(op[2] for op in path), "bound_by": "compute", "critical_path": ops}
    return TimedStep.from_json(row)


def test_the_wait_of_the_host_is_an_op_of_its_own() -> None:
    found = StepDifference(
        step(("rows", "compute", 1.0), ("rows", "host", 2.0)), step(("rows", "host", 3.0), ("rows", "compute", 1.0))
    )
    assert found.by_op_s == {"rows (host)": 1.0, "rows": 0.0} and found.mostly == "rows (host)"
    assert found.share == pytest.approx(1 / 3) and not found.is_same


def test_the_op_is_the_one_that_changed_in_the_direction_of_the_step() -> None:
    before, now = step(("a", "compute", 2.0), ("b", "compute", 1.0)), step(("a", "compute", 1.0), ("b", "compute", 1.9))
    assert StepDifference(before, now).mostly == "a" and StepDifference(now, before).mostly == "a"
    assert list(StepDifference(before, now).by_op_s) == ["a", "b"]
    same = StepDifference(before, before)
    assert same.is_same and same.mostly == ""
    assert StepDifference(TimedStep(1.0, "", {}), TimedStep(2.0, "", {})).mostly == ""


def test_changes_that_agree_keep_the_order_of_the_path() -> None:
    assert list(grown({"a": 1.0, "b": 1.0, "c": 3.0}, {"a": 0.0, "b": -1e-12, "c": 1.0})) == ["c", "a", "b"]


@pytest.mark.parametrize("row", [{"step_time_s": 0.0}, {"step_time_s": "1"}, {"bound_by": 1}, {"critical_path": [3]}])
def test_a_step_of_another_file_is_checked(row: dict[str, Any]) -> None:
    with pytest.raises(TypeError):
        TimedStep.from_json({"step_time_s": 1.0, "bound_by": "compute", "critical_path": [], **row})
