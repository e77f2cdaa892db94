"""Transports from logs of nccl-tests: the fit, what contradicts the topology, and the file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from dessim.calibrate.nccl.fit import cluster_parameters, fit, predict, with_solution
from dessim.calibrate.nccl.profile import fit_nccl_logs, to_toml, write_nccl_profile
from dessim.calibrate.nccl.readings import Reading, repeated
from dessim.calibrate.profile import load_transport, with_profile
from dessim.cluster import Cluster, load_cluster
from dessim.cluster.spread import band
from dessim.collectives import Options
from dessim.collectives.nccl.constants import factor_of, values
from dessim.collectives.nccl.setup import Setup
from dessim.collectives.timing import Timing
from dessim.commands.collective import CollectiveRequest, time_collective
from dessim.errors import FileError, UsageError
from dessim.trace.schema import Collective
from tests.calibrate.nccl.logs import TIMES, log

H100 = Setup("hopper", 8, 1, 8, 370.8, nics=8, nic=50.0, network="ib", nvls=True)


@pytest.fixture(scope="module")
def h100() -> Cluster:
    return load_cluster("h100-8x_rail_128")


def written(tmp_path: Path, text: str, name: str = "all_reduce.log") -> Path:
    path = tmp_path / name
    path.write_text(text)
    return path


def test_the_fit_finds_what_made_the_readings() -> None:
    """Readings of a cluster with slower launches and hops and a network at three quarters of its rate."""
    true = {"launch": 1.5, "hop_ll": 1.4, "network_efficiency": 0.75, "network_ring_simple": 1.6}
    several = [H100, replace(H100, n=32, nodes=4)]
    ops = (Collective.ALL_REDUCE, Collective.ALL_GATHER, Collective.ALL_TO_ALL)
    cases = [Reading(op, 8.0 * 4**k, 0.0, setup) for setup in several for op in ops for k in range(14)]
    readings = [replace(case, microseconds=predict(case, values(case.setup, true))) for case in cases]
    found = with_solution({}, fit(readings, cluster_parameters({"network_efficiency": 0.35})))
    errors = [abs(predict(r, values(r.setup, found)) / r.microseconds - 1) for r in readings]
    assert sorted(errors)[len(errors) // 2] < 0.02 and max(errors) < 0.15
    assert found["network_efficiency"] == pytest.approx(0.75, rel=0.05)


def test_one_wild_reading_changes_little() -> None:
    cases = [Reading(Collective.ALL_REDUCE, 8.0 * 2**k, 0.0, H100) for k in range(28)]
    readings = [replace(case, microseconds=predict(case, values(H100, {}))) for case in cases]
    wild = [replace(readings[5], microseconds=40 * readings[5].microseconds), *readings[:5], *readings[6:]]
    found = with_solution({}, fit(wild, cluster_parameters()))
    assert all(predict(r, values(H100, found)) == pytest.approx(r.microseconds, rel=0.04) for r in readings)


def test_the_fit_is_repeatable_to_the_last_digit(tmp_path: Path, h100: Cluster) -> None:
    path = written(tmp_path, log())
    assert to_toml(fit_nccl_logs([path], h100)) == to_toml(fit_nccl_logs([path], h100))


def test_repeated_readings_count_once() -> None:
    readings = [Reading(Collective.ALL_REDUCE, 8.0, time, H100) for time in (10.0, 30.0, 11.0)]
    assert [reading.microseconds for reading in repeated(readings)] == [11.0]
    assert [band(size) for size in (8, 65536, 65537, 8 << 20, (8 << 20) + 1)] == [0, 0, 1, 1, 2]


def test_a_profile_is_written_read_and_used(tmp_path: Path, h100: Cluster) -> None:
    times = [(size, 1.3 * time) for size, time in TIMES]
    profile = fit_nccl_logs([written(tmp_path, log(times=times))], h100)
    write_nccl_profile(tmp_path / "mine.toml", profile)
    transport = load_transport(tmp_path / "mine.toml")
    assert transport == replace(profile.transport, nccl=transport.nccl) and transport.nccl is not None
    assert transport.nccl.version == "2.29"
    assert profile.transport.nccl is not None and transport.nccl.curves == profile.transport.nccl.curves
    assert [curve.shape for curve in transport.nccl.curves] == [("all_reduce", 8, 1, 1)]
    machine = with_profile(h100, tmp_path / "mine.toml")
    request = CollectiveRequest(cluster=machine, op=Collective.ALL_REDUCE, gpus=8, size=1 << 30)
    before = time_collective(replace(request, cluster=h100)).time_s
    assert time_collective(request).time_s > 1.05 * before
    assert profile.median_error < 0.15
    assert profile.by_op_and_size()[0][:3] == ("all_reduce", 8, 8.0)


def test_a_calibration_starts_from_the_factors_of_the_transport(tmp_path: Path, h100: Cluster) -> None:
    """Readings that the transport already explains leave its factors as they are."""
    nccl = h100.transport.nccl
    assert nccl is not None
    times = [(8 * 4**k, time_collective(_request(h100, 8 * 4**k)).time_s * 1e6) for k in range(13)]
    profile = fit_nccl_logs([written(tmp_path, log(times=times))], h100)
    assert profile.median_error < 0.01 and profile.transport.nccl is not None
    for name, factor in profile.transport.nccl.factors.items():
        assert factor == pytest.approx(factor_of(nccl.factors.get(name, 1.0), H100), rel=0.05), name


def _request(cluster: Cluster, size: int) -> CollectiveRequest:
    options = Options(timing=Timing.REPEATED)
    return CollectiveRequest(cluster=cluster, op=Collective.ALL_REDUCE, gpus=8, size=size, options=options)


def test_a_shipped_transport_is_known_by_name(h100: Cluster) -> None:
    assert with_profile(h100, Path("nccl-roce")).transport.name == "nccl-roce"
    with pytest.raises(
        FileError, match=r"no such profile or shipped transport; did you mean nccl-tcpxo[?] shipped: ideal, nccl-ib"
    ):
        with_profile(h100, Path("nccl-pigeon"))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (log(ranks=2048, hosts=256), "lists 2048 ranks on 256 servers; .* has 1024 GPUs on 128 servers"),
        (log(ranks=16, hosts=1), "lists 16 ranks on 1 servers; a server of .* has 8"),
        (
            log(times=[*TIMES, (1 << 33, 9000.0)]),
            r"line 24: all_reduce of 8 GiB has a busbw of 1670 GB/s, above the 900",
        ),
        (log(times=[(1 << 30, 1000.0)], ranks=32, hosts=4), "above the 400 GB/s of the NICs"),
        (log(times=TIMES[:2]), "2 readings are too few"),
    ],
)
def test_logs_that_contradict_the_topology_are_refused(tmp_path: Path, h100: Cluster, text: str, problem: str) -> None:
    with pytest.raises((FileError, UsageError), match=problem):
        fit_nccl_logs([written(tmp_path, text)], h100)


def test_only_nccl_transports_are_fitted(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="transport 'ideal' is not NCCL; write transport = \"nccl-ib\""):
        fit_nccl_logs([written(tmp_path, log())], load_cluster("one-switch_16"))


def test_two_releases_are_two_calibrations(tmp_path: Path, h100: Cluster) -> None:
    other = log("all_gather").replace("nccl-library=22902", "nccl-library=21805")
    paths = [written(tmp_path, log()), written(tmp_path, other, "all_gather.log")]
    with pytest.raises(UsageError, match=r"NCCL 2.18 and 2.29; calibrate each release by itself"):
        fit_nccl_logs(paths, h100)
