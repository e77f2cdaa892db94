"""RendezvousTable: where the members of a collective wait until all have come."""

from __future__ import annotations

from dataclasses import dataclass, field

import simpy

from dessim.errors import SimulationError
from dessim.workload.dag import Task, Workload

_Key = tuple[str | None, int, str]  # group, step, name


@dataclass(slots=True)
class Rendezvous:
    """Members of a collective that have come so far, of `size` ranks; `over` fires when it is over."""

    over: simpy.Event
    task: Task
    size: int
    came: int = 0
    classes: list[int] = field(default_factory=list)
    members: list[int] = field(default_factory=list)  # places in the group, in the order they came
    splits: dict[int, tuple[float, ...]] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        return self.came == self.size


class RendezvousTable:
    """The collectives of a workload: `due` there will be, `done` are over."""

    def __init__(self, env: simpy.Environment, workload: Workload) -> None:
        self._env, self._workload = env, workload
        self._place = {name: {rank: i for i, rank in enumerate(ranks)} for name, ranks in workload.groups.items()}
        self._open: dict[_Key, Rendezvous] = {}
        self.done = 0
        self.due = len({_key(task) for c in workload.classes for task in c.tasks if task.collective is not None})

    def join(self, number: int, task: Task) -> Rendezvous:
        """The ranks of class `number` have come to `task`. Raises SimulationError where they do not fit in."""
        assert task.group is not None
        if task.group not in self._place:
            raise SimulationError(
                f"{task.name} of step {task.step} is over group {task.group!r}, which is not declared"
            )
        place, key = self._place[task.group], _key(task)
        if key not in self._open:
            self._open[key] = Rendezvous(self._env.event(), task, len(place))
        rendezvous = self._open[key]
        members = [place[rank] for rank in self._workload.classes[number].ranks if rank in place]
        rendezvous.came += len(members)
        rendezvous.classes.append(number)
        rendezvous.members += members
        if task.splits is not None:
            rendezvous.splits.update(dict.fromkeys(members, task.splits))
        if task.collective is not rendezvous.task.collective:
            raise SimulationError(
                f"{task.name} of step {task.step}: {task.collective} on one rank, "
                f"{rendezvous.task.collective} on another"
            )
        return rendezvous

    def missing(self) -> str:
        """Who waits in which collective for whom, for people."""
        waits = []
        for (group, step, name), rendezvous in self._open.items():
            if rendezvous.over.triggered:
                continue
            place = self._place[group or ""]
            absent = [
                rank
                for number, rank_class in enumerate(self._workload.classes)
                for rank in rank_class.ranks
                if rank in place and number not in rendezvous.classes
            ]
            some = ", ".join(map(str, absent[:8])) + (", ..." if len(absent) > 8 else "")
            waits.append(
                f"{name} of step {step} over {group!r} has {rendezvous.came} of {rendezvous.size} ranks "
                f"and waits for {some}"
            )
        return "; ".join(waits[:5]) or "ops wait for each other"


def _key(task: Task) -> _Key:
    return task.group, task.step, task.name
