"""Goodput over a month: against Daly's model, against his published optima, and against a loop without SimPy."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dessim.errors import UsageError
from dessim.sim.faults.goodput import (
    Machine,
    Month,
    best_interval,
    daly_goodput,
    daly_interval,
    estimate,
    simulate_month,
    young_interval,
)

MINUTE, HOUR, DAY = 60.0, 3600.0, 86_400.0
LLAMA = Machine(2048, 2048 * 54 * DAY / 419, 60.0, 600.0)  # 419 failures in 54 days (Llama 3, 2024, section 3.3.4)


def daly_figure(between_failures: float) -> Machine:
    """Figures 3 to 5 of Daly (2006): R = 10 min, delta = 5 min."""
    return Machine(1, between_failures, 5 * MINUTE, 10 * MINUTE)


@pytest.mark.parametrize(("mean", "published"), [(24 * HOUR, 117), (6 * HOUR, 57), (15 * MINUTE, 9.1)])
def test_daly_optimum_is_the_one_he_published(mean: float, published: float) -> None:
    machine = daly_figure(mean)
    assert daly_interval(machine) / MINUTE == pytest.approx(published, rel=0.01)
    # and the top of his complete model, found by looking
    tried = np.geomspace(0.2, 5, 2001) * daly_interval(machine)
    top = tried[np.argmax([daly_goodput(machine, interval) for interval in tried])]
    assert daly_interval(machine) == pytest.approx(top, rel=0.02)


def test_young_is_daly_where_checkpoints_cost_nothing() -> None:
    machine = Machine(100, 5000 * DAY, 0.1, 60.0)
    assert young_interval(machine) == pytest.approx(daly_interval(machine), rel=1e-3)
    assert daly_interval(Machine(1, 100.0, 300.0, 0.0)) == 100.0  # his rule where a checkpoint takes twice the mean


@pytest.mark.parametrize("machine", [LLAMA, daly_figure(24 * HOUR), daly_figure(6 * HOUR), daly_figure(HOUR)])
@pytest.mark.parametrize("times", [0.5, 1.0, 3.0])
def test_simulated_goodput_is_that_of_daly(machine: Machine, times: float) -> None:
    """Within 2 %, and within the 99.9 % confidence interval of 60 months: both must hold."""
    interval = times * daly_interval(machine)
    found, formula = estimate(machine, interval, 30, 60, seed=7), daly_goodput(machine, interval)
    assert found.goodput == pytest.approx(formula, rel=0.02)
    assert abs(found.goodput - formula) < found.margin * 3.29 / 1.96
    assert found.margin < 0.02
    assert found.failures == pytest.approx(30 * DAY / machine.between_failures, rel=0.1)


@pytest.mark.parametrize("machine", [daly_figure(24 * HOUR), daly_figure(6 * HOUR)])
def test_the_best_simulated_interval_is_that_of_daly(machine: Machine) -> None:
    """To 2 % in what it is worth, and to 5 % in what it is, where the curve is flat."""
    best = best_interval(machine, 30, 60, seed=3)
    assert estimate(machine, best, 30, 60, seed=3).goodput == pytest.approx(
        daly_goodput(machine, daly_interval(machine)), rel=0.02
    )
    assert best == pytest.approx(daly_interval(machine), rel=0.05)


def test_without_failures_only_checkpoints_cost() -> None:
    machine = Machine(1, 1e15, 60.0, 600.0)
    found = estimate(machine, 540.0, 1, 2, seed=0)
    assert found.goodput == pytest.approx(0.9, rel=1e-12)
    assert (found.failures, found.lost_share, found.restart_share) == (0, 0, 0)
    assert best_interval(machine, 1, 2, 0) == pytest.approx(DAY / 2, rel=0.01)  # as rarely as is tried


def looped(machine: Machine, interval: float, length: float, seed: tuple[int, int]) -> Month:
    """From one failure to the next: whole cycles fit, the rest is lost."""
    rng, now, restart_from = np.random.default_rng(seed), 0.0, 0.0
    cycle, done, lost, restarting, failures = interval + machine.checkpoint, 0, 0.0, 0.0, 0
    ready = 0.0  # when work goes on
    while True:
        fails = now + rng.exponential(machine.between_failures)
        until = min(fails, length)
        restarting += min(until, ready) - min(until, restart_from)
        cycles = max(math.floor((until - ready) / cycle), 0)
        done += cycles
        rest = max(until - ready, 0.0) - cycles * cycle
        if fails >= length:
            work = min(rest, interval)
            return Month(done * interval + work, done * machine.checkpoint + rest - work, lost, restarting, failures)
        failures, lost, now, restart_from, ready = failures + 1, lost + rest, fails, fails, fails + machine.restart


@settings(max_examples=40, deadline=None)
@given(
    mean=st.floats(600, 2e5),
    checkpoint=st.floats(1, 900),
    restart=st.floats(0, 3000),
    interval=st.floats(60, 2e4),
    seed=st.tuples(st.integers(0, 99), st.integers(0, 99)),
)
def test_a_month_is_what_a_loop_says_and_all_its_time_is_accounted_for(
    mean: float, checkpoint: float, restart: float, interval: float, seed: tuple[int, int]
) -> None:
    machine = Machine(8, 8 * mean, checkpoint, restart)
    month, expected = simulate_month(machine, interval, 3, seed), looped(machine, interval, 3 * DAY, seed)
    assert month.work + month.checkpoint + month.lost + month.restart == pytest.approx(3 * DAY, rel=1e-9)
    for part in Month.__slots__:
        assert getattr(month, part) == pytest.approx(getattr(expected, part), rel=1e-9, abs=1e-3), part


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(UsageError, match="--nodes 0"):
        Machine(0, 1.0, 1.0, 1.0)
    with pytest.raises(UsageError, match="--checkpoint: must be more than 0 s"):
        Machine(1, 1.0, 0.0, 1.0)
    with pytest.raises(UsageError, match="an interval of 90000 s does not fit into 1 days"):
        estimate(LLAMA, 90_000.0, 1, 2, 0)
