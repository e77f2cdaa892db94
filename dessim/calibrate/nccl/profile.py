"""A transport fitted to logs of nccl-tests: matches the logs with a topology, fits, and writes the profile.

The factors start from those of the cluster's own transport and stay near them where the logs show nothing else. Logs
that contradict the topology are refused: more ranks or servers than it has, or a rate above that of its links.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from dessim.calibrate.nccl.fit import cluster_parameters, fit, predict, with_solution
from dessim.calibrate.nccl.logs import Log, Row, read_logs
from dessim.calibrate.nccl.readings import Reading
from dessim.calibrate.nccl.spreads import LeftOut, spread_of, toml_of
from dessim.cluster import Cluster
from dessim.cluster.parts import Nccl, Transport
from dessim.cluster.spread import BAND_NAMES, band
from dessim.collectives.nccl.constants import CONSTANTS, Factors, factor_of, values
from dessim.collectives.nccl.on_cluster import setup_of
from dessim.collectives.nccl.setup import Setup
from dessim.errors import FileError, UsageError
from dessim.files import write_text
from dessim.trace.schema import Collective, sent_factor
from dessim.units import format_size

_TOLERANCE = 1.02
"""Rates are printed with two decimals, and links are a little faster than their nominal rate."""
SPREADS = {"network_efficiency": 0.35}
"""Wider spreads for a measured cluster: some networks never reach their nominal rate."""
_OTHER_NETWORK = 0.8
_MIN_READINGS = 4


@dataclass(frozen=True, slots=True)
class Residual:
    """A reading, in us, and what the fitted transport predicts."""

    reading: Reading
    predicted: float

    @property
    def error(self) -> float:
        """predicted / measured - 1."""
        return self.predicted / self.reading.microseconds - 1


@dataclass(frozen=True, slots=True)
class NcclProfile:
    """A fitted transport, its residuals, the logs it was fitted to, and remarks on lines that were left out."""

    transport: Transport
    residuals: tuple[Residual, ...]
    logs: tuple[str, ...]
    skipped: tuple[str, ...]

    @property
    def median_error(self) -> float:
        """The median relative error of the fit."""
        return median(abs(residual.error) for residual in self.residuals)

    def by_op_and_band(self) -> dict[tuple[str, str], list[float]]:
        """The errors of each op in each band of sizes."""
        found: dict[tuple[str, str], list[float]] = {}
        for residual in self.residuals:
            key = (str(residual.reading.op), BAND_NAMES[band(residual.reading.size)])
            found.setdefault(key, []).append(residual.error)
        return found

    def by_op_and_size(self) -> list[tuple[str, int, float, float, float]]:
        """op, GPUs, bytes, measured us and predicted us; the median of readings that were repeated."""
        found: dict[tuple[str, int, float], list[Residual]] = {}
        for r in self.residuals:
            found.setdefault((str(r.reading.op), r.reading.setup.n, r.reading.size), []).append(r)
        return [
            (*key, median(r.reading.microseconds for r in group), group[0].predicted)
            for key, group in sorted(found.items())
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
            "n": len(self.residuals),
            "median_error": self.median_error,
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
    if len(readings) < _MIN_READINGS:
        raise UsageError(f"{len(readings)} readings are too few for a calibration; it needs {_MIN_READINGS}")
    own = _of_cluster(start, readings[0].setup)
    factors = with_solution(own, fit(readings, parameters(start.network), own))
    names = tuple(path.name for path in paths)
    nccl = replace(start, version=version, factors=factors)
    spread = spread_of(left_out(readings, own, start.network), cluster.transport.spread)
    transport = replace(
        cluster.transport,
        name=f"{cluster.transport.name}, calibrated",
        source=f"fitted to {len(readings)} readings of nccl-tests on {cluster.name}: {', '.join(names)}",
        assumed="",
        nccl=nccl,
        spread=spread,
    )
    residuals = tuple(Residual(r, predict(r, values(r.setup, factors))) for r in readings)
    return NcclProfile(transport, residuals, names, tuple(f"{run.path.name}: {s}" for run in runs for s in run.skipped))


def left_out(readings: Sequence[Reading], start: Factors, network: str) -> list[LeftOut]:
    """Every reading, predicted by a fit to every second of the other sizes; none where there are too few readings."""
    sizes = sorted({reading.size for reading in readings})
    found: list[LeftOut] = []
    for first in (0, 1):
        kept_sizes = sizes[first::2]
        kept = [r for r in readings if r.size in kept_sizes]
        if len(kept) < _MIN_READINGS:
            return []
        factors = with_solution(start, fit(kept, parameters(network), start))
        found += [
            LeftOut(
                op=str(r.op),
                size=r.size,
                across=r.setup.nodes > 1,
                error=math.log(predict(r, values(r.setup, factors)) / r.microseconds),
                gpus=r.setup.n,
            )
            for r in readings
            if r.size not in kept_sizes
        ]
    return found


def parameters(network: str) -> list[Any]:
    """The parameters of a fit, with wider spreads for networks that NCCL's source was not measured on."""
    if network in ("ib", "roce"):
        return cluster_parameters(SPREADS)
    kinds = ("network_ring", "network_tree", "p2p_network", "message")
    wide = {name: _OTHER_NETWORK for name in CONSTANTS if name.startswith(kinds)}
    return cluster_parameters({**SPREADS, **wide, "p2p_network_channel": 0.3, "p2p_message": 1.5})


def write_nccl_profile(path: Path, profile: NcclProfile) -> None:
    """Write a profile as TOML, for `--transport`. Its tables can also be copied into a topology file."""
    write_text(path, to_toml(profile))


def to_toml(profile: NcclProfile) -> str:
    """The TOML text of a profile."""
    transport, nccl = profile.transport, profile.transport.nccl
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
        *toml_of(transport.spread, "transport.spread"),
        "[measured]",
        f"logs = {json.dumps(list(profile.logs), ensure_ascii=False)}",
        f"median_error = {profile.median_error:.4g}",
        "# op, GPUs, bytes, measured us, predicted us",
        "residuals = [",
        *(_residual(residual) for residual in profile.residuals),
        "]",
    ]
    return "\n".join(lines) + "\n"


def _version(runs: Sequence[Log], default: str) -> str:
    """The release that the logs name; one transport has one."""
    found = sorted({run.version for run in runs if run.version})
    if len(found) > 1:
        raise UsageError(f"the logs are of NCCL {' and '.join(found)}; calibrate each release by itself")
    return found[0] if found else default


def _of_cluster(nccl: Nccl, setup: Setup) -> dict[str, float]:
    """The factors for the architecture of the cluster alone."""
    return {name: factor_of(factor, setup) for name, factor in nccl.factors.items()}


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


def _residual(residual: Residual) -> str:
    r = residual.reading
    return f'    ["{r.op}", {r.setup.n}, {r.size:.0f}, {r.microseconds:.6g}, {residual.predicted:.4g}],'


def _text(value: str) -> str:
    return json.dumps(value, ensure_ascii=False)
