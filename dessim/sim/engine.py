"""The event loop: ranks walk their ops, streams keep order, collectives wait for their last member.

    record = simulate(cluster, workload)

Each class of identical ranks is simulated once. An op is a small process: it takes its turn on its stream (in issue
order, as on a CUDA stream), waits for what it depends on, computes or communicates, and lets the next one go.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass, field

import simpy

from dessim.cluster import Cluster
from dessim.collectives import Options
from dessim.errors import DeadlockError, SimulationError
from dessim.sim.collective import Collectives, Outcome, Routed
from dessim.sim.device import Device
from dessim.sim.network import Network
from dessim.sim.recorder import Record, Span
from dessim.trace.schema import Collective
from dessim.workload.dag import Task, Workload

Process = Generator[simpy.Event, object, None]


@dataclass(slots=True)
class _Meeting:
    """Members of a collective that have come so far."""

    over: simpy.Event
    task: Task
    came: int = 0
    classes: list[int] = field(default_factory=list)
    splits: dict[int, tuple[float, ...]] = field(default_factory=dict)


class _Simulation:
    def __init__(
        self,
        routed: Routed,
        workload: Workload,
        algorithms: Mapping[Collective, str] | None,
        options: Options | None,
    ) -> None:
        cluster = routed.cluster
        cluster.require(workload.n_ranks)
        self.env = simpy.Environment()
        self.workload = workload
        self.network = Network(self.env, cluster, routed.folding)
        self.collectives = Collectives(routed, workload.groups, algorithms, options)
        self.place = {name: {rank: i for i, rank in enumerate(ranks)} for name, ranks in workload.groups.items()}
        self.meetings: dict[tuple[str, int, str], _Meeting] = {}
        self.record = Record(workload.n_ranks, tuple(c.ranks for c in workload.classes))
        self.over: list[list[simpy.Event]] = []
        self.devices = [Device(self.env, cluster.gpu.comm_sm_share) for _ in workload.classes]
        self.kinds = cluster.links.kinds

    def run(self) -> Record:
        for number, rank_class in enumerate(self.workload.classes):
            device = self.devices[number]
            self.over.append([self.env.event() for _ in rank_class.tasks])
            for index, task in enumerate(rank_class.tasks):
                turn = device.stream(task.stream).request()
                self.env.process(self._op(number, index, task, turn, device))
        everything = simpy.AllOf(self.env, [event for events in self.over for event in events])
        try:
            self.env.run(until=everything)
        except RuntimeError as stuck:
            # simpy's way to say that nothing is left to happen before `until` did.
            raise self._deadlock() from stuck
        self.record.end = float(self.env.now)
        self.record.solves = self.network.solves + self.collectives.solves
        self.record.flow_colours = self.collectives.flow_colours
        self.record.error = self.collectives.error
        self.record.link_colours = self.collectives.link_colours
        carried = self.network.bytes_by_kind.tolist()
        self.record.bytes_by_kind = dict(zip(self.kinds, carried, strict=True))
        # Order by time, not by which process happened to be resumed first.
        self.record.spans.sort(key=lambda s: (s.start, s.rank_class, s.end, s.name))
        return self.record

    def _op(
        self, number: int, index: int, task: Task, turn: simpy.resources.resource.Request, device: Device
    ) -> Process:
        env, over = self.env, self.over[number]
        yield turn
        waiting = [over[dep] for dep in task.deps if not over[dep].processed]
        if waiting:
            yield simpy.AllOf(env, waiting)
        if task.delay > 0:
            yield env.timeout(task.delay)
        start = env.now
        if task.collective is None:
            yield from device.compute(task.duration)
            outcome = Outcome("", start, "compute")
        else:
            outcome = yield self._meet(number, task)  # type: ignore[assignment]
        late = outcome.moving - start > env.now - outcome.moving
        self.record.spans.append(
            Span(
                rank_class=number,
                name=task.name,
                step=task.step,
                phase=task.phase,
                kind=task.kind,
                stream=task.stream,
                start=start,
                moving=outcome.moving,
                end=env.now,
                collective=task.collective,
                algorithm=outcome.algorithm or None,
                size=task.size,
                group_size=len(self.workload.groups[task.group]) if task.group else 0,
                bound_by="late rank" if late else outcome.bound_by,
            )
        )
        device.stream(task.stream).release(turn)
        over[index].succeed()

    def _meet(self, number: int, task: Task) -> simpy.Event:
        """Join a collective; the event fires when it is over."""
        assert task.group is not None
        if task.group not in self.place:
            raise SimulationError(
                f"{task.name} of step {task.step} is over group {task.group!r}, which is not declared"
            )
        key = (task.group, task.step, task.name)
        if key not in self.meetings:
            self.meetings[key] = _Meeting(self.env.event(), task)
        meeting = self.meetings[key]
        place = self.place[task.group]
        members = [place[rank] for rank in self.workload.classes[number].ranks if rank in place]
        meeting.came += len(members)
        meeting.classes.append(number)
        if task.splits is not None:
            meeting.splits.update(dict.fromkeys(members, task.splits))
        if task.collective is not meeting.task.collective:
            raise SimulationError(
                f"{task.name} of step {task.step}: {task.collective} on one rank, {meeting.task.collective} on another"
            )
        if meeting.came == len(place):
            self.env.process(self._collective(meeting))
        return meeting.over

    def _collective(self, meeting: _Meeting) -> Process:
        task = meeting.task
        assert task.collective is not None and task.group is not None
        members = [self.devices[number] for number in meeting.classes]
        for device in members:
            device.begin_communication()
        outcome = yield from self.collectives.run(
            self.env, self.network, task.collective, task.group, task.size, meeting.splits or None
        )
        for device in members:
            device.end_communication()
        meeting.over.succeed(outcome)

    def _deadlock(self) -> DeadlockError:
        waits = []
        for (group, step, name), meeting in self.meetings.items():
            if meeting.over.triggered:
                continue
            place = self.place[group]
            absent = [
                rank
                for number, rank_class in enumerate(self.workload.classes)
                for rank in rank_class.ranks
                if rank in place and number not in meeting.classes
            ]
            some = ", ".join(map(str, absent[:8])) + (", ..." if len(absent) > 8 else "")
            waits.append(
                f"{name} of step {step} over {group!r} has {meeting.came} of {len(place)} ranks and waits for {some}"
            )
        return DeadlockError("deadlock: " + ("; ".join(waits[:5]) or "ops wait for each other"))


def simulate(
    cluster: Cluster,
    workload: Workload,
    algorithms: Mapping[Collective, str] | None = None,
    folding: bool = True,
    routed: Routed | None = None,
    options: Options | None = None,
) -> Record:
    """Run a workload on a cluster; rank r sits on GPU r.

    `algorithms` fixes a collective's algorithm (default `auto`). `folding=False` runs the same engine without folding.
    `routed` carries routes from one simulation of the cluster to the next; it brings its own `folding`. `options`
    sets what algorithms leave open: chunks, the root, the sides of a torus.
    Raises CapacityError when the cluster is too small, DeadlockError when ranks wait for each other.
    """
    return _Simulation(routed or Routed(cluster, folding), workload, algorithms, options).run()
