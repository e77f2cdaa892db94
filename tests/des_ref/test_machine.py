"""Counters of the kernel."""

from __future__ import annotations

import os
import time

import pytest

from des_ref.machine import core_seconds


def test_busy_cores_are_counted() -> None:
    before, start = core_seconds(), time.perf_counter()
    while time.perf_counter() - start < 0.3:
        pass
    after = core_seconds()
    assert after[0] - before[0] >= 0.2
    assert after[1] - before[1] == pytest.approx(0.3 * (os.cpu_count() or 1), rel=0.3)
