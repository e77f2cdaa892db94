"""Facts of a job and a cluster, as texts by key, so that a golden file can say later what has changed.

Values are compared as texts of nine digits. Names, descriptions and sources are left out.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np

from dessim.arrays import Floats
from dessim.cluster import Cluster
from dessim.commands.topo_diff import value_text
from dessim.trace.io import Trace
from dessim.trace.schema import Collective
from dessim.units import format_bandwidth, format_size, format_time
from dessim.workload.model import Model
from dessim.workload.scale import Job

Facts = dict[str, str]
LINKS = "links."
LATENCY = "latency."
GPU = "gpu."
TRANSPORT = "transport."
_DIGITS = 9
_MOST_VALUES = 4
"""Different rates of a class of links that are listed one by one."""
_PROSE = ("name", "description", "source", "assumed", "path")


def cluster_facts(cluster: Cluster) -> Facts:
    """The rates and latencies of links by class, the GPUs, the transport, counts, and a hash of the wiring."""
    links = cluster.links
    facts = {
        "gpus": f"{cluster.n_gpus:,}",
        "servers": f"{cluster.n_nodes:,}",
        "fabric": cluster.kind,
        "routing": cluster.routing.policy,
    }
    for kind in links.kinds:
        of_kind = links.of_kind(kind)
        facts[LINKS + kind] = _listed(links.capacity[of_kind], format_bandwidth)
        facts[LATENCY + kind] = _listed(links.latency[of_kind], format_time)
    for gpu, _ in cluster.devices(np.arange(cluster.n_gpus)):
        facts |= {GPU + "name": gpu.name} | dict(_flat(GPU.rstrip("."), gpu))
    facts |= {TRANSPORT + "name": cluster.transport.name} | dict(_flat(TRANSPORT.rstrip("."), cluster.transport))
    wiring = hashlib.sha256(links.src.tobytes() + links.dst.tobytes() + links.kind.tobytes())
    return facts | {"wiring": wiring.hexdigest()[:16]}


def job_facts(job: Job | Trace) -> Facts:
    """The sizes of a job's model, and what was measured of it; or the content of a trace."""
    if isinstance(job, Trace):
        return _trace_facts(job)
    facts = _model_facts(job.model)
    facts |= {f"symbol.{name}": f"{value:.{_DIGITS}g}" for name, value in sorted(job.measured_symbols.items())}
    return facts | {f"measured.{name}": format_time(s, _DIGITS) for name, s in sorted(job.measured_s.items())}


def _model_facts(model: Model) -> Facts:
    return {"model": model.name} | dict(_flat("", model.model_dump(mode="json", exclude={"name"})))


def _trace_facts(trace: Trace) -> Facts:
    """The header, and of every op how often it ran, for how long and with how many bytes, mean over ranks."""
    header = trace.header.to_json()
    facts = dict(_flat("", {key: header[key] for key in ("world_size", "backend", "device", "strategy", "symbols")}))
    totals: dict[str, list[float]] = {}
    for op in (op for rank in trace.ranks for op in rank if op.collective is not Collective.BARRIER):
        calls, us, size = totals.setdefault(op.name, [0.0, 0.0, 0.0])
        totals[op.name] = [calls + 1, us + op.dur_us, size + op.bytes]
    ranks = max(len(trace.ranks), 1)
    for name, (calls, us, size) in sorted(totals.items()):
        mean = f"{calls / ranks:g} calls, {format_time(us * 1e-6 / ranks, _DIGITS)}"
        facts[f"op.{name}"] = mean + (f", {format_size(size / ranks, _DIGITS)}" if size else "")
    return facts


def _listed(values: Floats, text: Any) -> str:
    """How many values there are of each size, such as `1,024 at 50 GB/s`."""
    found, counts = np.unique(values, return_counts=True)
    if len(found) > _MOST_VALUES:
        ends = f"{text(float(found[0]), _DIGITS)} to {text(float(found[-1]), _DIGITS)}"
        return f"{len(values):,} at {ends}, mean {text(float(values.mean()), _DIGITS)}"
    pairs = zip(found.tolist(), counts.tolist(), strict=True)
    return ", ".join(f"{count:,} at {text(value, _DIGITS)}" for value, count in pairs)


def _flat(key: str, value: Any) -> Iterator[tuple[str, str]]:
    """The values below a key as text. A list of tables has one text for each of them."""
    if is_dataclass(value):
        value = {part.name: getattr(value, part.name) for part in fields(value)}
    if isinstance(value, Mapping):
        for name, inner in value.items():
            if name not in _PROSE:
                yield from _flat(f"{key}.{name}" if key else str(name), inner)
    elif isinstance(value, list | tuple) and value and isinstance(value[0], Mapping):
        for number, inner in enumerate(value):
            yield f"{key}.{inner.get('name') or number}", json.dumps(inner)
    elif value not in (None, "", (), []):
        yield key, _words(value) or value_text(key.split("."), value)


def _words(value: Any) -> str:
    """A list of names, or of names with numbers, such as `bf16 9.894e+14 0.8, fp8 ...`; empty for other values."""
    if not isinstance(value, tuple | list):
        return ""
    entries = [entry if isinstance(entry, tuple | list) else [entry] for entry in value]
    if not all(isinstance(entry[0], str) for entry in entries):
        return ""
    return ", ".join(
        " ".join(f"{part:.{_DIGITS}g}" if isinstance(part, float) else str(part) for part in entry) for entry in entries
    )
