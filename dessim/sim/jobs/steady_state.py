"""Equal steps of jobs are counted, not simulated again: when a state comes back, so does all that followed it.

A *group* is a set of jobs whose messages may share links, directly or through others of them; nobody else has a part
in what happens to it. Its state is looked at when a step or a collective has ended and no other is under way: which ops
of each job are over, and how much work is left of those that compute. That is all that decides how the group goes on,
so a state that was there before comes back for ever, a period later each time, until a job starts or ends. The group
is then *held* for a whole number of periods: its GPUs stop, the clock runs on, each job is credited with its steps.

States count as equal when no work left differs by more than 1e-12 of the period. Jobs that never pause together, or
whose steps never fall into step, are simulated in full.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Generic, Protocol, TypeVar

from dessim.arrays import Bools
from dessim.sim.engine import JobRun

_SAME = 1e-12  # of a period
_ULP = 2.0**-52
_MOST = 256  # states that are remembered; longer periods are not found


class Member(Protocol):
    """A job as its group sees it. `used` [n_links]: the links its messages cross; `run`: the step under way."""

    used: Bools
    done: int
    run: JobRun | None

    @property
    def steps(self) -> int: ...

    def credit(self, times: int, period: int, at: float, span: float) -> None:
        """`times` times `period` more steps are over, each as the one `period` steps before it.

        What is under way is held for `span` seconds from `at` on.
        """
        ...


M = TypeVar("M", bound=Member)


@dataclass(frozen=True, slots=True)
class _Moment:
    time: float
    done: tuple[int, ...]  # steps that are over, of each job
    over: list[list[list[bool]] | None]
    left: list[float]

    def like(self, other: _Moment) -> bool:
        tolerance = _SAME * (self.time - other.time) + 4 * _ULP * self.time
        return self.over == other.over and all(
            abs(a - b) <= tolerance for a, b in zip(self.left, other.left, strict=True)
        )


class InterferenceGroup(Generic[M]):
    """Jobs whose messages may meet, until one starts or ends.

    `until`: it is held, or was, until then. `safe`: none of its jobs ends before that, if no other job starts.
    """

    def __init__(self, members: Sequence[M]) -> None:
        self.members = members
        self.until = self.safe = -math.inf
        self._seen: list[_Moment] = []

    def look(self, now: float, horizon: float) -> None:
        """Credit the steps that need no simulation, and be held `until` they are over.

        No job outside starts before `horizon`, if none of this group ends by then.
        """
        moment = self._moment(now)
        if moment is None:
            return
        matches = [seen for seen in reversed(self._seen) if now > seen.time and moment.like(seen)]
        self._seen = [*self._seen[1 - _MOST :], moment]
        # A step that was under way at the first match had begun before; what began after it repeats as a whole.
        if len(matches) < 1 + any(over is not None for over in moment.over):
            return
        before = matches[0]
        steps = [a - b for a, b in zip(moment.done, before.done, strict=True)]
        if not all(steps):
            return
        period = now - before.time
        left = [m.steps - m.done - (m.run is not None) for m in self.members]
        most = min(rest // each for rest, each in zip(left, steps, strict=True))
        self.safe = now + most * period
        times = most if self.safe <= horizon else int(max(horizon - now, 0.0) / period)
        if times < 1:
            return
        self.until = now + times * period
        for member, each in zip(self.members, steps, strict=True):
            member.credit(times, each, now, times * period)
        # It will be as it is now.
        self._seen = [replace(moment, time=self.until, done=tuple(m.done for m in self.members))]

    def hold(self, held: bool) -> None:
        """Stop the GPUs of the group, or let them go on."""
        for member in self.members:
            for device in member.run.devices if member.run else ():
                device.hold(held)

    def _moment(self, now: float) -> _Moment | None:
        """The state; None while a collective is under way."""
        over: list[list[list[bool]] | None] = []
        left: list[float] = []
        for member in self.members:
            if member.run is None:
                over.append(None)
                continue
            state = member.run.state()
            if state is None:
                return None
            over.append(state[0])
            left += state[1]
        return _Moment(now, tuple(m.done for m in self.members), over, left)


def interference_groups(members: Iterable[M]) -> list[InterferenceGroup[M]]:
    """Members that share links, directly or through others, together."""
    parts: list[list[M]] = []
    for member in members:
        met = [part for part in parts if any((member.used & other.used).any() for other in part)]
        parts = [part for part in parts if part not in met]
        parts.append([*(other for part in met for other in part), member])
    return [InterferenceGroup(part) for part in parts]
