"""The shipped spreads are those of the readings that were left out, and cover 75 to 88 % of them."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

from dessim.calibrate.nccl.published import read_published
from dessim.calibrate.profile import load_transport
from dessim.calibrate.spreads import covered, spread_of
from dessim.trace.schema import Collective

FOLDER = Path(__file__).resolve().parents[2] / "studies" / "published"


def load(name):
    """A script of the folder, which import each other by name."""
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def study():
    sys.path.insert(0, str(FOLDER))
    yield load("leave_out")
    sys.path.remove(str(FOLDER))


def test_the_shipped_spreads_are_those_of_the_left_out_readings(study):
    made = spread_of(study.read_left_out())
    shipped = load_transport(Path("nccl-ib")).spread
    assert shipped == made


def test_80_per_cent_of_left_out_readings_are_within_their_intervals(study):
    readings = study.read_left_out()
    for shares in (covered(readings, spread_of(readings)), study.coverage_of_others(readings)):
        assert all(0.75 <= share <= 0.88 for share in shares), shares


def test_the_three_tests_share_their_readings_and_print_their_errors(study, capsys):
    hold_out = load("hold_out")
    readings = study.shared_readings([p.reading for p in read_published(FOLDER) if not p.suspect])
    assert len(readings) == len(study.read_left_out())
    shipped = load_transport(Path("nccl-ib"))
    own = [r for r in readings if r.where == "dgx_h100" and r.op == Collective.ALL_REDUCE]
    held = hold_out.after_calibration(shipped.nccl.factors, own[::2], own[1::2], shipped.spread)
    assert [h.size for h in held] == [r.size for r in own[1::2]] and all(0.02 <= h.spread < 0.6 for h in held)
    left_out = hold_out.another_cluster(shipped.spread)
    assert len(left_out) == len(readings) and all(-1 < h.error < 20 for h in left_out)
    hold_out.table("(c)", left_out)
    shown = capsys.readouterr().out.splitlines()
    assert shown[0].startswith("(c): 95th percentile ") and shown[-1].split()[:4] == ["in", "80", "%", "interval"]
