"""What the kernel counts, and who goes first on its cores."""

from __future__ import annotations

import os
import threading
import time

import pytest

from des_ref.machine import carrying_first, core_seconds
from dessim.lab.priority import CARRY_FIRST


def policy_of_a_new_thread() -> int:
    found: list[int] = []
    thread = threading.Thread(target=lambda: found.append(os.sched_getscheduler(0)))
    thread.start()
    thread.join()
    return found[0]


def may_go_first() -> bool:
    try:
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
    except OSError:
        return False
    os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    return True


def test_a_core_that_works_is_counted() -> None:
    before, start = core_seconds(), time.perf_counter()
    while time.perf_counter() - start < 0.3:
        pass
    after = core_seconds()
    assert after[0] - before[0] >= 0.2
    assert after[1] - before[1] == pytest.approx(0.3 * (os.cpu_count() or 1), rel=0.3)


def test_only_threads_that_start_within_go_first(monkeypatch: pytest.MonkeyPatch) -> None:
    if not may_go_first():
        pytest.skip("needs the privilege to schedule in real time")
    monkeypatch.setenv(CARRY_FIRST, "1")
    with pytest.raises(KeyError), carrying_first():
        assert policy_of_a_new_thread() == os.SCHED_RR
        raise KeyError
    assert policy_of_a_new_thread() == os.sched_getscheduler(0) == os.SCHED_OTHER


def test_nobody_asked_nothing_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(CARRY_FIRST, raising=False)
    with carrying_first():
        assert policy_of_a_new_thread() == os.SCHED_OTHER
