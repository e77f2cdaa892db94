"""Curves that a calibration keeps beside constants: they follow the readings, but no single wild one."""

from __future__ import annotations

import math
from dataclasses import replace
from statistics import median

import pytest

from dessim.calibrate.nccl.calibration import Calibration, calibrated, expected
from dessim.calibrate.nccl.fit import predict
from dessim.calibrate.nccl.readings import Reading
from dessim.cluster.curves import curve_of
from dessim.cluster.spread import Spread
from dessim.collectives.nccl.constants import values
from dessim.collectives.nccl.model import Override
from dessim.collectives.nccl.setup import Setup
from dessim.collectives.nccl.steady import SteadyRuns
from dessim.collectives.timing import Timing
from dessim.trace.schema import Collective

H100 = Setup("hopper", 8, 1, 8, 370.8, nics=8, nic=50.0, network="ib", nvls=True)
SHIPPED = Spread({"other": (0.3, 0.3, 0.3)}, {"other": (0.3, 0.3, 0.3)})


def wave(size: float) -> float:
    """A hump over large sizes that no constant explains; times rise in spite of it."""
    return 1 + 0.25 * math.sin(math.log2(max(size, 65536)) / 3)


def readings(powers: float = 1.0) -> list[Reading]:
    """From 8 B to 1 GiB, each size 2**`powers` times the one before."""
    cases = [Reading(Collective.ALL_REDUCE, 8 * 2 ** (k * powers), 0.0, H100) for k in range(round(28 / powers))]
    return [replace(r, microseconds=wave(r.size) * predict(r, values(H100, {}))) for r in cases]


@pytest.fixture(scope="module")
def found() -> Calibration:
    """A calibration with every second of 56 sizes."""
    return calibrated(readings(0.5)[::2], {}, "ib", SHIPPED)


def test_sizes_between_readings_follow_them(found: Calibration) -> None:
    unseen = [r for r in readings(0.5)[1::2] if r.size > 8 << 20]
    with_curve = [abs(expected(r, found.factors, found.curves) / r.microseconds - 1) for r in unseen]
    without = [abs(expected(r, found.factors, ()) / r.microseconds - 1) for r in unseen]
    assert median(with_curve) < 0.01 < 0.03 < median(without)
    (curve,) = found.curves
    assert curve.spread is not None and len(found.left_out) == 28
    assert curve.spread[2] < 0.5 * found.spread.inside["all_reduce"][2]


def test_other_shapes_have_the_constants_alone(found: Calibration) -> None:
    more = Reading(Collective.ALL_REDUCE, 1e6, 1.0, replace(H100, n=16, nodes=2))
    assert expected(more, found.factors, found.curves) == expected(more, found.factors, ())
    driven = Reading(Collective.ALL_REDUCE, 1e6, 1.0, replace(H100, gpus_per_process=8))
    assert expected(driven, found.factors, found.curves) == expected(driven, found.factors, ())


def test_single_wild_readings_do_not_bend_a_curve() -> None:
    every = readings()
    times = {0: 8.0, 9: 0.2, 18: 3.0, 27: 8.0}
    wild = [replace(r, microseconds=times.get(i, 1.0) * r.microseconds) for i, r in enumerate(every)]
    found = calibrated(wild, {}, "ib", SHIPPED)
    assert all(expected(r, found.factors, found.curves) == pytest.approx(r.microseconds, rel=0.3) for r in every)


def test_a_slow_first_reading_does_not_lift_the_sizes_after_it() -> None:
    """As a log's first size often is. More bytes never take less time, so it would."""
    every = [replace(r, microseconds=10 + r.size * 1e-5) for r in readings()]
    every[0] = replace(every[0], microseconds=12.5)
    found = calibrated(every, {}, "ib", SHIPPED)
    curve = curve_of(found.curves, "all_reduce", gpus=8, servers=1)
    runs = SteadyRuns(
        Collective.ALL_REDUCE,
        H100,
        values(H100, found.factors),
        override=Override(),
        timing=Timing.REPEATED,
        curve=curve,
    )
    times = [runs.run(r.size).microseconds for r in every]
    assert times == sorted(times)
    assert times[:10] == pytest.approx([10.0] * 10, rel=0.03)


def test_few_sizes_make_no_curve() -> None:
    assert calibrated([*readings()[:2], *readings()[:2]], {}, "ib", SHIPPED).curves == ()
    few = calibrated(readings()[:4], {}, "ib", SHIPPED)
    assert [curve.spread for curve in few.curves] == [None] and few.spread == SHIPPED


def test_ops_of_different_sizes_each_lose_every_second_size() -> None:
    """On 24 GPUs nccl-tests makes the sizes of an all_gather multiples of 24 * 16 B, those of an all_reduce not."""
    three = replace(H100, n=24, nodes=3)
    sizes = [1024.0 * 4**k for k in range(8)]
    cases = [Reading(Collective.ALL_REDUCE, size, 0.0, three) for size in sizes]
    cases += [Reading(Collective.ALL_GATHER, size // 384 * 384, 0.0, three) for size in sizes]
    every = [replace(r, microseconds=wave(r.size) * predict(r, values(three, {}))) for r in cases]
    found = calibrated(every, {}, "ib", SHIPPED)
    assert [(curve.op, curve.spread is not None) for curve in found.curves] == [
        ("all_gather", True),
        ("all_reduce", True),
    ]
    assert sorted((r.op, r.size) for r in found.left_out) == sorted((str(r.op), r.size) for r in every)
