"""Spreads: 80 % of the readings are within their interval, and no cluster hides another."""

from __future__ import annotations

import math
import tomllib
from dataclasses import replace

import numpy as np
import pytest

from dessim.calibrate.spreads import LeftOut, covered, halves, spread_of, toml_of
from dessim.cluster.spec.parts import SpreadTable
from dessim.cluster.spread import BANDS, Spread, band


def readings(sigma: float, n: int, op: str = "all_reduce", size: float = 1e6, where: str = "a") -> list[LeftOut]:
    rng = np.random.default_rng(n)
    return [LeftOut(op, size, True, error, where) for error in (sigma * rng.standard_normal(n)).tolist()]


def test_the_spread_of_normal_errors_is_their_standard_deviation() -> None:
    found = spread_of(readings(0.3, 5000))
    name, sigma = found.of("all_reduce", 1e6, across=True) or ("", 0.0)
    assert name == "all_reduce to 8 MiB between servers"
    assert sigma == pytest.approx(0.3, rel=0.05)
    assert covered(readings(0.3, 5000), found)[1] == pytest.approx(0.8, abs=0.01)


def test_a_cluster_with_many_readings_does_not_hide_one_with_few() -> None:
    mixed = readings(0.01, 900, where="good") + readings(0.5, 100, where="bad")
    alone = spread_of(readings(0.01, 1000)).between["all_reduce"][1]
    assert spread_of(mixed).between["all_reduce"][1] > 0.1 > 2 * alone


def test_an_op_of_one_cluster_spreads_at_least_as_all_ops() -> None:
    several = readings(0.3, 100, where="a") + readings(0.3, 100, where="b")
    found = spread_of(several + readings(0.03, 50, op="broadcast", where="a"))
    assert found.between["broadcast"][1] == found.between["other"][1] > 0.1
    assert spread_of(readings(0.03, 50, op="broadcast")).between["broadcast"][1] < 0.05


def test_an_op_with_few_readings_has_the_spread_of_all_ops() -> None:
    found = spread_of(readings(0.2, 50) + readings(0.9, 3, op="broadcast"))
    assert found.between["other"] == found.between.get("broadcast", found.between["other"])
    assert found.of("gather", 1e6, across=True) == ("gather to 8 MiB between servers", found.between["other"][1])


def test_what_readings_do_not_show_stays_as_it_was() -> None:
    start = Spread(inside={"other": (0.1, 0.2, 0.3)}, between={"other": (0.4, 0.5, 0.6)})
    found = spread_of(readings(0.2, 50), start)
    assert found.inside == start.inside and found.between["other"] != start.between["other"]
    assert spread_of([], start) == start
    assert Spread().of("all_reduce", 1e6, across=False) is None


def test_on_more_gpus_than_were_read_a_size_spreads_as_a_smaller_one() -> None:
    spread = Spread(between={"other": (0.3, 0.2, 0.1)}, gpus=32)

    def on(gpus: int) -> tuple[str, float] | None:
        return spread.of("all_reduce", 64 << 20, across=True, gpus=gpus)

    assert on(8) == on(32) == ("all_reduce above 8 MiB between servers", 0.1)
    assert on(1024) == ("all_reduce to 8 MiB per 32 GPUs between servers", 0.2)
    assert on(65536) == ("all_reduce up to 64 KiB per 32 GPUs between servers", 0.3)
    read = [LeftOut("all_reduce", 1e6, True, error, gpus=128) for error in (0.1, 0.2)]
    assert spread_of(read).gpus == 128
    assert "gpus = 128" in toml_of(spread_of(read), "transport.spread")


def test_a_calibration_narrows_less_beyond_the_gpus_that_it_saw() -> None:
    shipped = Spread(between={"other": (0.3, 0.3, 0.3)})
    found = spread_of([replace(r, gpus=16) for r in readings(0.05, 200)], shipped)
    seen, beyond = (found.of("all_reduce", 1e6, across=True, gpus=gpus) for gpus in (16, 17))
    assert seen is not None and beyond is not None
    assert seen[1] < 0.1 and beyond[1] == pytest.approx(0.6 * 0.3)
    text = "\n".join(toml_of(found, "spread"))
    assert SpreadTable.model_validate(tomllib.loads(text)["spread"]).build() == found


def test_no_spread_is_below_two_per_cent() -> None:
    assert spread_of(readings(0.0, 50)).between["all_reduce"] == (0.02, 0.02, 0.02)


def test_bands_end_at_64_kib_and_8_mib() -> None:
    assert [band(size) for size in (1, BANDS[0], BANDS[0] + 1, BANDS[1], BANDS[1] + 1)] == [0, 0, 1, 1, 2]


def test_a_band_without_readings_has_no_coverage() -> None:
    shares = covered(readings(0.2, 50), spread_of(readings(0.2, 50)))
    assert math.isnan(shares[0]) and math.isnan(shares[2])


def test_every_second_size_of_each_group_is_kept_and_then_the_others() -> None:
    items = [("a", 3), ("b", 2), ("a", 1), ("a", 2), ("b", 4), ("a", 1)]
    (kept, others), (others_again, kept_again) = halves(items, lambda item: item[1], lambda item: item[0])
    assert kept == [("a", 3), ("b", 2), ("a", 1), ("a", 1)] and others == [("a", 2), ("b", 4)]
    assert (kept_again, others_again) == (kept, others)
    assert next(halves(items, lambda item: item[1])) == ([("a", 3), ("a", 1), ("a", 1)], [("b", 2), ("a", 2), ("b", 4)])
