"""A fit recovers the costs behind synthetic measurements, and dessim can load the topology file that it writes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dessim.calibrate.bench import Bench, BenchResult, load_bench
from dessim.calibrate.fit import cluster_toml, fit_transport
from dessim.cluster import load_cluster
from dessim.commands.collective import run_collective
from dessim.errors import FileError
from dessim.trace.schema import Collective

MESSAGE_S = 25e-6
LATENCY_S = 400e-6
RATE = 1.3e9
RANKS = 4


def measurements(noise: float = 0.0) -> Bench:
    """The times on a machine with these costs, by the closed forms of ring and direct exchange."""
    rng = np.random.default_rng(1)
    results = []
    for op, messages, stages, share in (
        ("all_reduce", 6, 6, 1.5),
        ("all_to_all", 3, 1, 0.75),
        ("all_gather", 3, 3, 0.75),
        ("reduce_scatter", 3, 1, 0.75),  # as the trainer does it over gloo
    ):
        for size in (4096, 65_536, 1_048_576, 4_194_304):
            seconds = messages * MESSAGE_S + stages * LATENCY_S + share * size / RATE
            seconds *= 1 + noise * rng.standard_normal()
            results.append(BenchResult(op, size, tuple(range(RANKS)), seconds, seconds))
    return Bench(RANKS, "gloo", tuple(results))


def test_exact_measurements_are_recovered() -> None:
    fit = fit_transport(measurements())
    assert (fit.message_overhead, fit.latency, fit.bandwidth) == pytest.approx((MESSAGE_S, LATENCY_S, RATE), rel=1e-9)
    assert fit.r2 == pytest.approx(1.0)
    assert fit.n == 16


def test_noise_is_tolerated_and_reported() -> None:
    fit = fit_transport(measurements(0.1))
    assert fit.bandwidth == pytest.approx(RATE, rel=0.15)
    assert 0.9 < fit.r2 < 1
    assert 0.01 < fit.median_error < 0.2


def test_the_written_topology_replays_the_benchmark(tmp_path: Path) -> None:
    path = tmp_path / "this-machine.toml"
    path.write_text(cluster_toml(fit_transport(measurements()), "this-machine", "a host"))
    cluster = load_cluster(path)
    for result in measurements().results:
        simulated = run_collective(cluster, Collective(result.op), RANKS, float(result.size)).time_s
        assert simulated == pytest.approx(result.seconds, rel=1e-6)


def test_too_few_measurements_and_malformed_files_are_refused(tmp_path: Path) -> None:
    bench = measurements()
    with pytest.raises(ValueError, match="too few"):
        fit_transport(replace(bench, results=bench.results[:3]))
    bad = tmp_path / "bench.json"
    bad.write_text(json.dumps({"results": [{"op": "all_reduce"}]}))
    with pytest.raises(FileError, match="not a benchmark file"):
        load_bench(bad)
    bad.write_text("{")
    with pytest.raises(FileError, match="not a benchmark file"):
        load_bench(bad)
    with pytest.raises(FileError, match="cannot be read"):
        load_bench(tmp_path / "none.json")
