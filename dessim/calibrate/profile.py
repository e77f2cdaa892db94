"""A transport profile: a calibrated transport as a TOML file, with where it comes from and how well it fits."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from dessim.calibrate.messages import Residual, fit_messages
from dessim.cluster import Cluster, load_cluster
from dessim.cluster.parts import Transport
from dessim.cluster.spec.parts import TransportTable
from dessim.cluster.spec.topology_file import problems
from dessim.errors import FileError
from dessim.files import read_toml, write_text


@dataclass(frozen=True, slots=True)
class Profile:
    """`where` says on what it was measured, a value a key."""

    transport: Transport
    residuals: tuple[Residual, ...]
    where: Mapping[str, str]

    @property
    def median_error(self) -> float:
        """Of the fit, relative."""
        return float(np.median([abs(r.predicted_s / r.measured_s - 1) for r in self.residuals]))

    def to_json(self) -> dict[str, Any]:
        """Units in the keys; a rate without limit is left out."""
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
            "where": dict(self.where),
        }


def fit_profile(measured: Mapping[str, Any]) -> Profile:
    """Fit to `{"cluster": topology, "where": {...}, "bench": a file of des_ref.bench}`. Raises ClusterError."""
    return fit_bench(measured["bench"], load_cluster(measured["cluster"]), measured["where"], one_machine=True)


def fit_bench(
    bench: Mapping[str, Any], cluster: Cluster, where: Mapping[str, str], one_machine: bool = False
) -> Profile:
    """Fit to what des_ref.bench measured on a cluster, all of it on `one_machine` or not. Raises UsageError where too
    little was measured."""
    transport, residuals = fit_messages(bench["results"], cluster, f"{bench['backend']}, calibrated", one_machine)
    said = f"fitted to {len(residuals)} measurements by des_ref.bench on {cluster.name}: {', '.join(where.values())}"
    transport = replace(transport, source=said, window=float(bench.get("window", math.inf)))
    return Profile(transport, tuple(residuals), where)


def load_transport(path: Path) -> Transport:
    """The transport of a profile. Raises FileError."""
    tables = read_toml(path)
    if "transport" not in tables:
        raise FileError(path, "", "has no [transport]; write one with: dessim calibrate --lab FILE -o PROFILE")
    try:
        return TransportTable.model_validate(tables["transport"]).build()
    except ValidationError as error:
        raise FileError(path, "transport", problems(error)) from None


def with_profile(cluster: Cluster, path: Path | None) -> Cluster:
    """The cluster with the transport of a profile (None: with its own). Raises FileError."""
    return cluster if path is None else replace(cluster, transport=load_transport(path))


def write_profile(path: Path, profile: Profile) -> None:
    """As TOML; `load_transport` reads it, and so does a topology file that takes its tables over."""
    write_text(path, to_toml(profile))


def to_toml(profile: Profile) -> str:
    """The text of a profile."""
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
        "[measured]",
        *(f"{key} = {_text(value)}" for key, value in profile.where.items()),
        f"median_error = {profile.median_error:.4g}",
        "# what was measured, seconds it took, seconds the fit gives it",
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


def of_results(files: Sequence[Path]) -> dict[str, Any]:
    """Several files of des_ref.bench from one job as one. Raises FileError."""
    found: dict[str, Any] = {}
    for path in files:
        try:
            bench = json.loads(path.read_text("utf-8"))
            results, world, backend = bench["results"], int(bench["world_size"]), str(bench["backend"])
        except OSError as error:
            raise FileError(path, "", f"cannot be read: {error.strerror}") from None
        except (ValueError, KeyError, TypeError) as error:
            raise FileError(path, "", f"not a file of des_ref.bench: {error!r}") from None
        if found and (found["world_size"], found["backend"]) != (world, backend):
            raise FileError(
                path, "", f"{world} ranks on {backend}, the file before {found['world_size']} on {found['backend']}"
            )
        found = {"world_size": world, "backend": backend, "results": [*found.get("results", []), *results]}
    return found
