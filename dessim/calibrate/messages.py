"""Fit a transport to single messages of des_ref.bench (`dessim.calibrate.plan`) on a cluster whose links are known.

When some ranks send at most k messages each, and w ranks have theirs at the same instant, that takes

    op_overhead + k message_overhead + path latency + w host_overhead + (bytes - burst) / C + ack_share bytes_back / C

with the capacity C of the link that carries most, its bytes, and those of messages that cross it the other way. Short
messages take no time on the wire. Least squares on relative errors, coefficients not negative. What receivers lose when
several senders meet there, and what a single flow does not reach of its link, are read off the long messages, a share
each.

Where all ranks run on one machine, its cores are busy with the bytes of all messages, and with something else:

    core seconds busy = all core seconds * share + bytes / core_rate
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dessim.calibrate.fit import nonnegative
from dessim.calibrate.plan import LONG, SHORT
from dessim.cluster import Cluster
from dessim.cluster.parts import Transport
from dessim.errors import UsageError

_LOST = 0.03
"""What receivers or flows lose at least before it is believed; less is noise."""
GLOO = {op: ("gloo",) for op in ("all_reduce", "reduce_scatter", "all_gather", "all_to_all", "broadcast")}


@dataclass(frozen=True, slots=True)
class Residual:
    """One measurement and what the fit says of it, seconds."""

    name: str
    measured_s: float
    predicted_s: float


@dataclass(frozen=True, slots=True)
class _Round:
    """What a measured op is to the network: `messages` of `size` bytes, at most `sends` by one rank, `woken` ranks that
    have theirs at the same instant, through a link that carries `load` bytes and `back` the other way."""

    name: str
    seconds: float
    messages: int
    sends: int
    woken: int
    size: int
    load: float
    back: float

    @property
    def is_short(self) -> bool:
        return self.size <= SHORT

    @property
    def is_long(self) -> bool:
        return self.size >= LONG


def fit_messages(
    results: Sequence[Mapping[str, Any]], cluster: Cluster, name: str, one_machine: bool = False
) -> tuple[Transport, list[Residual]]:
    """The transport, and how well it explains what was measured. Raises UsageError when something is missing."""
    rounds = [found for r in results if len(r.get("ranks", [])) > 1 and (found := _round(r)) is not None]
    used = [r for r in rounds if r.is_short or (r.is_long and not r.name.startswith("fan_in"))]
    if not any(r.is_short for r in used) or not any(r.is_long for r in used):
        raise UsageError("too few measurements; time what `dessim calibrate --plan RANKS -o cases.json` writes")
    rate = cluster.node.nic.capacity
    latency = float(cluster.routes([0], [1]).latency[0])
    costs = _fit(used, rate, latency)
    seen = [(r, _seconds(r, costs, rate, latency)) for r in rounds]
    alone = _share([(r, s) for r, s in seen if r.is_long and r.messages == 1])
    curve = [(1.0, 1.0)]
    for k in sorted({r.messages for r, _ in seen if r.name.startswith("fan_in")}):
        share = _share([(r, s) for r, s in seen if r.name.startswith("fan_in") and r.messages == k])
        curve.append((float(k), min(share / alone, curve[-1][1])))
    sums = [r for r in results if r["op"] == "local_sum"]
    op, message, host, burst, back = costs
    transport = Transport(
        name=name,
        message_overhead=message,
        op_overhead=op,
        reduction_rate=max(float(r["bytes"]) / float(r["seconds"]) for r in sums) if sums else np.inf,
        source="fitted to messages of des_ref.bench",
        algorithms=GLOO,
        flow_rate=alone * rate if alone < 1 - _LOST else np.inf,
        fan_in=tuple(curve) if curve[-1][1] < 1 - _LOST else (),
        ack_share=back,
        burst=burst,
        host_overhead=host,
        core_rate=_core_rate(results) if one_machine else np.inf,
    )
    return transport, [Residual(r.name, r.seconds, s) for r, s in seen]


def _round(result: Mapping[str, Any]) -> _Round | None:
    """None for what is no calibration's."""
    op, size, n = str(result["op"]), int(result["bytes"]), len(result["ranks"])
    name = f"{op} {size} B, {n} ranks"
    seconds = float(result["seconds"])
    match op:
        case "send_recv":
            return _Round(name, seconds, n, 1, n, size, size, size)
        case "fan_out" | "fan_in":
            sends = n - 1 if op == "fan_out" else 1
            return _Round(name, seconds, n - 1, sends, 1, size, size * (n - 1), 0.0)
        case _:
            return None


def _core_rate(results: Sequence[Mapping[str, Any]]) -> float:
    """Bytes/s of messages that keep a core busy; inf where no core was, or nobody counted."""
    table = []
    for result in results:
        found = _round(result) if len(result.get("ranks", [])) > 1 else None
        if found is not None and found.is_long and result.get("cores_s", 0.0) > 0:
            moved = float(found.messages * found.size * result["iterations"])
            table.append((float(result["cores_s"]), moved, float(result["cores_busy_s"])))
    if not table:
        return np.inf
    # Not relative: ticks are coarse, and the longest cases count most of them.
    all_s, moved, busy_s = np.array(table).T
    _, a_byte = nonnegative(np.column_stack([all_s, moved]), busy_s)
    return float(1 / a_byte) if a_byte > 0 else np.inf


def _terms(r: _Round, rate: float) -> list[float]:
    """How often op_overhead, message_overhead, host_overhead, burst and ack_share count, seconds each."""
    long = float(not r.is_short)
    return [1.0, r.sends, r.woken, -long / rate, long * r.back / rate]


def _known(r: _Round, rate: float, latency: float) -> float:
    """Seconds that the cluster's description explains."""
    return latency + (0.0 if r.is_short else r.load / rate)


def _fit(rounds: Sequence[_Round], rate: float, latency: float) -> tuple[float, ...]:
    """op_overhead, message_overhead, host_overhead, burst, ack_share."""
    table = np.array([_terms(r, rate) for r in rounds])
    left = np.array([r.seconds - _known(r, rate, latency) for r in rounds])
    seconds = np.array([r.seconds for r in rounds])
    return tuple(float(x) for x in nonnegative(table / seconds[:, None], left / seconds))


def _seconds(r: _Round, costs: Sequence[float], rate: float, latency: float) -> float:
    """What a fit says of a round."""
    terms, known = _terms(r, rate), _known(r, rate, latency)
    after = sum(term * cost for term, cost in zip(terms, costs, strict=True))
    least = costs[0] + costs[1] * r.sends + costs[2] * r.woken + latency  # a burst does not hide these
    return max(known + after, least)


def _share(seen: Sequence[tuple[_Round, float]]) -> float:
    """The share of its link that these got, 1 where as fast as predicted or faster."""
    return min(1.0, float(np.median([predicted / r.seconds for r, predicted in seen])))
