"""A calibration: constants fitted to readings, curves of what these leave unexplained, and how far both are off.

Constants carry over to other numbers of GPUs. A curve holds for one op on the GPUs and servers that were measured: the
measured time over that which the constants predict, by size. A single reading far from both of its neighbours does not
bend it, and more bytes never take less time. How far off both are is found by leaving out every other size.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median

from dessim.calibrate.nccl.fit import Parameter, cluster_parameters, fit, model_run, predict, with_solution
from dessim.calibrate.nccl.readings import Reading, repeated
from dessim.calibrate.spreads import LeftOut, halves, spread_of
from dessim.cluster.curves import Curve, curve_of
from dessim.cluster.spread import Spread
from dessim.collectives.nccl.constants import CONSTANTS, Factors, values

MIN_READINGS = 4
_MIN_SIZES = 3
"""Sizes of a curve: with fewer, nothing shows whether one of them was disturbed."""
_WILD = 0.3
"""A reading this far (in logarithms) from the median of three, with its neighbours, counts as that median."""
_SPREADS = {"network_efficiency": 0.35}
"""Wider spreads for a measured cluster: some networks never reach their nominal rate."""
_OTHER_NETWORK = 0.8


@dataclass(frozen=True, slots=True)
class Calibration:
    """Factors on constants, curves, and the spread of both on sizes that were left out.

    `left_out` are the errors of these sizes where the op had a curve; `spread` is that of the constants alone.
    """

    factors: Mapping[str, float | Mapping[str, float]]
    curves: tuple[Curve, ...]
    spread: Spread
    left_out: tuple[LeftOut, ...]


def calibrated(readings: Sequence[Reading], start: Factors, network: str, spread: Spread | None = None) -> Calibration:
    """Calibrate a transport whose factors were `start`, and whose spread was `spread`, with readings of one cluster."""
    factors, curves = _fitted(readings, start, network)
    alone, followed = _left_out(readings, start, network)
    spreads = spread_of(followed)
    return Calibration(
        factors,
        tuple(replace(curve, spread=spreads.bands(curve.op, across=curve.servers > 1)) for curve in curves),
        spread_of(alone, spread),
        tuple(followed),
    )


def expected(reading: Reading, factors: Factors, curves: Sequence[Curve]) -> float:
    """Microseconds that a calibrated transport predicts for a reading."""
    curve = _curve_of(reading, curves)
    return predict(reading, values(reading.setup, factors)) * (1.0 if curve is None else curve.factor(reading.size))


def _fitted(
    readings: Sequence[Reading], start: Factors, network: str
) -> tuple[dict[str, float | dict[str, float]], list[Curve]]:
    factors = with_solution(start, fit(readings, _parameters(network), start))
    return factors, _curves(readings, factors)


def _curves(readings: Sequence[Reading], factors: Factors) -> list[Curve]:
    """A curve for each op and shape with enough sizes."""
    groups: dict[tuple[str, int, int, int], list[Reading]] = {}
    for r in sorted(repeated(readings), key=lambda r: r.size):
        groups.setdefault(_shape(r), []).append(r)
    return [
        Curve(op, gpus, servers, _points(group, factors), per_process)
        for (op, gpus, servers, per_process), group in groups.items()
        if len(group) >= _MIN_SIZES
    ]


def _points(readings: Sequence[Reading], factors: Factors) -> tuple[tuple[float, float], ...]:
    """Sizes and factors. With them the times, without what short messages alone need, never fall as the size grows."""
    runs = [model_run(r, values(r.setup, factors)) for r in readings]
    ratios = _tame([math.log(r.microseconds / run.microseconds) for r, run in zip(readings, runs, strict=True)])
    steady = [math.log(run.microseconds - run.injected) for run in runs]
    risen = _rising([ratio + time for ratio, time in zip(ratios, steady, strict=True)])
    return tuple((r.size, round(math.exp(to - time), 4)) for r, to, time in zip(readings, risen, steady, strict=True))


def _rising(times: Sequence[float]) -> list[float]:
    """The times made to never fall: where one would, it and those before it count as their median."""
    blocks: list[list[float]] = []
    for time in times:
        blocks.append([time])
        while len(blocks) > 1 and median(blocks[-2]) > median(blocks[-1]):
            blocks[-2:] = [blocks[-2] + blocks[-1]]
    return [median(block) for block in blocks for _ in block]


def _tame(ratios: Sequence[float]) -> list[float]:
    """The ratios [3 or more], wild ones replaced by the median of three; at the ends, of the first or last three."""
    last = len(ratios) - 3
    medians = [median(ratios[max(0, min(i - 1, last)) :][:3]) for i in range(len(ratios))]
    return [m if abs(ratio - m) > _WILD else ratio for ratio, m in zip(ratios, medians, strict=True)]


def _left_out(readings: Sequence[Reading], start: Factors, network: str) -> tuple[list[LeftOut], list[LeftOut]]:
    """The error of every reading under a calibration with every other size: by constants alone, and with curves.

    Sizes count by op and shape, as ops need not have the same: nccl-tests rounds those of some to the number of ranks.
    The second list has the readings whose op and shape then had a curve. Both lists are empty where there are too few
    readings.
    """
    alone: list[LeftOut] = []
    followed: list[LeftOut] = []
    for kept, others in halves(readings, lambda r: r.size, _shape):
        if len(kept) < MIN_READINGS:
            return [], []
        factors, curves = _fitted(kept, start, network)
        for r in others:
            alone.append(_error(r, expected(r, factors, ())))
            if _curve_of(r, curves) is not None:
                followed.append(_error(r, expected(r, factors, curves)))
    return alone, followed


def _error(r: Reading, predicted: float) -> LeftOut:
    error = math.log(predicted / r.microseconds)
    return LeftOut(op=str(r.op), size=r.size, across=r.setup.nodes > 1, error=error, gpus=r.setup.n)


def _shape(r: Reading) -> tuple[str, int, int, int]:
    """The op, GPUs, servers and GPUs of a process of a reading, as of a curve."""
    return str(r.op), r.setup.n, r.setup.nodes, r.setup.gpus_per_process


def _curve_of(r: Reading, curves: Sequence[Curve]) -> Curve | None:
    op, gpus, servers, per_process = _shape(r)
    return curve_of(curves, op, gpus=gpus, servers=servers, gpus_per_process=per_process)


def _parameters(network: str) -> list[Parameter]:
    """The parameters of a fit, with wider spreads for networks that NCCL's source was not measured on."""
    if network in ("ib", "roce"):
        return cluster_parameters(_SPREADS)
    kinds = ("network_ring", "network_tree", "p2p_network", "message")
    wide = {name: _OTHER_NETWORK for name in CONSTANTS if name.startswith(kinds)}
    return cluster_parameters({**_SPREADS, **wide, "p2p_network_channel": 0.3, "p2p_message": 1.5})
