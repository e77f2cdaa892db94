"""Curves of a calibration: between, at and beyond their points, for which shapes they hold, and bad tables."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from dessim.cluster.curves import Curve, curve_of
from dessim.cluster.parts import Nccl, Transport
from dessim.cluster.spec.parts import NcclTable
from dessim.cluster.spec.topology_file import problems
from dessim.cluster.spread import Spread

CURVE = Curve("all_reduce", 8, 1, ((1024.0, 1.5), (4096.0, 0.9), (1048576.0, 1.2)), spread=(0.05, 0.1, 0.02))
TABLE: dict[str, Any] = {"op": "all_reduce", "gpus": 8, "servers": 1, "points": [["1 KiB", 1.5], ["1 MiB", 0.9]]}


def test_a_curve_goes_through_its_points_and_between_them() -> None:
    for size, factor in CURVE.points:
        assert CURVE.factor(size) == pytest.approx(factor)
    assert CURVE.factor(2048) == pytest.approx(math.sqrt(1.5 * 0.9))


def test_beyond_its_points_a_curve_fades() -> None:
    below = [CURVE.factor(size) for size in (1024, 512, 128, 16, 8, 0)]
    assert below == sorted(below, reverse=True) and below[3:] == [1, 1, 1]
    assert CURVE.factor(1 << 23) == pytest.approx(1.2**0.5) and CURVE.factor(1 << 26) == 1


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(0.2, 5), min_size=1, max_size=6), st.floats(1, 1e11))
def test_no_factor_is_beyond_those_of_the_points(factors: list[float], size: float) -> None:
    curve = Curve("broadcast", 8, 1, tuple((8.0 * 4**k, factor) for k, factor in enumerate(factors)))
    assert min([1, *factors]) * 0.999 <= curve.factor(size) <= max([1, *factors]) * 1.001


@pytest.mark.parametrize(
    "other",
    [
        {"op": "broadcast", "gpus": 8, "servers": 1},
        {"op": "all_reduce", "gpus": 16, "servers": 1},
        {"op": "all_reduce", "gpus": 8, "servers": 2},
        {"op": "all_reduce", "gpus": 8, "servers": 1, "gpus_per_process": 8},
    ],
)
def test_a_curve_holds_for_its_op_and_shape_alone(other: dict[str, Any]) -> None:
    assert curve_of([CURVE], "all_reduce", gpus=8, servers=1) is CURVE
    assert curve_of([CURVE], **other) is None
    assert _spread(**other) in (0.3, 0.4)


def _spread(op: str, gpus: int, servers: int, size: float = 2048, **more: int) -> float:
    known = Spread({"other": (0.3, 0.3, 0.3)}, {"other": (0.4, 0.4, 0.4)})
    transport = Transport("mine", nccl=Nccl("ib", curves=(CURVE,)), spread=known)
    spread = transport.spread_of(op, size, gpus=gpus, servers=servers, **more)
    assert spread is not None
    return spread[1]


def test_near_its_points_a_curve_has_its_own_spread() -> None:
    sizes = (256, 512, 65536, 1 << 20, 1 << 22)
    assert [_spread("all_reduce", 8, 1, size) for size in sizes] == [0.3, 0.05, 0.05, 0.1, 0.3]


def test_tables_are_read() -> None:
    table = NcclTable.model_validate({"network": "ib", "curves": [TABLE, {**TABLE, "gpus_per_process": 8}]})
    first, second = table.build().curves
    assert first == Curve("all_reduce", 8, 1, ((1024.0, 1.5), (1048576.0, 0.9)))
    assert second.gpus_per_process == 8 and NcclTable(network="ib").build().curves == ()


@pytest.mark.parametrize(
    ("tables", "problem"),
    [
        ([{**TABLE, "points": []}], "curves.0.points: .*at least 1 item"),
        ([{**TABLE, "points": [["1 MiB", 1.0], ["1 KiB", 1.0]]}], "sizes must ascend: 1024 B follows 1048576 B"),
        ([{**TABLE, "points": [[1024, 1.0]]}], "size needs a unit, not the bare value 1024"),
        ([{**TABLE, "points": [["1 KiB", -1.0]]}], "greater than 0"),
        ([{**TABLE, "gpus": 1}], "curves.0.gpus: .*greater than or equal to 2"),
        ([{**TABLE, "pigeons": 1}], "curves.0.pigeons"),
        ([TABLE, TABLE], "all_reduce on 8 GPUs of 1 servers has two curves; keep one"),
    ],
)
def test_bad_tables_get_one_line(tables: list[dict[str, Any]], problem: str) -> None:
    with pytest.raises(ValidationError) as error:
        NcclTable.model_validate({"network": "ib", "curves": tables})
    assert problems(error.value).count("\n") == 0
    with pytest.raises(ValueError, match=problem):
        raise ValueError(problems(error.value))
