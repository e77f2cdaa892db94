"""A transport fitted to logs of nccl-tests: matches the logs with a topology, fits, and writes the profile.

The factors start from those of the cluster's own transport and stay near them where the logs show nothing else. Logs
that contradict the topology are refused: more ranks or servers than it has, or a rate above that of its links.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from dessim.calibrate.nccl.calibration import MIN_READINGS, calibrated, expected
from dessim.calibrate.nccl.logs import Log, Row, read_logs
from dessim.calibrate.nccl.readings import Reading
from dessim.calibrate.spreads import LeftOut, toml_of
from dessim.cluster import Cluster
from dessim.cluster.curves import Curve
from dessim.cluster.parts import Transport
from dessim.cluster.spread import BAND_NAMES, band
from dessim.collectives.nccl.constants import factors_of
from dessim.collectives.nccl.on_cluster import setup_of
from dessim.collectives.nccl.setup import Setup
from dessim.errors import FileError, UsageError
from dessim.files import write_text
from dessim.trace.schema import Collective, sent_factor
from dessim.units import format_size, parse_size

_ON_A_LINE = 6
"""Points of a curve on a line of the file."""
_TOLERANCE = 1.02
"""Rates are printed with two decimals, and links are a little faster than their nominal rate."""


@dataclass(frozen=True, slots=True)
class Residual:
    """A reading, in us, and what the fitted constants alone predict."""

    reading: Reading
    predicted: float

    @property
    def error(self) -> float:
        """predicted / measured - 1."""
        return self.predicted / self.reading.microseconds - 1


@dataclass(frozen=True, slots=True)
class NcclProfile:
    """A fitted transport, its residuals, the logs it was fitted to, and remarks on lines that were not read.

    `left_out` are the errors of sizes that a calibration with every other size did not see.
    """

    transport: Transport
    residuals: tuple[Residual, ...]
    left_out: tuple[LeftOut, ...]
    logs: tuple[str, ...]
    skipped: tuple[str, ...]

    @property
    def median_error(self) -> float:
        """The median relative error of the constants."""
        return median(abs(residual.error) for residual in self.residuals)

    def unseen(self) -> dict[str, float]:
        """By band, the median relative error of sizes that were left out; without bands that have none."""
        by_band = {name: [r for r in self.left_out if BAND_NAMES[band(r.size)] == name] for name in BAND_NAMES}
        return {name: median(abs(math.expm1(r.error)) for r in rs) for name, rs in by_band.items() if rs}

    def by_op_and_band(self) -> dict[tuple[str, str], list[float]]:
        """The errors of each op in each band of sizes."""
        errors: dict[tuple[str, str], list[float]] = {}
        for residual in self.residuals:
            key = (str(residual.reading.op), BAND_NAMES[band(residual.reading.size)])
            errors.setdefault(key, []).append(residual.error)
        return errors

    def by_op_and_size(self) -> list[tuple[str, int, float, float, float]]:
        """op, GPUs, bytes, measured us and predicted us; the median of readings that were repeated."""
        groups: dict[tuple[str, int, float], list[Residual]] = {}
        for r in self.residuals:
            groups.setdefault((str(r.reading.op), r.reading.setup.n, r.reading.size), []).append(r)
        return [
            (*key, median(r.reading.microseconds for r in group), group[0].predicted)
            for key, group in sorted(groups.items())
        ]

    def to_json(self) -> dict[str, Any]:
        """The profile with units in its keys."""
        nccl = self.transport.nccl
        assert nccl is not None
        return {
            "transport": self.transport.name,
            "network": nccl.network,
            "version": nccl.version,
            "factors": dict(nccl.factors),
            "curves": [asdict(curve) for curve in nccl.curves],
            "n": len(self.residuals),
            "median_error": self.median_error,
            "median_error_left_out": self.unseen(),
            "errors": [
                {"op": op, "sizes": sizes, "n": len(errors), "median_error": median(map(abs, errors))}
                for (op, sizes), errors in self.by_op_and_band().items()
            ],
            "logs": list(self.logs),
            "skipped": list(self.skipped),
        }


def fit_nccl_logs(paths: Sequence[Path], cluster: Cluster) -> NcclProfile:
    """Fit the transport of `cluster` to logs. Raises FileError, and UsageError where the cluster has no NCCL."""
    start = cluster.transport.nccl
    if start is None:
        raise UsageError(
            f"{cluster.path}: transport {cluster.transport.name!r} is not NCCL; "
            'write transport = "nccl-ib", or another that begins with nccl-'
        )
    runs = [run for path in paths for run in read_logs(path)]
    version = _version(runs, start.version)
    readings = [reading for run in runs for reading in _readings(run, cluster, version)]
    if len(readings) < MIN_READINGS:
        raise UsageError(f"{len(readings)} readings are too few for a calibration; it needs {MIN_READINGS}")
    own = factors_of(start.factors, readings[0].setup)
    calibration = calibrated(readings, own, start.network, cluster.transport.spread)
    names = tuple(path.name for path in paths)
    transport = replace(
        cluster.transport,
        name=f"{cluster.transport.name}, calibrated",
        source=f"fitted to {len(readings)} readings of nccl-tests on {cluster.name}: {', '.join(names)}",
        assumed="",
        nccl=replace(start, version=version, factors=calibration.factors, curves=calibration.curves),
        spread=calibration.spread,
    )
    residuals = tuple(Residual(r, expected(r, calibration.factors, ())) for r in readings)
    skipped = tuple(f"{run.path.name}: {s}" for run in runs for s in run.skipped)
    return NcclProfile(transport, residuals, calibration.left_out, names, skipped)


def write_nccl_profile(path: Path, profile: NcclProfile) -> None:
    """Write a profile as TOML, for `--transport`. Its tables can also be copied into a topology file."""
    write_text(path, to_toml(profile))


def to_toml(profile: NcclProfile) -> str:
    """The TOML text of a profile."""
    transport = profile.transport
    nccl = profile.transport.nccl
    assert nccl is not None
    lines = [
        "# Written by dessim calibrate. Use it with --transport, or copy [transport] into a topology file.",
        "",
        "[transport]",
        f"name = {_text(transport.name)}",
        f'message_overhead = "{transport.message_overhead * 1e6:.4g} us"',
        f'op_overhead = "{transport.op_overhead * 1e6:.4g} us"',
        f"source = {_text(transport.source)}",
        "",
        "[transport.algorithms]",
        *(f"{op} = {json.dumps(list(names))}" for op, names in transport.algorithms.items()),
        "",
        "[transport.nccl]",
        f"network = {_text(nccl.network)}",
        f"version = {_text(nccl.version)}",
        f"amd = {json.dumps(nccl.amd)}",
        f"collnet = {json.dumps(nccl.collnet)}",
        "",
        "# Factors on the constants of NCCL's model; 1 is the value of NCCL's source.",
        "[transport.nccl.factors]",
        *(f"{name} = {_number(factor)}" for name, factor in nccl.factors.items()),
        "",
        "# Measured time over that of the constants, by size, for an op on these GPUs and servers.",
        *(line for curve in nccl.curves for line in _curve(curve)),
        *toml_of(transport.spread, "transport.spread"),
        "[measured]",
        f"logs = {json.dumps(list(profile.logs), ensure_ascii=False)}",
        f"median_error = {profile.median_error:.4g}",
        "# op, GPUs, bytes, measured us, us that the constants predict",
        "residuals = [",
        *(_residual(residual) for residual in profile.residuals),
        "]",
    ]
    return "\n".join(lines) + "\n"


def _version(runs: Sequence[Log], default: str) -> str:
    """The release that the logs name; one transport has one."""
    versions = sorted({run.version for run in runs if run.version})
    if len(versions) > 1:
        raise UsageError(f"the logs are of NCCL {' and '.join(versions)}; calibrate each release by itself")
    return versions[0] if versions else default


def _readings(run: Log, cluster: Cluster, version: str) -> list[Reading]:
    """The rows of a run, on the GPUs of the cluster that it used. Raises FileError."""
    ranks = run.ranks or cluster.n_gpus
    servers = len(run.hosts) or -(-ranks // cluster.node.gpus)
    where = f"line {run.line}"
    if ranks > cluster.n_gpus or servers > cluster.n_nodes:
        has = f"{cluster.n_gpus} GPUs on {cluster.n_nodes} servers"
        raise FileError(run.path, where, f"lists {ranks} ranks on {servers} servers; {cluster.path} has {has}")
    if ranks < 2 or -(-ranks // servers) > cluster.node.gpus:
        raise FileError(
            run.path,
            where,
            f"lists {ranks} ranks on {servers} servers; a server of {cluster.path} has {cluster.node.gpus}",
        )
    setup = replace(setup_of(cluster, _gpus(cluster, ranks, servers)), version=version)
    setup = replace(setup, gpus_per_process=min(run.gpus_per_process, setup.per_node))
    for row in run.rows:
        _check_rate(run, row, setup, cluster)
    return [Reading(row.op, row.size, row.microseconds, setup) for row in run.rows]


def _gpus(cluster: Cluster, ranks: int, servers: int) -> Any:
    """The first GPUs of each server, as evenly as possible."""
    counts = [ranks // servers + (server < ranks % servers) for server in range(servers)]
    return np.concatenate([np.arange(count) + server * cluster.node.gpus for server, count in enumerate(counts)])


def _check_rate(run: Log, row: Row, setup: Setup, cluster: Cluster) -> None:
    """Refuse a rate that the links of the topology cannot carry."""
    rate = row.size * sent_factor(row.op, setup.n) / row.microseconds * 1e-3
    limit, what = _fastest(row.op, setup, cluster)
    if rate > limit * _TOLERANCE:
        raise FileError(
            run.path,
            f"line {row.line}",
            f"{row.op} of {format_size(row.size)} has a busbw of {rate:.4g} GB/s, above the {limit:.4g} GB/s "
            f"of {what} in {cluster.path}; is it the right cluster?",
        )


def _fastest(op: Collective, setup: Setup, cluster: Cluster) -> tuple[float, str]:
    """The bus bandwidth [GB/s] that no algorithm exceeds, and the links that set it.

    Sums in the NVSwitch, and trees between two servers, move each byte once where a ring moves it twice.
    """
    link = cluster.node.nvlink or cluster.node.pcie or cluster.node.nic
    once = 2.0 if op is Collective.ALL_REDUCE else 1.0
    inside = link.rate / 1e9 * (once if setup.nvls else 1.0)
    if setup.nodes == 1:
        return inside, "NVLink" if cluster.node.nvlink else "PCIe"
    network = setup.node_network * (once if setup.nodes == 2 or setup.sharp else 1.0)
    if op in (Collective.ALL_TO_ALL, Collective.GATHER, Collective.SCATTER):
        network = network / setup.per_node * (setup.n - 1) / max(1, setup.n - setup.per_node)
    elif op is Collective.SEND_RECV:
        network = max(inside, network)
    return (inside, "NVLink") if inside < network else (network, "the NICs")


def _number(factor: float | Mapping[str, float]) -> str:
    assert isinstance(factor, int | float)
    return f"{factor:.4f}"


def _curve(curve: Curve) -> list[str]:
    points = [f'["{_size(size)}", {factor}],' for size, factor in curve.points]
    return [
        "[[transport.nccl.curves]]",
        f"op = {_text(curve.op)}",
        f"gpus = {curve.gpus}",
        f"servers = {curve.servers}",
        *([f"gpus_per_process = {curve.gpus_per_process}"] if curve.gpus_per_process > 1 else []),
        "points = [",
        *("    " + " ".join(points[i : i + _ON_A_LINE]) for i in range(0, len(points), _ON_A_LINE)),
        "]",
        *([f"spread = {list(curve.spread)}"] if curve.spread is not None else []),
        "",
    ]


def _size(size: float) -> str:
    """A size that reads well where that is exact."""
    text = format_size(size)
    return text if parse_size(text) == size else f"{size:.0f} B"


def _residual(residual: Residual) -> str:
    r = residual.reading
    return f'    ["{r.op}", {r.setup.n}, {r.size:.0f}, {r.microseconds:.6g}, {residual.predicted:.4g}],'


def _text(value: str) -> str:
    return json.dumps(value, ensure_ascii=False)
