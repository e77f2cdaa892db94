"""The event loop: ranks walk their ops, streams keep order, collectives wait for their last member.

    record = simulate(cluster, workload)

Each class of identical ranks is simulated once. An op is a small process: it takes its turn on its stream (in issue
order, as on a CUDA stream), waits for what it depends on, computes or communicates, and lets the next one go.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Mapping

import simpy

from dessim.cluster import Cluster
from dessim.collectives import Options
from dessim.errors import DeadlockError, OutOfTime
from dessim.sim.collective import Collectives, Outcome, Routed
from dessim.sim.device import Device
from dessim.sim.meetings import Meeting, Meetings
from dessim.sim.network import Network
from dessim.sim.recorder import Record, Span
from dessim.sim.watch import Watch
from dessim.trace.schema import Collective
from dessim.workload.dag import Task, Workload

Process = Generator[simpy.Event, object, None]


class _Simulation:
    def __init__(
        self,
        routed: Routed,
        workload: Workload,
        algorithms: Mapping[Collective, str] | None,
        options: Options | None,
        watch: Watch,
    ) -> None:
        cluster = routed.cluster
        cluster.require(workload.n_ranks)
        self.env = simpy.Environment()
        self.workload = workload
        self.network = Network(self.env, cluster, routed.folding, watch)
        self.collectives = Collectives(routed, workload.groups, algorithms, options)
        self.meetings = Meetings(self.env, workload)
        self.record = Record(workload.n_ranks, tuple(c.ranks for c in workload.classes))
        self.over: list[list[simpy.Event]] = []
        self.devices = [Device(self.env, cluster.gpu.comm_sm_share) for _ in workload.classes]
        self.kinds = cluster.links.kinds
        self.watch = watch

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
            raise DeadlockError(f"deadlock: {self.meetings.missing()}") from stuck
        except OutOfTime as cut:
            raise OutOfTime(cut.line, cut.so_far | self._so_far()) from None
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
        self.watch.check()
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
        meeting = self.meetings.join(number, task)
        if meeting.complete:
            self.env.process(self._collective(meeting))
        return meeting.over

    def _collective(self, meeting: Meeting) -> Process:
        task = meeting.task
        assert task.collective is not None and task.group is not None
        members = [self.devices[number] for number in meeting.classes]
        for device in members:
            device.begin_communication()
        watch = self.watch.within(self.meetings.done, self.meetings.due, "collectives")
        outcome = yield from self.collectives.run(
            self.env, self.network, task.collective, task.group, task.size, meeting.splits or None, watch
        )
        self.meetings.done += 1
        self.watch.tick(self.meetings.done, self.meetings.due, "collectives")
        for device in members:
            device.end_communication()
        meeting.over.succeed(outcome)

    def _so_far(self) -> dict[str, float]:
        left = Counter(task.step for rank_class in self.workload.classes for task in rank_class.tasks)
        left.subtract(span.step for span in self.record.spans)
        done = sum(ops == 0 for ops in left.values())
        return {"steps_done": done, "steps": len(left), "simulated_s": float(self.env.now)}


def simulate(
    cluster: Cluster,
    workload: Workload,
    algorithms: Mapping[Collective, str] | None = None,
    folding: bool = True,
    routed: Routed | None = None,
    options: Options | None = None,
    watch: Watch | None = None,
) -> Record:
    """Run a workload on a cluster; rank r sits on GPU r.

    `algorithms` fixes a collective's algorithm (default `auto`). `folding=False` runs the same engine without folding.
    `routed` carries routes from one simulation of the cluster to the next; it brings its own `folding`. `options`
    sets what algorithms leave open: chunks, the root, the sides of a torus. `watch` sees progress and may stop the run.
    Raises CapacityError when the cluster is too small, DeadlockError when ranks wait for each other, OutOfTime.
    """
    return _Simulation(routed or Routed(cluster, folding), workload, algorithms, options, watch or Watch()).run()
