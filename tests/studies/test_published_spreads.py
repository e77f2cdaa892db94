"""The shipped spreads are those of the readings that were left out, and cover 75 to 88 % of them."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

from dessim.calibrate.nccl.spreads import covered, spread_of
from dessim.calibrate.profile import load_transport

FOLDER = Path(__file__).resolve().parents[2] / "studies" / "published"


@pytest.fixture(scope="module")
def study():
    sys.path.insert(0, str(FOLDER))
    spec = importlib.util.spec_from_file_location("leave_out", FOLDER / "leave_out.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    sys.path.remove(str(FOLDER))


def test_the_shipped_spreads_are_those_of_the_left_out_readings(study):
    made = spread_of(study.read_left_out())
    shipped = load_transport(Path("nccl-ib")).spread
    assert shipped == made


def test_80_per_cent_of_left_out_readings_are_within_their_intervals(study):
    readings = study.read_left_out()
    for shares in (covered(readings, spread_of(readings)), study.coverage_of_others(readings)):
        assert all(0.75 <= share <= 0.88 for share in shares), shares
