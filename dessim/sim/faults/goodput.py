"""Goodput: what share of a month's time becomes work that lasts, when nodes fail and jobs restart from checkpoints.

A job works for `interval` seconds, then writes a checkpoint, and so on. A failure of any of its nodes throws it back to
the last checkpoint it finished; after a restart (detection, a spare node, reading the checkpoint) it works on. Failures
may come at any time, in a checkpoint or a restart as well. Nodes fail independently of each other, at exponential times
of mean `mtbf` each, so the job is hit at exponential times of mean mtbf / nodes: one source of failures stands for all.
Left out: checkpoints written beside the work, failures that are silent, waiting for a spare node, ageing.

Beside the simulation stand what Young (1974), "A first order approximation to the optimum checkpoint interval", CACM
17(9), and Daly (2006), "A higher order estimate of the optimum checkpoint interval for restart dumps", FGCS 22(3), say.
Both count as the interval the work between two checkpoints, without the checkpoint.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import simpy

from dessim.errors import UsageError

_DAY = 86_400.0
_CONFIDENCE = 0.95
_OCTAVE = np.linspace(-1, 1, 9)  # around the best of intervals that double, where the curve is fitted


@dataclass(frozen=True, slots=True)
class Machine:
    """What a job runs on: `nodes` that each fail every `mtbf` seconds on average; seconds that a `checkpoint` and a
    `restart` take."""

    nodes: int
    mtbf: float
    checkpoint: float
    restart: float

    def __post_init__(self) -> None:
        if self.nodes < 1:
            raise UsageError(f"--nodes {self.nodes}: a job needs at least 1 node")
        for flag, value in (("mtbf", self.mtbf), ("checkpoint", self.checkpoint)):
            if value == 0:
                raise UsageError(f"--{flag}: must be more than 0 s")

    @property
    def between_failures(self) -> float:
        """Seconds between two failures of the whole job, on average."""
        return self.mtbf / self.nodes


@dataclass(frozen=True, slots=True)
class Month:
    """Where the time of a run went, in seconds: they sum up to its length. `lost` is what failures undid: work, and
    checkpoints they came into."""

    work: float
    checkpoint: float
    lost: float
    restart: float
    failures: int

    @property
    def goodput(self) -> float:
        """The share of the time that became work that lasts."""
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


class _Job:
    """A job and what befalls it. SimPy interrupts it where a node fails."""

    def __init__(self, machine: Machine, interval: float, length: float, rng: np.random.Generator) -> None:
        self._machine, self._interval, self._rng = machine, interval, rng
        self._env = simpy.Environment()
        self._finished = self._failures = 0
        self._lost = self._restarting = 0.0
        self._since = 0.0  # when the work that is not yet safe, or the restart, began
        self._restarts = False
        job = self._env.process(self._run())
        self._env.process(self._fail(job))
        self._env.run(until=length)

    def month(self) -> Month:
        """What it came to. Work under way at the end is not lost: the job goes on."""
        under_way = self._env.now - self._since
        working = 0.0 if self._restarts else under_way
        work = min(working, self._interval)
        return Month(
            work=self._finished * self._interval + work,
            checkpoint=self._finished * self._machine.checkpoint + working - work,
            lost=self._lost,
            restart=self._restarting + under_way - working,
            failures=self._failures,
        )

    def _fail(self, job: simpy.Process) -> Generator[simpy.Event, object, None]:
        while True:
            yield self._env.timeout(self._rng.exponential(self._machine.between_failures))
            job.interrupt()

    def _run(self) -> Generator[simpy.Event, object, None]:
        env, machine = self._env, self._machine
        while True:
            self._since = env.now
            try:
                if self._restarts:
                    yield env.timeout(machine.restart)
                    self._restarting += env.now - self._since
                    self._restarts = False
                else:
                    yield env.timeout(self._interval + machine.checkpoint)
                    self._finished += 1
            except simpy.Interrupt:
                self._failures += 1
                if self._restarts:
                    self._restarting += env.now - self._since
                else:
                    self._lost += env.now - self._since
                self._restarts = True


def simulate_month(machine: Machine, interval: float, days: float, seed: int | Sequence[int]) -> Month:
    """One run of `days`, `interval` seconds of work between checkpoints. Equal seeds are hit at equal times, whatever
    the interval."""
    return _Job(machine, interval, days * _DAY, np.random.default_rng(seed)).month()


def estimate(machine: Machine, interval: float, days: float, runs: int, seed: int) -> Estimate:
    """Means over `runs` runs. Raises UsageError."""
    if not 0 < interval < days * _DAY:
        raise UsageError(f"an interval of {interval:g} s does not fit into {days:g} days")
    months = [simulate_month(machine, interval, days, (seed, run)) for run in range(runs)]
    goodput = np.array([month.goodput for month in months])
    wide = NormalDist().inv_cdf((1 + _CONFIDENCE) / 2)

    def share(part: str) -> float:
        return float(np.mean([getattr(month, part) for month in months])) / (days * _DAY)

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


def best_interval(machine: Machine, days: float, runs: int, seed: int) -> float:
    """The interval with the highest simulated goodput, in seconds.

    All intervals meet the same failures, so that they differ by little but what they do about them. From the mean time
    between failures down intervals are halved until goodput falls; then the top of a parabola through nine points, over
    the logarithm of the interval, is taken: near its top the curve is even in that (Young's delta / t + t / 2 M is).
    """
    interval = min(machine.between_failures, days * _DAY / 4)
    best = estimate(machine, interval, days, runs, seed)
    while (half := estimate(machine, best.interval / 2, days, runs, seed)).goodput >= best.goodput:
        best = half
    around = [estimate(machine, min(best.interval * 2**x, days * _DAY / 2), days, runs, seed) for x in _OCTAVE.tolist()]
    curve, slope, _ = np.polyfit(_OCTAVE, [one.goodput for one in around], 2)
    if curve >= 0:  # hardly a failure: the longer the better
        return max(around, key=lambda one: one.goodput).interval
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
    """Daly's complete model, equation 20, as work over time: exact for failures at exponential times, run on run."""
    mean = machine.between_failures
    hit = (interval + machine.checkpoint) / mean
    # exp(-(R + t + delta) / M) (t / M) / (1 - exp(-(t + delta) / M)), which cannot overflow.
    return math.exp(-machine.restart / mean - hit) * (interval / mean) / -math.expm1(-hit)
