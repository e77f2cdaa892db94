"""A fit finds the costs that made the measurements, and its topology file is one dessim can load."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from dessim.calibrate.fit import cluster_toml, fit_transport, load_bench
from dessim.cluster import load_cluster
from dessim.commands.collective import run_collective
from dessim.errors import FileError
from dessim.trace.schema import Collective

MESSAGE, LATENCY, RATE, RANKS = 25e-6, 400e-6, 1.3e9, 4


def measurements(noise: float = 0.0) -> list[dict[str, object]]:
    """What a machine with these costs would show, by the closed forms of ring and direct exchange."""
    rng = np.random.default_rng(1)
    rows: list[dict[str, object]] = []
    for op, messages, stages, share in (
        ("all_reduce", 6, 6, 1.5),
        ("all_to_all", 3, 1, 0.75),
        ("all_gather", 3, 3, 0.75),
        ("reduce_scatter", 3, 1, 0.75),  # as the trainer does it over gloo
    ):
        for size in (4096, 65_536, 1_048_576, 4_194_304):
            seconds = messages * MESSAGE + stages * LATENCY + share * size / RATE
            rows.append({"op": op, "bytes": size, "seconds": seconds * (1 + noise * rng.standard_normal())})
    return rows


def test_exact_measurements_are_recovered() -> None:
    fit = fit_transport(measurements(), RANKS, "gloo")
    assert (fit.message_overhead, fit.latency, fit.bandwidth) == pytest.approx((MESSAGE, LATENCY, RATE), rel=1e-9)
    assert fit.r2 == pytest.approx(1.0)
    assert fit.n == 16


def test_noise_is_tolerated_and_reported() -> None:
    fit = fit_transport(measurements(0.1), RANKS, "gloo")
    assert fit.bandwidth == pytest.approx(RATE, rel=0.15)
    assert 0.9 < fit.r2 < 1
    assert 0.01 < fit.median_error < 0.2


def test_the_written_topology_replays_the_benchmark(tmp_path: Path) -> None:
    path = tmp_path / "this-machine.toml"
    path.write_text(cluster_toml(fit_transport(measurements(), RANKS, "gloo"), "this-machine", "a host"))
    cluster = load_cluster(path)
    for row in measurements():
        op = Collective(str(row["op"]))
        simulated = run_collective(cluster, op, RANKS, float(str(row["bytes"]))).time_s
        assert simulated == pytest.approx(float(str(row["seconds"])), rel=1e-6)


def test_too_little_or_broken_input_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="too few"):
        fit_transport(measurements()[:3], RANKS, "gloo")
    bad = tmp_path / "bench.json"
    bad.write_text(json.dumps({"results": [{"op": "all_reduce"}]}))
    with pytest.raises(FileError, match="not a benchmark file"):
        load_bench(bad)
    with pytest.raises(FileError, match="cannot be read"):
        load_bench(tmp_path / "none.json")
