"""Rendezvous: where the ranks of a collective wait until all have arrived."""

from __future__ import annotations

from dataclasses import dataclass, field

import simpy

from dessim.errors import SimulationError
from dessim.workload.dag import Task, Workload

_Key = tuple[str | None, int, str]  # group, step, name
_RANKS_NAMED = 8
_COLLECTIVES_NAMED = 5


@dataclass(slots=True)
class Rendezvous:
    """One collective over a group of `size` ranks, and the ranks that have arrived so far.

    `over` fires when no rank has anything left to do. In the order of arrival, `classes` are the rank classes and
    `members` the places of their ranks in the group. `splits` are the bytes for each member that an uneven all_to_all
    sends, by the sender's place in the group.
    """

    over: simpy.Event
    task: Task
    size: int
    arrived: int = 0
    classes: list[int] = field(default_factory=list)
    members: list[int] = field(default_factory=list)
    splits: dict[int, tuple[float, ...]] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        """Whether all ranks have arrived."""
        return self.arrived == self.size


class RendezvousTable:
    """All collectives of a workload; `finished` of `total` have ended."""

    def __init__(self, env: simpy.Environment, workload: Workload) -> None:
        self._env = env
        self._workload = workload
        self._place_in = {name: {rank: i for i, rank in enumerate(ranks)} for name, ranks in workload.groups.items()}
        self._rendezvous: dict[_Key, Rendezvous] = {}
        self.finished = 0
        self.total = len({_key(task) for c in workload.classes for task in c.tasks if task.collective is not None})

    def join(self, rank_class: int, task: Task) -> Rendezvous:
        """Note that the ranks of class number `rank_class` have arrived at `task`.

        Raises SimulationError where the group is not declared, or the ranks disagree on the collective.
        """
        assert task.group is not None
        if task.group not in self._place_in:
            raise SimulationError(
                f"{task.name} of step {task.step} is over group {task.group!r}, which is not declared"
            )
        place = self._place_in[task.group]
        key = _key(task)
        if key not in self._rendezvous:
            self._rendezvous[key] = Rendezvous(self._env.event(), task, len(place))
        rendezvous = self._rendezvous[key]
        members = [place[rank] for rank in self._workload.classes[rank_class].ranks if rank in place]
        rendezvous.arrived += len(members)
        rendezvous.classes.append(rank_class)
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
        """Text for the message of a deadlock: which collectives wait for which ranks."""
        waits = []
        for (group, step, name), rendezvous in self._rendezvous.items():
            if rendezvous.over.triggered:
                continue
            place = self._place_in[group or ""]
            absent = [
                rank
                for number, rank_class in enumerate(self._workload.classes)
                for rank in rank_class.ranks
                if rank in place and number not in rendezvous.classes
            ]
            named = ", ".join(map(str, absent[:_RANKS_NAMED])) + (", ..." if len(absent) > _RANKS_NAMED else "")
            waits.append(
                f"{name} of step {step} over {group!r} has {rendezvous.arrived} of {rendezvous.size} ranks "
                f"and waits for {named}"
            )
        return "; ".join(waits[:_COLLECTIVES_NAMED]) or "ops wait for each other"


def _key(task: Task) -> _Key:
    return task.group, task.step, task.name
