"""Goodput: the share of a month that becomes lasting work when nodes fail and jobs restart from checkpoints.

A job alternates between `interval` seconds of work and writing a checkpoint. When any of its nodes fails, the job
returns to the last checkpoint that it completed; after a restart (detection, a spare node, reading the checkpoint) it
continues. A failure may occur at any time, also during a checkpoint or a restart. Nodes fail independently, each after
exponential times of mean `mtbf`, so the job fails after exponential times of mean mtbf / nodes, and one source of
failures represents all nodes. Left out: checkpoints that are written during the work, silent failures, waiting for a
spare node, ageing.

The simulation is compared with Young (1974), "A first order approximation to the optimum checkpoint interval", CACM
17(9), and Daly (2006), "A higher order estimate of the optimum checkpoint interval for restart dumps", FGCS 22(3). Both
define the interval as the work between two checkpoints, without the checkpoint itself.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from dessim.errors import UsageError
from dessim.sim.progress import Progress
from dessim.units import format_count, format_time

_DAY_S = 86_400.0
_CONFIDENCE = 0.95
_MOST_NODES = 10**12
_MOST_EVENTS = 5e6  # failures and checkpoints of all runs with one interval: a few seconds
_OCTAVES = np.linspace(-1, 1, 9)  # where the curve is fitted, around the best of the intervals that double


@dataclass(frozen=True, slots=True)
class Machine:
    """`nodes` that each fail every `mtbf` seconds on average; a `checkpoint` and a `restart` take that many seconds."""

    nodes: int
    mtbf: float
    checkpoint: float
    restart: float

    def __post_init__(self) -> None:
        if self.nodes < 1:
            raise UsageError(f"--nodes {self.nodes}: a job needs at least 1 node")
        if self.nodes > _MOST_NODES:
            raise UsageError(f"--nodes: at most {_MOST_NODES:,}")
        for flag, value in (("mtbf", self.mtbf), ("checkpoint", self.checkpoint)):
            if value == 0:
                raise UsageError(f"--{flag}: must be more than 0 s")

    @property
    def between_failures(self) -> float:
        """Mean seconds between two failures of the whole job."""
        return self.mtbf / self.nodes


@dataclass(frozen=True, slots=True)
class Month:
    """How a run spent its time, in seconds; the parts add up to its length.

    `lost` is what failures undid: work since the last checkpoint, and checkpoints that were interrupted.
    """

    work: float
    checkpoint: float
    lost: float
    restart: float
    failures: int

    @property
    def goodput(self) -> float:
        """The share of the time that became lasting work."""
        return self.work / (self.work + self.checkpoint + self.lost + self.restart)


@dataclass(frozen=True, slots=True)
class Estimate:
    """Means over `runs` months with one checkpoint interval, in seconds; `margin` is half the width of the 95 %
    confidence interval of `goodput`."""

    interval: float
    goodput: float
    margin: float
    checkpoint_share: float
    lost_share: float
    restart_share: float
    failures: float
    runs: int


def simulate_month(
    machine: Machine, interval: float, days: float, seed: int | Sequence[int], progress: Progress | None = None
) -> Month:
    """One run of `days` with `interval` seconds of work between checkpoints. The failures depend on `seed` alone.

    Work in progress at the end counts as work: the job continues.
    """
    rng = np.random.default_rng(seed)
    progress = progress or Progress()
    length = days * _DAY_S
    cycle = interval + machine.checkpoint
    intervals_done = 0
    failures = 0
    lost_s = 0.0
    restart_s = 0.0
    now = 0.0
    restarting = False
    failure = rng.exponential(machine.between_failures)
    while True:
        progress.check()
        end = now + (machine.restart if restarting else cycle)
        if min(end, failure) >= length:
            break
        if end < failure:
            if restarting:
                restart_s += end - now
            else:
                intervals_done += 1
            now = end
            restarting = False
            continue
        failures += 1
        if restarting:
            restart_s += failure - now
        else:
            lost_s += failure - now
        now = failure
        restarting = True
        failure = now + rng.exponential(machine.between_failures)
    in_progress = length - now
    working = 0.0 if restarting else in_progress
    work = min(working, interval)
    return Month(
        work=intervals_done * interval + work,
        checkpoint=intervals_done * machine.checkpoint + working - work,
        lost=lost_s,
        restart=restart_s + in_progress - working,
        failures=failures,
    )


def estimate(
    machine: Machine, interval: float, days: float, *, runs: int, seed: int, progress: Progress | None = None
) -> Estimate:
    """Means over `runs` runs of `days`.

    Raises UsageError for an interval that does not fit, or more events than can be simulated, and OutOfTime.
    """
    if not 0 < interval < days * _DAY_S:
        raise UsageError(f"an interval of {interval:g} s does not fit into {days:g} days")
    _require_few_events(machine, interval, days, runs)
    progress = progress or Progress()
    months = []
    for run in range(runs):
        progress.tick(run, runs, "runs")
        months.append(simulate_month(machine, interval, days, (seed, run), progress))
    goodput = np.array([month.goodput for month in months])
    wide = NormalDist().inv_cdf((1 + _CONFIDENCE) / 2)

    def share(part: str) -> float:
        return float(np.mean([getattr(month, part) for month in months])) / (days * _DAY_S)

    return Estimate(
        interval=interval,
        goodput=float(goodput.mean()),
        margin=wide * float(goodput.std(ddof=1)) / math.sqrt(runs) if runs > 1 else math.inf,
        checkpoint_share=share("checkpoint"),
        lost_share=share("lost"),
        restart_share=share("restart"),
        failures=float(np.mean([month.failures for month in months])),
        runs=runs,
    )


def _require_few_events(machine: Machine, interval: float, days: float, runs: int) -> None:
    most = days * _DAY_S * runs * (1 / machine.between_failures + 1 / (interval + machine.checkpoint))
    if most > _MOST_EVENTS:
        raise UsageError(
            f"a failure every {format_time(machine.between_failures)} and a checkpoint every "
            f"{format_time(interval + machine.checkpoint)}: {runs} runs of {days:g} days have {format_count(most)} "
            f"events, and {format_count(_MOST_EVENTS)} can be simulated; lower --days or --runs"
        )


def best_interval(machine: Machine, days: float, runs: int, seed: int, progress: Progress | None = None) -> float:
    """The interval with the highest simulated goodput, in seconds. Raises UsageError where no work survives.

    All intervals are simulated with the same failures, which removes most of the noise from their comparison. Starting
    at the mean time between failures, intervals are halved until goodput falls. The result is the top of a parabola
    through nine points over the logarithm of the interval: near its top the curve is symmetric in that logarithm, as
    Young's delta / t + t / 2 M is.
    """
    interval = min(machine.between_failures, days * _DAY_S / 4)
    best = estimate(machine, interval, days, runs=runs, seed=seed, progress=progress)
    while best.goodput == 0:
        if best.interval < interval / 2**20:
            raise UsageError(
                f"no work survives: a failure every {format_time(machine.between_failures)}, while a checkpoint takes "
                f"{format_time(machine.checkpoint)} and a restart {format_time(machine.restart)}"
            )
        best = estimate(machine, best.interval / 2, days, runs=runs, seed=seed, progress=progress)
    while (
        half := estimate(machine, best.interval / 2, days, runs=runs, seed=seed, progress=progress)
    ).goodput >= best.goodput:
        best = half
    around = [
        estimate(machine, min(best.interval * 2**x, days * _DAY_S / 2), days, runs=runs, seed=seed, progress=progress)
        for x in _OCTAVES.tolist()
    ]
    curve, slope, _ = np.polyfit(_OCTAVES, [near.goodput for near in around], 2)
    if curve >= 0:  # too few failures for a maximum: take the best interval simulated
        return max(around, key=lambda near: near.goodput).interval
    return best.interval * math.exp2(float(np.clip(-slope / (2 * curve), -1, 1)))


def young_interval(machine: Machine) -> float:
    """Young's optimum, sqrt(2 delta M)."""
    return math.sqrt(2 * machine.checkpoint * machine.between_failures)


def daly_interval(machine: Machine) -> float:
    """Daly's optimum, equation 37."""
    half = machine.checkpoint / (2 * machine.between_failures)
    if half >= 1:
        return machine.between_failures
    return young_interval(machine) * (1 + math.sqrt(half) / 3 + half / 9) - machine.checkpoint


def daly_goodput(machine: Machine, interval: float) -> float:
    """Daly's complete model, equation 20, as work over time; exact if times between failures are exponential."""
    mean = machine.between_failures
    hit = (interval + machine.checkpoint) / mean
    # exp(-(R + t + delta) / M) (t / M) / (1 - exp(-(t + delta) / M)), which cannot overflow.
    return math.exp(-machine.restart / mean - hit) * (interval / mean) / -math.expm1(-hit)
