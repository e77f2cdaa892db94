"""A calibration recovers the costs behind synthetic measurements; its profile is read back as it was written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dessim.calibrate.bench import Bench, load_benches
from dessim.calibrate.messages import GLOO, fit_messages
from dessim.calibrate.plan import calibration_cases
from dessim.calibrate.profile import fit_bench, fit_profile, load_transport, with_profile, write_profile
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
    """The seconds of a case, computed independently of the fit from the messages and the links that they cross."""
    (part,) = case["parts"]
    op = part["op"]
    size = part["bytes"]
    n = len(part["ranks"])
    rate = bed.node.nic.capacity
    latency = 2 * bed.node.nic.latency
    if op == "local_sum":
        return float(size / t.reduction_rate)
    sends = n - 1 if op == "fan_out" else 1
    woken = n if op == "send_recv" else 1
    bytes_through = size if op == "send_recv" else size * (n - 1)
    wire = bytes_through * (1 + t.ack_share * (op == "send_recv")) - t.burst
    empty_s = t.op_overhead + sends * t.message_overhead + woken * t.host_overhead + latency
    if size <= 1024:
        return empty_s
    return empty_s + max(wire, 0.0) / rate / (incast if op == "fan_in" and n > 2 else 1.0)


OTHER_WORK = 0.03
"""The share of two cores that is busy with other work."""


def bench(bed: Cluster, t: Transport, noise: float = 0.0, incast: float = 1.0) -> dict[str, Any]:
    """The content of a des_ref.bench file, from a calibration on a machine with transport `t`."""
    rng = np.random.default_rng(3)
    results = []
    for case in calibration_cases(8):
        took = seconds(case, bed, t, incast) * (1 + noise * rng.standard_normal())
        (part,) = case["parts"]
        iterations = case["iterations"]
        messages = {"send_recv": len(part["ranks"]), "local_sum": 0}.get(part["op"], len(part["ranks"]) - 1)
        cores = 2 * took * iterations
        busy = cores * OTHER_WORK + iterations * messages * part["bytes"] / t.core_rate
        results.append({**part, "seconds": took, "iterations": iterations, "cores_s": cores, "cores_busy_s": busy})
    return {"world_size": 8, "backend": "gloo", "results": results}


def test_exact_measurements_are_recovered(bed: Cluster) -> None:
    results = Bench.from_json(bench(bed, TRUE)).results
    fitted, residuals = fit_messages(results, bed, TRUE.name, one_machine=True)
    assert fitted.core_rate == pytest.approx(TRUE.core_rate, rel=1e-6)
    for field in ("message_overhead", "op_overhead", "host_overhead", "burst", "ack_share", "reduction_rate"):
        assert getattr(fitted, field) == pytest.approx(getattr(TRUE, field), rel=1e-6), field
    assert fitted.fan_in == () and fitted.flow_rate == np.inf
    assert max(abs(r.predicted_s / r.measured_s - 1) for r in residuals) < 1e-6


def test_noise_changes_the_costs_only_slightly(bed: Cluster) -> None:
    fitted, _ = fit_messages(Bench.from_json(bench(bed, TRUE, noise=0.02)).results, bed, TRUE.name)
    assert fitted.host_overhead == pytest.approx(TRUE.host_overhead, rel=0.2)
    assert fitted.ack_share == pytest.approx(TRUE.ack_share, abs=0.015)


def test_the_spread_is_that_of_sizes_that_a_fit_has_not_seen(bed: Cluster) -> None:
    exact, noisy = (
        fit_messages(Bench.from_json(bench(bed, TRUE, noise=noise)).results, bed, TRUE.name)[0].spread
        for noise in (0.0, 0.05)
    )
    assert exact is not None and noisy is not None and not noisy.inside
    # Sizes between short and long are not part of the model: up to 64 KiB some error stays.
    assert exact.between["other"][1:] == (0.02, 0.02)
    assert noisy.between["other"][1] == pytest.approx(0.05, rel=0.4)


def test_the_loss_of_receivers_becomes_a_fan_in_curve(bed: Cluster) -> None:
    fitted, _ = fit_messages(Bench.from_json(bench(bed, TRUE, incast=0.7)).results, bed, TRUE.name)
    assert fitted.fan_in[0] == (1.0, 1.0)
    assert all(share == pytest.approx(0.7, abs=0.01) for _, share in fitted.fan_in[1:])


def test_a_profile_is_read_back_as_it_was_written(bed: Cluster, tmp_path: Path) -> None:
    for incast, one_machine in ((1.0, True), (0.7, False)):
        measured = Bench.from_json(bench(bed, TRUE, incast=incast))
        profile = fit_bench(measured, bed, {"system": 'Linux "6"'}, one_machine)
        write_profile(tmp_path / "p.toml", profile)
        read = load_transport(tmp_path / "p.toml")
        written = profile.transport
        for field in ("message_overhead", "op_overhead", "host_overhead", "burst", "ack_share", "reduction_rate"):
            assert getattr(read, field) == pytest.approx(getattr(written, field), rel=1e-3)
        # The core rate of one machine does not apply to ranks on several.
        assert read.core_rate == pytest.approx(50e6 if one_machine else np.inf, rel=1e-3)
        assert read.spread == written.spread is not None
        assert read.source == written.source and dict(read.algorithms) == GLOO
        assert [k for k, _ in read.fan_in] == [k for k, _ in written.fan_in]
        assert with_profile(bed, tmp_path / "p.toml").transport == read


def test_a_malformed_calibration_is_refused(bed: Cluster) -> None:
    measured = {"cluster": "lab/switch_8", "where": {}, "bench": bench(bed, TRUE)}
    assert fit_profile(measured).transport.window == np.inf
    for key in measured:
        with pytest.raises(UsageError, match="not a calibration"):
            fit_profile({k: v for k, v in measured.items() if k != key})
    with pytest.raises(UsageError, match="not a benchmark file"):
        fit_profile({**measured, "bench": {"results": [3]}})


def test_results_of_several_concurrent_ops_are_left_out(bed: Cluster) -> None:
    raw = bench(bed, TRUE)
    two_parts = {"parts": [{}, {}], "seconds": 1.0}
    assert Bench.from_json({**raw, "results": [*raw["results"], two_parts]}) == Bench.from_json(raw)


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
def test_a_malformed_profile_is_refused(tmp_path: Path, text: str, complaint: str) -> None:
    path = tmp_path / "p.toml"
    path.write_text(text)
    with pytest.raises(FileError, match=r"p\.toml") as error:
        load_transport(path)
    assert complaint in str(error.value)


def test_results_of_different_jobs_are_refused(bed: Cluster, tmp_path: Path) -> None:
    eight_ranks = bench(bed, TRUE)
    four_ranks = {**eight_ranks, "world_size": 4}
    paths = [tmp_path / "a.json", tmp_path / "b.json"]
    for path, value in zip(paths, (eight_ranks, four_ranks), strict=True):
        path.write_text(json.dumps(value))
    assert len(load_benches([paths[0], paths[0]]).results) == 2 * len(eight_ranks["results"])
    with pytest.raises(FileError, match=r"b\.json: 4 ranks"):
        load_benches(paths)


def test_a_calibration_without_short_messages_is_refused(bed: Cluster) -> None:
    results = Bench.from_json(bench(bed, TRUE)).results
    with pytest.raises(UsageError, match="too few"):
        fit_messages([r for r in results if r.size > 1024], bed, "gloo")
