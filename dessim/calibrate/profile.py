"""A transport profile: a calibrated transport as a TOML file, with its origin and the quality of the fit."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from dessim.calibrate.bench import Bench
from dessim.calibrate.messages import Residual, fit_messages
from dessim.calibrate.spreads import toml_of
from dessim.cluster import Cluster, load_cluster
from dessim.cluster.load import load_catalogue
from dessim.cluster.parts import Transport
from dessim.cluster.spec.parts import TransportTable
from dessim.cluster.spec.topology_file import problems
from dessim.cluster.spread import OTHER
from dessim.errors import FileError, UsageError
from dessim.files import read_toml, write_text
from dessim.wording import did_you_mean


@dataclass(frozen=True, slots=True)
class Profile:
    """A calibrated transport and its residuals; `where` describes the machine on which it was measured."""

    transport: Transport
    residuals: tuple[Residual, ...]
    where: Mapping[str, str]

    @property
    def median_error(self) -> float:
        """The median relative error of the fit."""
        return float(np.median([abs(r.predicted_s / r.measured_s - 1) for r in self.residuals]))

    def to_json(self) -> dict[str, Any]:
        """The profile with units in its keys; unlimited rates are left out."""
        t = self.transport
        rates = {f"{key}_GBps": getattr(t, key) / 1e9 for key in ("reduction_rate", "flow_rate", "core_rate")}
        return {
            "transport": t.name,
            "message_overhead_s": t.message_overhead,
            "op_overhead_s": t.op_overhead,
            "host_overhead_s": t.host_overhead,
            "ack_share": t.ack_share,
            "burst_bytes": t.burst,
            **{key: rate for key, rate in rates.items() if math.isfinite(rate)},
            **({"window_bytes": t.window} if math.isfinite(t.window) else {}),
            "fan_in": [list(point) for point in t.fan_in],
            "n": len(self.residuals),
            "median_error": self.median_error,
            "spread": None if t.spread is None else [*t.spread.between[OTHER]],
            "where": dict(self.where),
        }


def fit_profile(measured: Mapping[str, Any]) -> Profile:
    """Fit a transport to a calibration that ran on the lab, as JSON.

    `measured` has the keys `cluster` (the name of a topology), `where` (texts that describe the machine) and `bench`
    (the content of a des_ref.bench file). Raises ClusterError, and UsageError if a key is missing or malformed.
    """
    try:
        bench = Bench.from_json(measured["bench"])
        cluster = str(measured["cluster"])
        where = {str(key): str(value) for key, value in measured["where"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"not a calibration of dessim: {error}") from None
    return fit_bench(bench, load_cluster(cluster), where, one_machine=True)


def fit_bench(bench: Bench, cluster: Cluster, where: Mapping[str, str], one_machine: bool = False) -> Profile:
    """Fit a transport to a benchmark on `cluster`; with `one_machine` all ranks shared the cores of one machine.

    Raises UsageError if there are too few measurements.
    """
    transport, residuals = fit_messages(bench.results, cluster, f"{bench.backend}, calibrated", one_machine)
    source = f"fitted to {len(residuals)} measurements by des_ref.bench on {cluster.name}: {', '.join(where.values())}"
    transport = replace(transport, source=source, window=bench.window)
    return Profile(transport, tuple(residuals), where)


def load_transport(path: Path) -> Transport:
    """The transport of a profile file, or the shipped one of that name. Raises FileError."""
    shipped = load_catalogue()["transport"]
    if not path.exists() and str(path) in shipped:
        return TransportTable.model_validate({"name": str(path), **shipped[str(path)]}).build()
    if not path.exists() and not path.suffix:
        hint = did_you_mean(str(path), shipped)
        raise FileError(path, "", f"no such profile or shipped transport; {hint}shipped: {', '.join(shipped)}")
    tables = read_toml(path)
    if "transport" not in tables:
        raise FileError(path, "", "has no [transport]; write one with: dessim calibrate --nccl-tests LOG... -o PROFILE")
    try:
        return TransportTable.model_validate(tables["transport"]).build()
    except ValidationError as error:
        raise FileError(path, "transport", problems(error)) from None


def with_profile(cluster: Cluster, path: Path | None) -> Cluster:
    """The cluster with the transport of a profile file (None: with its own transport). Raises FileError."""
    return cluster if path is None else replace(cluster, transport=load_transport(path))


def write_profile(path: Path, profile: Profile) -> None:
    """Write a profile as TOML, for `load_transport`. Its tables can also be copied into a topology file."""
    write_text(path, to_toml(profile))


def to_toml(profile: Profile) -> str:
    """The TOML text of a profile."""
    t = profile.transport
    lines = [
        "# Written by dessim calibrate. Use it with --transport, or copy [transport] into a topology file.",
        "",
        "[transport]",
        f"name = {_text(t.name)}",
        f"message_overhead = {_micro(t.message_overhead)}",
        f"op_overhead = {_micro(t.op_overhead)}",
        f"host_overhead = {_micro(t.host_overhead)}",
        *([f'reduction_rate = "{t.reduction_rate / 1e9:.4g} GB/s"'] if math.isfinite(t.reduction_rate) else []),
        *([f'flow_rate = "{t.flow_rate / 1e6:.6g} MB/s"'] if math.isfinite(t.flow_rate) else []),
        *([f"fan_in = {[[int(k), round(share, 4)] for k, share in t.fan_in]}"] if t.fan_in else []),
        f"ack_share = {t.ack_share:.4g}",
        f'burst = "{t.burst:.6g} B"',
        *([f'core_rate = "{t.core_rate / 1e6:.4g} MB/s"'] if math.isfinite(t.core_rate) else []),
        *([f'window = "{t.window:.6g} B"'] if math.isfinite(t.window) else []),
        f"source = {_text(t.source)}",
        "",
        "[transport.algorithms]",
        *(f"{op} = {json.dumps(list(names))}" for op, names in t.algorithms.items()),
        "",
        *toml_of(t.spread, "transport.spread"),
        "[measured]",
        *(f"{key} = {_text(value)}" for key, value in profile.where.items()),
        f"median_error = {profile.median_error:.4g}",
        "# measured case, measured seconds, predicted seconds",
        "residuals = [",
        *(_residual(r) for r in profile.residuals),
        "]",
    ]
    return "\n".join(lines) + "\n"


def _residual(r: Residual) -> str:
    return f"    [{_text(r.name)}, {r.measured_s:.4g}, {r.predicted_s:.4g}],"


def _micro(seconds: float) -> str:
    return f'"{seconds * 1e6:.4g} us"'


def _text(value: str) -> str:
    return json.dumps(value, ensure_ascii=False)
