"""The split of the cases is fixed, and no held-out bed is in another split."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from dessim.cluster import load_cluster
from dessim.errors import LabError, UsageError
from dessim.lab import lay_out
from dessim.trace.schema import Collective
from dessim.validate.beds import at_scale, scale_for
from dessim.validate.cases import collective_cases
from dessim.validate.collectives import predict
from dessim.validate.outcome import SPLITS
from dessim.validate.request import bounds_of, read_cases
from dessim.validate.run import ValidationRequest, validate

TABLE = read_cases()
CASES = collective_cases(TABLE, SPLITS, quick=False)


def beds(split: str) -> set[str]:
    return {case.bed for case in CASES if case.split == split}


def test_held_out_beds_are_used_by_neither_calibration_nor_development() -> None:
    used = beds("development") | {TABLE["calibration"]["bed"]}
    assert not beds("held_out") & used
    assert {case.split for case in CASES} == {"development", "held_out"}


def test_held_out_cases_cover_every_promised_variety() -> None:
    held_out = [case for case in CASES if case.split == "held_out"]
    assert len(held_out) >= 40 and len({case.name for case in CASES}) == len(CASES)
    ops = {case.op for case in held_out}
    names = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all", "broadcast")
    assert ops == {Collective(name) for name in names}
    assert {len(job) for case in held_out for job in case.jobs} >= {2, 3, 4, 6, 8}
    assert any(len(case.jobs) > 1 for case in held_out) and any(case.late for case in held_out)
    assert any(load_cluster(case.bed).routing.policy == "ecmp" for case in held_out)
    assert min(case.size for case in held_out) == 64 << 10 and max(case.size for case in held_out) == 8 << 20


def test_bounds_are_the_documented_ones() -> None:
    bounds = bounds_of(TABLE)["collectives"]
    assert (bounds.median_error, bounds.p95_error) == (0.05, 0.15)


def test_every_bed_can_be_built_and_has_the_ranks() -> None:
    for bed in beds("development") | beds("held_out"):
        layout = lay_out(load_cluster(bed), scale=1.0)
        assert max(rank for case in CASES if case.bed == bed for job in case.jobs for rank in job) < len(layout.ranks)


def test_quick_is_a_small_part() -> None:
    few = collective_cases(TABLE, SPLITS, quick=True)
    assert 0 < len(few) < len(CASES) / 4 and {case.name for case in few} <= {case.name for case in CASES}
    assert any(case.split == "held_out" for case in few)


def test_iterations_cover_all_connections() -> None:
    for case in CASES:
        bench: dict[str, Any] = case.to_bench(8)
        assert bench["iterations"] >= 3 and bench["iterations"] >= case.connections


@pytest.mark.parametrize("name", ["two_leaves_4to1, 2 jobs: all_to_all 4 MiB", "fat_tree_8: all_to_all 2 MiB"])
def test_a_prediction_is_the_same_twice_and_no_faster_than_the_wire(name: str) -> None:
    (case,) = [case for case in CASES if case.name == name]
    cluster = load_cluster(case.bed)
    once = predict(cluster, case)
    assert once == predict(cluster, case)
    n = len(case.jobs[0])
    assert once > case.size * (n - 1) / n / cluster.node.nic.capacity


def test_a_small_machine_runs_beds_slower_and_predictions_follow() -> None:
    cluster = load_cluster("lab/degraded_8")
    assert scale_for(cluster, 2) == 1.0 and scale_for(load_cluster("lab/two_leaves_4to1"), 4) == 1.0
    scale = scale_for(cluster, 1)
    assert scale == pytest.approx(30e6 / 8 / cluster.node.nic.capacity, rel=1e-3)
    slower = at_scale(cluster, scale, cluster.transport)
    assert slower.links.capacity == pytest.approx(cluster.links.capacity * scale)
    (case,) = [case for case in CASES if case.name == "degraded_8: all_gather 2 MiB"]
    assert predict(slower, case) == pytest.approx(predict(cluster, case) / scale, rel=0.01)


def test_fast_links_have_larger_bursts_as_in_the_lab() -> None:
    for bed, frames in (("lab/switch_8", 9084), ("lab/switch_4", 9084), ("lab/switch_2", 12_500)):
        cluster = load_cluster(bed)
        transport = at_scale(cluster, 1.0, replace(cluster.transport, burst=9084.0)).transport
        assert transport.burst == pytest.approx(frames), bed


def test_two_jobs_take_longer_together() -> None:
    (case,) = [case for case in CASES if case.name == "two_leaves_4to1, 2 jobs: all_reduce 4 MiB"]
    cluster = load_cluster(case.bed)
    assert predict(cluster, case) > 1.5 * predict(cluster, replace(case, jobs=case.jobs[:1]))


def test_validation_without_root_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    with pytest.raises(LabError, match="root"):
        validate(ValidationRequest())
    with pytest.raises(UsageError, match="tables' is unknown; choose from collectives"):
        validate(ValidationRequest(kinds=["tables"]))
