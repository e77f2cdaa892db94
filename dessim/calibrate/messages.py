"""Fit a transport to single messages that des_ref.bench timed on a cluster whose links are known.

`dessim.calibrate.plan` lists the messages. In each measurement some ranks send k messages at most, w ranks have their
messages at the same instant, and one link of capacity C carries the most bytes. It takes

    op_overhead + k message_overhead + route latency + w host_overhead + (bytes - burst) / C + ack_share bytes_back / C

seconds, where `bytes_back` cross that link in the opposite direction. Short messages take no time on the wire.

The costs are fitted by least squares on relative errors, with no coefficient below zero. Two more effects are read off
the long messages: the rate that a receiver loses when several senders send to it at once (incast), and the share of its
link that a single flow does not reach.

If all ranks run on one machine, its cores are busy with the bytes of all messages, and with other work:

    busy core seconds = all core seconds * share of other work + bytes / core_rate
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from dessim.calibrate.bench import BenchResult
from dessim.calibrate.fit import nonnegative
from dessim.calibrate.plan import LONG, SHORT
from dessim.calibrate.spreads import LeftOut, halves, spread_between_servers
from dessim.cluster import Cluster
from dessim.cluster.parts import Transport
from dessim.cluster.spread import Spread
from dessim.errors import UsageError

_MIN_LOSS = 0.03
"""A smaller relative loss of receivers or flows counts as noise."""
GLOO = {op: ("gloo",) for op in ("all_reduce", "reduce_scatter", "all_gather", "all_to_all", "broadcast")}


@dataclass(frozen=True, slots=True)
class Residual:
    """One measurement beside its prediction by the fit, in seconds."""

    name: str
    measured_s: float
    predicted_s: float


class _Costs(NamedTuple):
    """The fitted coefficients, as in `Transport`: seconds, but `burst` in bytes and `ack_share` a share."""

    op_overhead: float
    message_overhead: float
    host_overhead: float
    burst: float
    ack_share: float


@dataclass(frozen=True, slots=True)
class _Round:
    """A measured op as the network sees it: `messages` messages of `size` bytes, at most `sends` by one rank.

    `woken` ranks have their messages at the same instant. The busiest link carries `load` bytes, and `back` bytes in
    the opposite direction.
    """

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

    @property
    def is_fan_in(self) -> bool:
        return self.name.startswith("fan_in")


@dataclass(frozen=True, slots=True)
class _Wire:
    """The links of the cluster: bytes/s of a NIC, and the latency in seconds of the route between two ranks."""

    rate: float
    latency: float

    @classmethod
    def of(cls, cluster: Cluster) -> _Wire:
        return cls(cluster.node.nic.capacity, float(cluster.routes([0], [1]).latency[0]))


_Predicted = tuple[_Round, float]
"""A round, and the seconds that the fit predicts for it."""


def fit_messages(
    results: Sequence[BenchResult], cluster: Cluster, name: str, one_machine: bool = False
) -> tuple[Transport, list[Residual]]:
    """The transport `name` that explains the results best, and its residuals.

    With `one_machine` all ranks share the cores of one machine, and `core_rate` is fitted too. Raises UsageError if the
    results lack short or long messages.
    """
    rounds = [measured for result in results if (measured := _round(result)) is not None]
    wire = _Wire.of(cluster)
    costs = _fit(rounds, wire)
    if costs is None:
        raise UsageError(
            "too few measurements; time the cases that `dessim calibrate --plan RANKS -o cases.json` writes"
        )
    predicted = [(r, _seconds(r, costs, wire)) for r in rounds]
    one_flow = _rate_share([(r, s) for r, s in predicted if r.is_long and r.messages == 1])
    curve = _fan_in_curve([(r, s) for r, s in predicted if r.is_fan_in], one_flow)
    sums = [result for result in results if result.op == "local_sum"]
    transport = Transport(
        name=name,
        message_overhead=costs.message_overhead,
        op_overhead=costs.op_overhead,
        reduction_rate=max(float(r.size) / r.seconds for r in sums) if sums else np.inf,
        source="fitted to messages of des_ref.bench",
        algorithms=GLOO,
        flow_rate=one_flow * wire.rate if one_flow < 1 - _MIN_LOSS else np.inf,
        fan_in=curve if curve[-1][1] < 1 - _MIN_LOSS else (),
        ack_share=costs.ack_share,
        burst=costs.burst,
        host_overhead=costs.host_overhead,
        core_rate=_core_rate(results) if one_machine else np.inf,
        spread=_spread(rounds, wire),
    )
    return transport, [Residual(r.name, r.seconds, s) for r, s in predicted]


def _round(result: BenchResult) -> _Round | None:
    """The messages of a result; None for sums and for ops that a calibration does not time."""
    size = result.size
    n = len(result.ranks)
    if n < 2:
        return None
    name = f"{result.op} {size} B, {n} ranks"
    match result.op:
        case "send_recv":
            return _Round(
                name, result.seconds, messages=n, sends=1, woken=n, size=size, load=float(size), back=float(size)
            )
        case "fan_out" | "fan_in":
            sends = n - 1 if result.op == "fan_out" else 1
            load = float(size * (n - 1))
            return _Round(name, result.seconds, messages=n - 1, sends=sends, woken=1, size=size, load=load, back=0.0)
        case _:
            return None


def _core_rate(results: Sequence[BenchResult]) -> float:
    """Bytes/s of messages that keep one core busy; inf if core seconds were not counted or do not grow with bytes."""
    rows = []
    for result in results:
        measured = _round(result)
        if measured is not None and measured.is_long and result.cores_s > 0:
            moved = float(measured.messages * measured.size * result.iterations)
            rows.append((result.cores_s, moved, result.cores_busy_s))
    if not rows:
        return np.inf
    # Absolute errors: the kernel counts core time in coarse ticks, and the longest cases count the most of them.
    all_s, moved_bytes, busy_s = np.array(rows).T
    _, seconds_per_byte = nonnegative(np.column_stack([all_s, moved_bytes]), busy_s)
    return float(1 / seconds_per_byte) if seconds_per_byte > 0 else np.inf


def _terms(r: _Round, wire: _Wire) -> list[float]:
    """The factors of the `_Costs` in the time of a round."""
    long = float(not r.is_short)
    return [1.0, r.sends, r.woken, -long / wire.rate, long * r.back / wire.rate]


def _known_seconds(r: _Round, wire: _Wire) -> float:
    """The seconds of a round that the cluster's description explains."""
    return wire.latency + (0.0 if r.is_short else r.load / wire.rate)


def _fit(rounds: Sequence[_Round], wire: _Wire) -> _Costs | None:
    """The costs that explain the rounds best; None if short or long messages are missing."""
    # Fan-in is left out here: receivers may lose part of their rate, which becomes a curve.
    used = [r for r in rounds if r.is_short or (r.is_long and not r.is_fan_in)]
    if not any(r.is_short for r in used) or not any(r.is_long for r in used):
        return None
    terms = np.array([_terms(r, wire) for r in used])
    unexplained = np.array([r.seconds - _known_seconds(r, wire) for r in used])
    seconds = np.array([r.seconds for r in used])
    return _Costs(*(float(cost) for cost in nonnegative(terms / seconds[:, None], unexplained / seconds)))


def _spread(rounds: Sequence[_Round], wire: _Wire) -> Spread | None:
    """The spread of messages between servers, by two-fold cross-validation over sizes.

    None where half of the sizes are too few for a fit.
    """
    errors = []
    for kept, others in halves(rounds, lambda r: r.size):
        costs = _fit(kept, wire)
        if costs is None:
            return None
        errors += [
            LeftOut("message", r.size, True, math.log(predicted / r.seconds))
            for r in others
            if not r.is_fan_in and (predicted := _seconds(r, costs, wire)) > 0
        ]
    return spread_between_servers(errors)


def _seconds(r: _Round, costs: _Costs, wire: _Wire) -> float:
    """The predicted seconds of a round."""
    known = _known_seconds(r, wire)
    fitted = sum(term * cost for term, cost in zip(_terms(r, wire), costs, strict=True))
    # A burst hides time on the wire, but not overheads and latency.
    least = costs.op_overhead + costs.message_overhead * r.sends + costs.host_overhead * r.woken + wire.latency
    return max(known + fitted, least)


def _fan_in_curve(fan_ins: Sequence[_Predicted], one_flow: float) -> tuple[tuple[float, float], ...]:
    """For each number of senders the share of its rate that a receiver keeps, relative to one sender.

    The curve never rises.
    """
    curve = [(1.0, 1.0)]
    for senders in sorted({r.messages for r, _ in fan_ins}):
        share = _rate_share([(r, s) for r, s in fan_ins if r.messages == senders])
        curve.append((float(senders), min(share / one_flow, curve[-1][1])))
    return tuple(curve)


def _rate_share(predicted: Sequence[_Predicted]) -> float:
    """The median share of the predicted rate that these rounds reached; at most 1."""
    return min(1.0, float(np.median([seconds / r.seconds for r, seconds in predicted])))
