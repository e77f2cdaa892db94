"""The event loop: ranks walk their ops, streams keep order, collectives wait for their last member.

    record = simulate(cluster, workload)

Each class of identical ranks is simulated once. An op is a small process: it takes its turn on its stream (in issue
order, as on a CUDA stream), waits for what it depends on, computes or communicates, and lets the next one go.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Generator, Mapping, Sequence

import simpy

from dessim.cluster import Cluster
from dessim.cluster.placement import seated
from dessim.collectives import Options
from dessim.errors import DeadlockError, OutOfTime, SimulationError
from dessim.sim.collective import Collectives, Outcome, RouteCache
from dessim.sim.core.blas import one_blas_thread
from dessim.sim.core.cores import Cores
from dessim.sim.core.device import Device
from dessim.sim.core.recorder import Record, Span
from dessim.sim.faults.faults import Faults
from dessim.sim.fluid.network import GIVES_UP, Network
from dessim.sim.packet.rank_collectives import THREADS, RankCollectives, supports_packet_model
from dessim.sim.progress import Progress
from dessim.sim.rendezvous import Rendezvous, RendezvousTable
from dessim.trace.schema import Collective
from dessim.workload.dag import Task, Workload

Process = Generator[simpy.Event, object, None]


class JobRun:
    """A workload on its way through a network that others may share; `collectives` know where its ranks sit."""

    def __init__(
        self,
        env: simpy.Environment,
        network: Network,
        collectives: Collectives,
        workload: Workload,
        progress: Progress,
        cores: Cores | None = None,
    ) -> None:
        self.env, self.network, self.collectives, self.workload, self.progress = (
            env,
            network,
            collectives,
            workload,
            progress,
        )
        self.rendezvous = RendezvousTable(env, workload)
        self.record = Record(workload.n_ranks, tuple(c.ranks for c in workload.classes))
        self.kinds = collectives.cluster.links.kinds
        self.over: list[list[simpy.Event]] = []
        # Processes on one machine come and go one by one.
        self.rank_collectives = None
        if cores is not None and supports_packet_model(collectives.cluster.transport):
            self.rank_collectives = RankCollectives(env, collectives, network.counters, cores)
        threads = 0 if self.rank_collectives is None else THREADS
        shares = [collectives.gpu_of(c.ranks[0]).comm_sm_share for c in workload.classes]
        self.devices = [Device(env, share, cores, threads, number) for number, share in enumerate(shares)]
        self.moving = 0  # collectives under way
        self.paused: Callable[[], object] | None = None  # called when the last of them is over

    def start(self) -> simpy.Event:
        """Launch every op. The event fires when all are over."""
        for number, rank_class in enumerate(self.workload.classes):
            device = self.devices[number]
            self.over.append([self.env.event() for _ in rank_class.tasks])
            for index, task in enumerate(rank_class.tasks):
                turn = device.stream(task.stream, task.collective is not None).request()
                self.env.process(self._op(number, index, task, turn, device))
        return simpy.AllOf(self.env, [event for events in self.over for event in events])

    def finish(self) -> Record:
        """What happened until now; of the network only what is this workload's own."""
        self.record.end = float(self.env.now)
        self.record.solves = self.collectives.solves
        self.record.flow_colours = self.collectives.flow_colours
        self.record.error = self.collectives.error
        self.record.link_colours = self.collectives.link_colours
        # Order by time, not by which process happened to be resumed first.
        self.record.spans.sort(key=lambda s: (s.start, s.rank_class, s.end, s.name))
        return self.record

    def state(self) -> tuple[list[list[bool]], list[float]] | None:
        """All that decides how it goes on, where no collective is under way (else None): which ops are over, and the
        seconds left of those that compute."""
        if self.moving or any(task.delay for rank_class in self.workload.classes for task in rank_class.tasks):
            return None
        return [[over.triggered for over in ops] for ops in self.over], [t for d in self.devices for t in d.left()]

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
        self.progress.check()
        start = env.now
        if task.collective is None:
            yield from device.compute(task.duration, index)
            outcome = Outcome("", start, {"compute": env.now - start})
        else:
            outcome = yield self._meet(number, task)  # type: ignore[assignment]
        carried = () if outcome.carried is None else zip(self.kinds, outcome.carried.tolist(), strict=True)
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
                group=task.group,
                group_size=len(self.workload.groups[task.group]) if task.group else 0,
                parts=outcome.parts,
                carried={kind: size for kind, size in carried if size > 0},
                index=index,
                deps=task.deps,
            )
        )
        device.stream(task.stream, task.collective is not None).release(turn)
        over[index].succeed()

    def _meet(self, number: int, task: Task) -> simpy.Event:
        """Join a collective; the event fires when it is over."""
        rendezvous = self.rendezvous.join(number, task)
        if self.rank_collectives is not None:
            over = self.rank_collectives.join(rendezvous, task)
            if rendezvous.complete:
                self.rendezvous.done += 1
                rendezvous.over.succeed()
            return over
        if rendezvous.complete:
            self.env.process(self._collective(rendezvous))
        return rendezvous.over

    def _collective(self, rendezvous: Rendezvous) -> Process:
        task = rendezvous.task
        assert task.collective is not None and task.group is not None
        members = [self.devices[number] for number in rendezvous.classes]
        self.moving += 1
        for device in members:
            device.begin_communication()
        progress = self.progress.within(self.rendezvous.done, self.rendezvous.due, "collectives")
        outcome = yield from self.collectives.run(
            self.env, self.network, task.collective, task.group, task.size, rendezvous.splits or None, progress
        )
        self.rendezvous.done += 1
        self.progress.tick(self.rendezvous.done, self.rendezvous.due, "collectives")
        for device in members:
            device.end_communication()
        rendezvous.over.succeed(outcome)
        self.moving -= 1
        if self.paused is not None and not self.moving:
            self.paused()

    def so_far(self) -> dict[str, float]:
        """How far it has come, for OutOfTime."""
        left = Counter(task.step for rank_class in self.workload.classes for task in rank_class.tasks)
        left.subtract(span.step for span in self.record.spans)
        done = sum(ops == 0 for ops in left.values())
        return {"steps_done": done, "steps": len(left), "simulated_s": float(self.env.now)}


@one_blas_thread
def simulate(
    cluster: Cluster,
    workload: Workload,
    algorithms: Mapping[Collective, str] | None = None,
    folding: bool = True,
    routed: RouteCache | None = None,
    options: Options | None = None,
    progress: Progress | None = None,
    gpus: Sequence[int] | None = None,
    faults: Faults | None = None,
    cores: int | None = None,
) -> Record:
    """JobRun a workload on a cluster of its own; rank r sits on GPU r, or on `gpus[r]`.

    `algorithms` fixes a collective's algorithm (default `auto`). `folding=False` runs the same engine without folding.
    `routed` carries routes from one simulation of the cluster to the next; it brings its own `folding`. `options`
    sets what algorithms leave open: chunks, the root, the sides of a torus. `progress` may stop the run.
    `faults` befall the cluster meanwhile. `cores`: all ranks compute on one machine with so many, each in its turn, and
    over gloo they talk packet by packet, one by one.
    Raises CapacityError when the cluster is too small, DeadlockError when ranks wait for each other, OutOfTime, and
    SimulationError when a fault cuts ranks off for too long.
    """
    routed, progress, env = routed or RouteCache(cluster, folding), progress or Progress(), simpy.Environment()
    seats = seated(routed.cluster, workload.n_ranks, gpus)
    shared = Cores(env, cores) if cores is not None else None
    if shared is not None and faults and supports_packet_model(cluster.transport):
        raise SimulationError("faults do not befall packets; leave out faults, or cores")
    workload = workload if shared is None else workload.one_by_one()
    network = Network(env, routed.cluster, routed.folding, progress, faults.timeout if faults else GIVES_UP)
    collectives = Collectives(routed, workload.groups, algorithms, options, seats)
    if faults:
        env.process(faults.strike(env, network, [collectives]))
    run = JobRun(env, network, collectives, workload, progress, shared)
    try:
        env.run(until=run.start())
    except RuntimeError as stuck:
        # simpy's way to say that nothing is left to happen before `until` did.
        raise DeadlockError(f"deadlock: {run.rendezvous.missing()}") from stuck
    except OutOfTime as cut:
        raise OutOfTime(cut.line, cut.so_far | run.so_far()) from None
    record = run.finish()
    record.solves += network.solves
    record.bytes_by_kind = dict(zip(routed.cluster.links.kinds, network.counters.bytes_by_kind.tolist(), strict=True))
    record.load = network.counters.load(record.end)
    return record
