"""Steady state: steps of jobs that repeat are counted instead of simulated again.

An *interference group* is a set of jobs whose messages may share links, directly or through other jobs of the group; no
other job influences it. Its state is which ops of each job have finished, and how much work the running compute ops
have left. It is observed whenever a step or a collective has ended and no collective of the group is in progress. At
these moments nothing else determines how the group continues. A state that has occurred before therefore recurs, one
period later each time, until a job starts or ends. The group is then *held* for a whole number of periods: its GPUs
stop, the clock advances, and each job is credited with its steps.

States count as equal when no work left differs by more than 1e-12 of the period. Jobs that never pause together, or
whose steps never settle into a period, are simulated in full.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Generic, Protocol, TypeVar

from dessim.arrays import Bools
from dessim.sim.engine import JobRun

_WORK_TOLERANCE = 1e-12
"""Relative to the period."""
_ULP = 2.0**-52
_MAX_STATES = 256
"""The states that are remembered. A period with more states is not recognised."""


class Member(Protocol):
    """A job, as its interference group sees it.

    `used` [n_links] are the links that its messages cross, `done` the steps that have ended, `run` the step in
    progress.
    """

    used: Bools
    done: int
    run: JobRun | None

    @property
    def steps(self) -> int: ...

    def credit(self, periods: int, steps_per_period: int, at: float, held_s: float) -> None:
        """Count `periods` * `steps_per_period` steps more, each equal to the one `steps_per_period` steps before it.

        The step in progress is held for `held_s` seconds from `at` on.
        """
        ...


M = TypeVar("M", bound=Member)


@dataclass(frozen=True, slots=True)
class _State:
    """A group at `time` [s]: of each job the steps `done`, the ops `finished` in its step in progress (None: between
    two steps), and the seconds of work `left`."""

    time: float
    done: tuple[int, ...]
    finished: list[list[list[bool]] | None]
    left: list[float]

    def equals(self, earlier: _State) -> bool:
        """Whether the group continues from here as it did from there."""
        tolerance = _WORK_TOLERANCE * (self.time - earlier.time) + 4 * _ULP * self.time
        return self.finished == earlier.finished and all(
            abs(a - b) <= tolerance for a, b in zip(self.left, earlier.left, strict=True)
        )


class InterferenceGroup(Generic[M]):
    """Jobs whose messages may share links, until one of them starts or ends.

    The latest hold of the group ends, or ended, at `held_until` [s]. None of its jobs ends before `no_end_before` [s]
    if no other job starts.
    """

    def __init__(self, members: Sequence[M]) -> None:
        self.members = members
        self.held_until = -math.inf
        self.no_end_before = -math.inf
        self._states: list[_State] = []

    def observe(self, now: float, horizon: float) -> None:
        """Note the state. If it recurs, credit the steps that need no simulation and set `held_until`.

        No job outside the group starts before `horizon` [s], provided that none of this group ends by then.
        """
        state = self._state(now)
        if state is None:
            return
        matches = [seen for seen in reversed(self._states) if now > seen.time and state.equals(seen)]
        self._states = [*self._states[1 - _MAX_STATES :], state]
        # A step in progress at the first match began before it and may differ. From the second match on, whole steps
        # repeat.
        if len(matches) < 1 + any(finished is not None for finished in state.finished):
            return
        earlier = matches[0]
        steps = [now_done - then_done for now_done, then_done in zip(state.done, earlier.done, strict=True)]
        if not all(steps):
            return
        period = now - earlier.time
        left = [member.steps - member.done - (member.run is not None) for member in self.members]
        most = min(steps_left // each for steps_left, each in zip(left, steps, strict=True))
        self.no_end_before = now + most * period
        periods = most if self.no_end_before <= horizon else int(max(horizon - now, 0.0) / period)
        if periods < 1:
            return
        self.held_until = now + periods * period
        for member, each in zip(self.members, steps, strict=True):
            member.credit(periods, each, now, periods * period)
        # When the hold ends the group is in the state that it is in now.
        self._states = [replace(state, time=self.held_until, done=tuple(member.done for member in self.members))]

    def hold(self, held: bool) -> None:
        """Stop or resume the GPUs of all jobs."""
        for member in self.members:
            for device in member.run.devices if member.run else ():
                device.hold(held)

    def _state(self, now: float) -> _State | None:
        """The state; None while a collective is in progress."""
        finished: list[list[list[bool]] | None] = []
        left: list[float] = []
        for member in self.members:
            if member.run is None:
                finished.append(None)
                continue
            state = member.run.state()
            if state is None:
                return None
            finished.append(state[0])
            left += state[1]
        return _State(now, tuple(member.done for member in self.members), finished, left)


def interference_groups(members: Iterable[M]) -> list[InterferenceGroup[M]]:
    """Partition jobs into groups that share links, directly or through other jobs."""
    parts: list[list[M]] = []
    for member in members:
        sharing = [part for part in parts if any((member.used & other.used).any() for other in part)]
        parts = [part for part in parts if part not in sharing]
        parts.append([*(other for part in sharing for other in part), member])
    return [InterferenceGroup(part) for part in parts]
