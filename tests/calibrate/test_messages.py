"""A calibration finds the costs that made the measurements; its profile is read back as it was written."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dessim.calibrate.messages import GLOO, fit_messages
from dessim.calibrate.plan import calibration_cases
from dessim.calibrate.profile import fit_bench, load_transport, of_results, with_profile, write_profile
from dessim.cluster import Cluster, load_cluster
from dessim.cluster.parts import Transport
from dessim.errors import FileError, UsageError

TRUE = Transport(
    "gloo, calibrated",
    message_overhead=80e-6,
    op_overhead=150e-6,
    host_overhead=200e-6,
    burst=9000.0,
    ack_share=0.02,
    reduction_rate=5e9,
    algorithms=GLOO,
    core_rate=50e6,
)


@pytest.fixture(scope="module")
def bed() -> Cluster:
    return load_cluster("lab/switch_8")


def seconds(case: dict[str, Any], bed: Cluster, t: Transport, incast: float = 1.0) -> float:
    """What a case takes, worked out apart from the fit: who sends what over which link."""
    (part,) = case["parts"]
    op, size, n = part["op"], part["bytes"], len(part["ranks"])
    rate, latency = bed.node.nic.capacity, 2 * bed.node.nic.latency
    if op == "local_sum":
        return float(size / t.reduction_rate)
    sends = n - 1 if op == "fan_out" else 1
    woken = n if op == "send_recv" else 1
    bytes_through = size if op == "send_recv" else size * (n - 1)
    wire = bytes_through * (1 + t.ack_share * (op == "send_recv")) - t.burst
    once = t.op_overhead + sends * t.message_overhead + woken * t.host_overhead + latency
    if size <= 1024:
        return once
    return once + max(wire, 0.0) / rate / (incast if op == "fan_in" and n > 2 else 1.0)


IDLE = 0.03
"""Of two cores: what is busy with something else."""


def bench(bed: Cluster, t: Transport, noise: float = 0.0, incast: float = 1.0) -> dict[str, Any]:
    rng = np.random.default_rng(3)
    results = []
    for case in calibration_cases(8):
        took = seconds(case, bed, t, incast) * (1 + noise * rng.standard_normal())
        (part,), often = case["parts"], case["iterations"]
        messages = {"send_recv": len(part["ranks"]), "local_sum": 0}.get(part["op"], len(part["ranks"]) - 1)
        cores = 2 * took * often
        busy = cores * IDLE + often * messages * part["bytes"] / t.core_rate
        results.append({**part, "seconds": took, "iterations": often, "cores_s": cores, "cores_busy_s": busy})
    return {"world_size": 8, "backend": "gloo", "results": results}


def test_exact_measurements_give_the_costs_back(bed: Cluster) -> None:
    found, residuals = fit_messages(bench(bed, TRUE)["results"], bed, TRUE.name, one_machine=True)
    assert found.core_rate == pytest.approx(TRUE.core_rate, rel=1e-6)
    for field in ("message_overhead", "op_overhead", "host_overhead", "burst", "ack_share", "reduction_rate"):
        assert getattr(found, field) == pytest.approx(getattr(TRUE, field), rel=1e-6), field
    assert found.fan_in == () and found.flow_rate == np.inf
    assert max(abs(r.predicted_s / r.measured_s - 1) for r in residuals) < 1e-6


def test_noise_moves_the_costs_by_little(bed: Cluster) -> None:
    found, _ = fit_messages(bench(bed, TRUE, noise=0.02)["results"], bed, TRUE.name)
    assert found.host_overhead == pytest.approx(TRUE.host_overhead, rel=0.2)
    assert found.ack_share == pytest.approx(TRUE.ack_share, abs=0.015)


def test_what_receivers_lose_becomes_a_curve(bed: Cluster) -> None:
    found, _ = fit_messages(bench(bed, TRUE, incast=0.7)["results"], bed, TRUE.name)
    assert found.fan_in[0] == (1.0, 1.0)
    assert all(share == pytest.approx(0.7, abs=0.01) for _, share in found.fan_in[1:])


def test_a_profile_is_read_back(bed: Cluster, tmp_path: Path) -> None:
    for incast, one_machine in ((1.0, True), (0.7, False)):
        profile = fit_bench(bench(bed, TRUE, incast=incast), bed, {"system": 'Linux "6"'}, one_machine)
        write_profile(tmp_path / "p.toml", profile)
        read, meant = load_transport(tmp_path / "p.toml"), profile.transport
        for field in ("message_overhead", "op_overhead", "host_overhead", "burst", "ack_share", "reduction_rate"):
            assert getattr(read, field) == pytest.approx(getattr(meant, field), rel=1e-3)
        # What one machine's cores carry says nothing of ranks on many.
        assert read.core_rate == pytest.approx(50e6 if one_machine else np.inf, rel=1e-3)
        assert read.source == meant.source and dict(read.algorithms) == GLOO
        assert [k for k, _ in read.fan_in] == [k for k, _ in meant.fan_in]
        assert with_profile(bed, tmp_path / "p.toml").transport == read


def test_a_plan_times_every_number_of_senders_and_no_collective() -> None:
    cases = calibration_cases(8)
    assert {case["parts"][0]["op"] for case in cases} == {"fan_in", "fan_out", "send_recv", "local_sum"}
    fans = {len(case["parts"][0]["ranks"]) - 1 for case in cases if case["parts"][0]["op"] == "fan_in"}
    assert fans == set(range(2, 8))
    assert max(case["parts"][0]["bytes"] for case in cases) == 32 << 20


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "has no [transport]"),
        ("[transport]\nop_overhead = 3\n", "needs a unit"),
        ("[transport", "not TOML"),
    ],
)
def test_what_is_no_profile_is_refused(tmp_path: Path, text: str, complaint: str) -> None:
    path = tmp_path / "p.toml"
    path.write_text(text)
    with pytest.raises(FileError, match=r"p\.toml") as error:
        load_transport(path)
    assert complaint in str(error.value)


def test_results_of_another_job_are_refused(bed: Cluster, tmp_path: Path) -> None:
    one, other = bench(bed, TRUE), {**bench(bed, TRUE), "world_size": 4}
    paths = [tmp_path / "a.json", tmp_path / "b.json"]
    for path, value in zip(paths, (one, other), strict=True):
        path.write_text(json.dumps(value))
    assert len(of_results([paths[0], paths[0]])["results"]) == 2 * len(one["results"])
    with pytest.raises(FileError, match=r"b\.json: 4 ranks"):
        of_results(paths)
    with pytest.raises(UsageError, match="too few"):
        fit_messages([r for r in one["results"] if r["bytes"] > 1024], replace(bed), "gloo")
