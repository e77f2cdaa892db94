"""What-if analysis: speedups equal those of the changed cluster, and mistakes are explained."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest

from dessim.cluster import load_cluster
from dessim.cluster.load import topology_root
from dessim.cluster.scaled import scaled
from dessim.commands.collective import run_collective
from dessim.commands.project import run_projection
from dessim.commands.questions.what_if import (
    NAMES,
    Change,
    JointChange,
    parse_changes,
    what_if_projected,
    what_if_replayed,
)
from dessim.commands.replay import ReplayRequest, run_replay
from dessim.commands.support.project_request import ProjectRequest
from dessim.errors import UsageError
from dessim.sim.core.device import roofline
from dessim.trace.io import load_trace, write_trace
from dessim.trace.schema import Collective
from dessim.workload.model import load_model
from dessim.workload.scale import Job
from tests.projecting import project
from tests.test_cli import PROJECT, RAIL, refused, run
from tests.trace.build import all_ops, header

CLUSTER = load_cluster(RAIL)
JOB = Job.of_model(load_model("deepfm"))
REQUEST = ProjectRequest(
    job=JOB,
    cluster=CLUSTER,
    strategies=["des_reduce_scatter", "table_wise"],
    gpus=[16, 64],
)


def test_a_change_equals_the_same_change_in_the_topology_file(tmp_path) -> None:
    """Twice the NIC's rate, written into the topology file by hand, is `2x:nic_rate`."""
    text = (topology_root() / f"{RAIL}.toml").read_text()
    assert 'nic = "connectx-7"' in text
    changed = tmp_path / "fast.toml"
    changed.write_text(text.replace('nic = "connectx-7"', 'nic = {part = "connectx-7", rate = "800 Gb/s"}'))
    rows = run_projection(REQUEST)
    by_hand = project(JOB, load_cluster(changed), REQUEST.strategies, REQUEST.gpus)
    bought = what_if_projected([Change(2.0, "nic_rate")], rows, REQUEST)
    for row, other, (found,) in zip(rows, by_hand, bought, strict=True):
        assert found.step_time_s == pytest.approx(other.breakdown.step_time_s, rel=1e-12)
        assert found.speedup == pytest.approx(row.breakdown.step_time_s / found.step_time_s)
        assert found.speedup > 1


@pytest.mark.parametrize("op", [Collective.ALL_TO_ALL, Collective.ALL_REDUCE])
@pytest.mark.parametrize("size", [2.0**16, 2.0**23, 2.0**30])
def test_a_faster_nic_never_slows_a_collective(op: Collective, size: float) -> None:
    """Four times the rate exceeds PCIe's, which then limits NCCL's model, too."""
    clusters = [CLUSTER, *(scaled(CLUSTER, "nic_rate", factor) for factor in (1.2, 2.0, 4.0))]
    for gpus in (16, 1024):
        times = [run_collective(cluster, op, gpus, size).time_s for cluster in clusters]
        assert all(later <= earlier * (1 + 1e-9) for earlier, later in pairwise(times)), times


def test_a_batch_is_judged_by_throughput_and_may_not_fit() -> None:
    rows = run_projection(REQUEST)
    for row, (twice, huge) in zip(
        rows, what_if_projected([Change(2.0, "batch"), Change(1e6, "batch")], rows, REQUEST), strict=True
    ):
        assert twice.samples_per_s == pytest.approx(2 * row.batch / twice.step_time_s)
        assert twice.speedup == pytest.approx(twice.samples_per_s / row.samples_per_s)
        assert huge.step_time_s is None and "does not fit" in huge.reason


def test_changes_at_once_equal_one_after_the_other() -> None:
    """`2x:nic_rate+2x:batch` is the projection of the changed cluster with twice the batch."""
    rows = run_projection(REQUEST)
    text = "2x:nic_rate+2x:batch+0:latency"
    (both,) = parse_changes(text, CLUSTER)
    assert both == JointChange((Change(2.0, "nic_rate"), Change(2.0, "batch"), Change(0.0, "latency")))
    assert str(both) == text and both.of_batch == 2.0
    faster = scaled(scaled(CLUSTER, "nic_rate", 2.0), "latency", 0.0)
    by_hand = project(JOB, faster, REQUEST.strategies, REQUEST.gpus, 2 * rows[0].batch // rows[0].gpus)
    for row, other, (found,) in zip(rows, by_hand, what_if_projected([both], rows, REQUEST), strict=True):
        assert found.step_time_s == other.breakdown.step_time_s
        assert found.speedup == pytest.approx(other.samples_per_s / row.samples_per_s)


@pytest.mark.parametrize("name", [RAIL, "dgx1-v100_16", "gb200-nvl72_8"])
def test_twice_the_nics_are_planes_of_the_fabric(name: str) -> None:
    """NICs, what joins them to the server, and uplinks carry twice as much; all other links stay."""
    cluster = load_cluster(name)
    more = scaled(cluster, "nics", 2.0)
    kinds = [cluster.links.kinds[kind] for kind in cluster.links.kind]
    grown = [
        link < cluster.wiring.first_server_link or kind.startswith(("nic_", "pcie_nic_"))
        for link, kind in enumerate(kinds)
    ]
    assert list(more.links.capacity / cluster.links.capacity) == [2.0 if g else 1.0 for g in grown]
    assert (more.links.latency == cluster.links.latency).all()
    ratio = more.wiring.nic_capacity() / cluster.wiring.nic_capacity()
    assert (ratio > 1).all() and (ratio <= 2).all()  # a GPU's PCIe link may be the limit
    twice = scaled(scaled(cluster, "nic_rate", 2.0), "uplink_rate", 2.0)
    assert set(more.links.capacity - twice.links.capacity != 0) <= {False, any(k.startswith("pcie_nic") for k in kinds)}


def test_recorded_compute_follows_the_roofline(tmp_path) -> None:
    ops = [[replace(op, flops=int(4e9)) if op.name == "lookup" else op for op in of] for of in all_ops()]
    write_trace(tmp_path / "a.trace", header(), ops)
    trace, cluster = load_trace(tmp_path / "a.trace"), load_cluster("one-switch_16")
    request = ReplayRequest(trace=trace, cluster=cluster)
    base = run_replay(request)
    fast, same = what_if_replayed([Change(2.0, "gpu_flops"), Change(2.0, "gpu_memory")], base, request)
    gpu = cluster.gpu
    ratio = roofline(replace(gpu, flops=2 * gpu.flops), 4e9, 256, 1) / roofline(gpu, 4e9, 256, 1)
    saved = 20e-6 * (1 - ratio)  # of the lookup, which is on the critical path; the other op states no sizes
    assert ratio < 0.9
    assert fast.step_time_s == pytest.approx(base.predicted_step_s - saved, rel=1e-9)
    assert same.speedup == pytest.approx(1.0, rel=1e-12)
    assert fast.samples_per_s == pytest.approx(64 / fast.step_time_s)


def test_all_stands_for_the_changes_that_apply_to_the_cluster() -> None:
    bare = load_cluster("one-switch_16")
    assert [str(c) for c in parse_changes("all", bare)] == [
        "2x:nic_rate",
        "2x:gpu_flops",
        "2x:gpu_memory",
        "0:latency",
        "0:overhead",
        "2x:batch",
    ]
    assert "2x:batch" not in [str(c) for c in parse_changes("all", CLUSTER, recorded=True)]
    assert parse_changes("0.5x:nic_rate, 0:latency", CLUSTER) == (Change(0.5, "nic_rate"), Change(0.0, "latency"))
    assert parse_changes(None, CLUSTER) == ()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("nic_rate", "write a factor and a name"),
        ("2x:nic_rat", "did you mean nic_rate?"),
        ("2x:nic_rate,", "write a factor and a name"),
        ("0:gpu_flops", "may be 0; write a factor above 0"),
        ("-1x:nic_rate", "write a factor and a name"),
        ("2x:flow_rate", "has none"),
        ("2x:nic_rate+", "and + between changes at once"),
        ("2x:nic_rate+0x:nics", "may be 0"),
        ("2x:nic_rate+0.5x:nic_rate", "nic_rate is changed twice"),
        (f"{'9' * 400}x:nics", "the factor is too large"),
    ],
)
def test_a_wrong_change_is_explained(text: str, says: str) -> None:
    with pytest.raises(UsageError, match="--what-if") as error:
        parse_changes(text, CLUSTER)
    assert says in str(error.value)


def test_the_batch_of_a_trace_cannot_change() -> None:
    with pytest.raises(UsageError, match="use `dessim project`"):
        parse_changes("2x:batch", CLUSTER, recorded=True)


def test_the_command_line_prints_every_change(tmp_path) -> None:
    import json

    write_trace(tmp_path / "a.trace", header(), all_ops())
    code, out, _ = run("project", *PROJECT[1:], "--gpus", "8", "--what-if", "2x:nvlink_rate,0:latency", "--json")
    (row,) = json.loads(out)["projection"]
    assert code == 0 and [c["change"] for c in row["what_if"]] == ["2x:nvlink_rate", "0:latency"]
    assert all(c["speedup"] >= 1 for c in row["what_if"])
    code, out, _ = run("replay", str(tmp_path / "a.trace"), "--cluster", "one-switch_16", "--what-if", "all")
    assert code == 0 and "0:overhead" in out and "speedup" in out
    refused(2, "did you mean latency", *PROJECT, "--gpus", "8", "--what-if", "0:latenc")


@pytest.mark.parametrize("verb", ["replay", "project"])
def test_help_lists_every_name(verb: str) -> None:
    _, out, _ = run(verb, "--help")
    text = " ".join(out.split())
    assert all(f"{name}," in text or f"{name}." in text for name in NAMES)
