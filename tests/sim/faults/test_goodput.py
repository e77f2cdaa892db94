"""Goodput over a month, compared with Daly's model, his published optima, and a loop without SimPy."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dessim.errors import OutOfTime, UsageError
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
from dessim.sim.progress import Progress

MINUTE, HOUR, DAY = 60.0, 3600.0, 86_400.0
LLAMA = Machine(2048, 2048 * 54 * DAY / 419, 60.0, 600.0)  # 419 failures in 54 days (Llama 3, 2024, section 3.3.4)


def daly_figure(between_failures: float) -> Machine:
    """Figures 3 to 5 of Daly (2006): R = 10 min, delta = 5 min."""
    return Machine(1, between_failures, 5 * MINUTE, 10 * MINUTE)


@pytest.mark.parametrize(("mean", "published"), [(24 * HOUR, 117), (6 * HOUR, 57), (15 * MINUTE, 9.1)])
def test_the_optimal_interval_of_daly_is_the_published_one(mean: float, published: float) -> None:
    machine = daly_figure(mean)
    assert daly_interval(machine) / MINUTE == pytest.approx(published, rel=0.01)
    # It is also the maximum of his complete model.
    intervals = np.geomspace(0.2, 5, 2001) * daly_interval(machine)
    best = intervals[np.argmax([daly_goodput(machine, interval) for interval in intervals])]
    assert daly_interval(machine) == pytest.approx(best, rel=0.02)


def test_young_and_daly_agree_for_cheap_checkpoints() -> None:
    machine = Machine(100, 5000 * DAY, 0.1, 60.0)
    assert young_interval(machine) == pytest.approx(daly_interval(machine), rel=1e-3)
    assert (
        daly_interval(Machine(1, 100.0, 300.0, 0.0)) == 100.0
    )  # his rule if a checkpoint takes at least twice the mean time between failures


@pytest.mark.parametrize("machine", [LLAMA, daly_figure(24 * HOUR), daly_figure(6 * HOUR), daly_figure(HOUR)])
@pytest.mark.parametrize("times", [0.5, 1.0, 3.0])
def test_simulated_goodput_equals_the_model_of_daly(machine: Machine, times: float) -> None:
    """Within 2 %, and within the 99.9 % confidence interval of 60 months: both must hold."""
    interval = times * daly_interval(machine)
    simulated = estimate(machine, interval, 30, runs=60, seed=7)
    formula = daly_goodput(machine, interval)
    assert simulated.goodput == pytest.approx(formula, rel=0.02)
    assert abs(simulated.goodput - formula) < simulated.margin * 3.29 / 1.96
    assert simulated.margin < 0.02
    assert simulated.failures == pytest.approx(30 * DAY / machine.between_failures, rel=0.1)


@pytest.mark.parametrize("machine", [daly_figure(24 * HOUR), daly_figure(6 * HOUR)])
def test_the_best_simulated_interval_is_the_optimum_of_daly(machine: Machine) -> None:
    """Within 2 % in goodput; within 5 % in the interval itself, since the curve is flat at its maximum."""
    best = best_interval(machine, 30, 60, seed=3)
    assert estimate(machine, best, 30, runs=60, seed=3).goodput == pytest.approx(
        daly_goodput(machine, daly_interval(machine)), rel=0.02
    )
    assert best == pytest.approx(daly_interval(machine), rel=0.05)


def test_without_failures_only_checkpoints_cost_time() -> None:
    machine = Machine(1, 1e15, 60.0, 600.0)
    simulated = estimate(machine, 540.0, 1, runs=2, seed=0)
    assert simulated.goodput == pytest.approx(0.9, rel=1e-12)
    assert (simulated.failures, simulated.lost_share, simulated.restart_share) == (0, 0, 0)
    assert best_interval(machine, 1, 2, 0) == pytest.approx(DAY / 2, rel=0.01)  # the longest interval tried


def looped(machine: Machine, interval: float, length: float, seed: tuple[int, int]) -> Month:
    """The same, from one failure to the next: whole cycles are kept, the rest is lost."""
    rng = np.random.default_rng(seed)
    cycle = interval + machine.checkpoint
    now = 0.0
    restart_from = 0.0
    ready = 0.0  # when work continues
    done = 0
    lost = 0.0
    restarting = 0.0
    failures = 0
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
        failures += 1
        lost += rest
        now = fails
        restart_from = fails
        ready = fails + machine.restart


@settings(max_examples=40, deadline=None)
@given(
    mean=st.floats(600, 2e5),
    checkpoint=st.floats(1, 900),
    restart=st.floats(0, 3000),
    interval=st.floats(60, 2e4),
    seed=st.tuples(st.integers(0, 99), st.integers(0, 99)),
)
def test_a_simulated_month_equals_a_loop_and_accounts_for_all_its_time(
    mean: float, checkpoint: float, restart: float, interval: float, seed: tuple[int, int]
) -> None:
    machine = Machine(8, 8 * mean, checkpoint, restart)
    month = simulate_month(machine, interval, 3, seed)
    expected = looped(machine, interval, 3 * DAY, seed)
    assert month.work + month.checkpoint + month.lost + month.restart == pytest.approx(3 * DAY, rel=1e-9)
    for part in Month.__slots__:
        assert getattr(month, part) == pytest.approx(getattr(expected, part), rel=1e-9, abs=1e-3), part


def test_impossible_settings_are_refused() -> None:
    with pytest.raises(UsageError, match="--nodes 0"):
        Machine(0, 1.0, 1.0, 1.0)
    with pytest.raises(UsageError, match="--checkpoint: must be more than 0 s"):
        Machine(1, 1.0, 0.0, 1.0)
    with pytest.raises(UsageError, match="an interval of 90000 s does not fit into 1 days"):
        estimate(LLAMA, 90_000.0, 1, runs=2, seed=0)


@pytest.mark.parametrize(
    ("machine", "says"),
    [
        (Machine(64, 1e-9, 60.0, 600.0), "a failure every 0.01562 ns and .* can be simulated; lower --days"),
        (Machine(10**9, 264 * DAY, 60.0, 600.0), "a failure every 22.81 ms"),
        (Machine(1, MINUTE, HOUR, HOUR), "no work survives"),
    ],
)
def test_what_would_take_for_ever_is_refused(machine: Machine, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        best_interval(machine, 0.05 if machine.mtbf == MINUTE else 30, 2, 0)
    with pytest.raises(UsageError, match=r"a checkpoint every 1 ms.* can be simulated"):
        estimate(Machine(1, DAY, 1e-30, 600.0), 1e-3, 30, runs=2, seed=0)


def test_a_spent_time_budget_ends_a_month() -> None:
    ticks = iter(range(10**6))
    with pytest.raises(OutOfTime):
        estimate(LLAMA, HOUR, 30, runs=2, seed=0, progress=Progress(budget_s=100.0, clock=lambda: float(next(ticks))))
