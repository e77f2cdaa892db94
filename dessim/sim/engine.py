"""The event loop: ranks execute their ops, streams keep issue order, collectives wait for their last rank.

    record = simulate(cluster, workload)

Each class of identical ranks is simulated once. An op is a small process: it waits for its stream (in issue order, as
on a CUDA stream) and for its dependencies, computes or communicates, and releases the stream.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import replace
from typing import Literal

import simpy

from dessim.cluster import Cluster
from dessim.cluster.placement import gpu_of_each_rank
from dessim.collectives import Options
from dessim.collectives.gloo import NAME as GLOO
from dessim.errors import DeadlockError, OutOfTime, SimulationError
from dessim.sim.collective import NetworkModel, Outcome
from dessim.sim.core.blas import one_blas_thread
from dessim.sim.core.bounds import COMPUTE
from dessim.sim.core.clock import Clock
from dessim.sim.core.cores import Cores
from dessim.sim.core.device import Device
from dessim.sim.core.recorder import Record, Span
from dessim.sim.faults.faults import Faults
from dessim.sim.fluid.fabric import RETRY_TIMEOUT_S, FlowFabric
from dessim.sim.fluid.model import FluidNetwork
from dessim.sim.fluid.route_cache import RouteCache
from dessim.sim.packet.fabric import PacketFabric
from dessim.sim.packet.model import PacketNetwork
from dessim.sim.progress import Progress
from dessim.sim.rendezvous import Rendezvous, RendezvousTable
from dessim.trace.schema import Collective
from dessim.workload.dag import Task, Workload

Process = Generator[simpy.Event, object, None]
NetworkName = Literal["fluid", "packet"]


class JobRun:
    """A workload that runs on `network`, which other jobs may share.

    `cores` are those of one machine, if all ranks compute there. `in_progress` collectives move data; `on_idle` is
    called when the last of them has finished.
    """

    def __init__(
        self,
        env: simpy.Environment,
        network: NetworkModel,
        workload: Workload,
        progress: Progress,
        cores: Cores | None = None,
    ) -> None:
        self.env = env
        self.network = network
        self.workload = workload
        self.progress = progress
        self.rendezvous = RendezvousTable(env, workload)
        self.record = Record(workload.n_ranks, tuple(c.ranks for c in workload.classes))
        self.devices = [
            Device(
                env,
                comm_sm_share=network.gpu_of(rank_class.ranks[0]).comm_sm_share,
                cores=cores,
                threads=network.threads_per_stream,
                number=number,
            )
            for number, rank_class in enumerate(workload.classes)
        ]
        self.in_progress = 0
        self.on_idle: Callable[[], object] | None = None
        self._finished: list[list[simpy.Event]] = []  # of each rank class, of each op

    def start(self) -> simpy.Event:
        """Launch every op. The event fires when all have finished."""
        for number, rank_class in enumerate(self.workload.classes):
            self._finished.append([self.env.event() for _ in rank_class.tasks])
            for index, task in enumerate(rank_class.tasks):
                # Requested here, so that a stream serves ops in issue order even if dependencies finish late.
                turn = self._stream(number, task).request()
                self.env.process(self._op(number, index, task, turn))
        return simpy.AllOf(self.env, [event for events in self._finished for event in events])

    def finish(self) -> Record:
        """The record of what happened so far; of the network, only this job's share."""
        self.record.end = float(self.env.now)
        self.network.note(self.record)
        # Sort by time: the order in which processes resume at one instant has no meaning.
        self.record.spans.sort(key=lambda span: (span.start, span.rank_class, span.end, span.name))
        return self.record

    def state(self) -> tuple[list[list[bool]], list[float]] | None:
        """The state that determines how the job continues: which ops have finished, and the seconds of compute left.

        None while a collective is in progress, and for workloads with recorded host delays.
        """
        if self.in_progress or any(task.delay for rank_class in self.workload.classes for task in rank_class.tasks):
            return None
        finished = [[op.triggered for op in ops] for ops in self._finished]
        return finished, [seconds for device in self.devices for seconds in device.left()]

    def started(self, rendezvous: Rendezvous) -> Progress:
        """A collective begins to move data. Its GPUs compute more slowly until it has finished."""
        self.in_progress += 1
        for number in rendezvous.classes:
            self.devices[number].begin_communication()
        return self.progress.within(self.rendezvous.finished, self.rendezvous.total, "collectives")

    def finished(self, rendezvous: Rendezvous) -> None:
        """A collective has moved all of its data."""
        self.rendezvous.finished += 1
        self.progress.tick(self.rendezvous.finished, self.rendezvous.total, "collectives")
        for number in rendezvous.classes:
            self.devices[number].end_communication()
        self.in_progress -= 1
        if self.on_idle is not None and not self.in_progress:
            self.on_idle()

    def so_far(self) -> dict[str, float]:
        """Steps that have finished and simulated seconds, for OutOfTime."""
        ops_left = Counter(task.step for rank_class in self.workload.classes for task in rank_class.tasks)
        ops_left.subtract(span.step for span in self.record.spans)
        steps_done = sum(left == 0 for left in ops_left.values())
        return {"steps_done": steps_done, "steps": len(ops_left), "simulated_s": float(self.env.now)}

    def _stream(self, number: int, task: Task) -> simpy.Resource:
        return self.devices[number].stream(task.stream, collective=task.collective is not None)

    def _op(self, number: int, index: int, task: Task, turn: simpy.resources.resource.Request) -> Process:
        env = self.env
        finished = self._finished[number]
        yield turn
        waiting = [finished[dep] for dep in task.deps if not finished[dep].processed]
        if waiting:
            yield simpy.AllOf(env, waiting)
        if task.delay > 0:
            yield env.timeout(task.delay)
        self.progress.check()
        start = env.now
        if task.collective is None:
            yield from self.devices[number].compute(task.duration, index)
            outcome = Outcome("", start, {COMPUTE: env.now - start})
        else:
            rendezvous = self.rendezvous.join(number, task)
            outcome = yield self.network.join(rendezvous, task, self)  # type: ignore[assignment]
        self._record(number, index, task, start, outcome)
        self._stream(number, task).release(turn)
        finished[index].succeed()

    def _record(self, number: int, index: int, task: Task, start: float, outcome: Outcome) -> None:
        kinds = self.network.cluster.links.kinds
        carried = () if outcome.carried is None else zip(kinds, outcome.carried.tolist(), strict=True)
        self.record.spans.append(
            Span(
                rank_class=number,
                task=task,
                start=start,
                moving_since=outcome.moving_since,
                end=self.env.now,
                algorithm=outcome.algorithm or None,
                group_size=len(self.workload.groups[task.group]) if task.group else 0,
                parts=outcome.parts,
                carried={kind: size for kind, size in carried if size > 0},
                index=index,
            )
        )


@one_blas_thread
def simulate(
    cluster: Cluster,
    workload: Workload,
    algorithms: Mapping[Collective, str] | None = None,
    *,
    folding: bool = True,
    routed: RouteCache | None = None,
    options: Options | None = None,
    progress: Progress | None = None,
    gpus: Sequence[int] | None = None,
    faults: Faults | None = None,
    cores: int | None = None,
    network: NetworkName = "fluid",
) -> Record:
    """Run a workload alone on a cluster; rank r is on GPU r, or on `gpus[r]`.

    `algorithms` fixes the algorithm of an op (default "auto"), `options` sets what algorithms leave open: chunks, the
    root, the sides of a torus. `folding=False` simulates identical flows one by one. `routed` keeps routed stages from
    one simulation of a cluster to the next; its cluster and its folding then replace `cluster` and `folding`.
    `progress` reports and may stop the run. `faults` change links during the run. With `cores` all ranks share the
    cores of one machine. `network` is the model of the network: "fluid" (max-min fair rates, any size) or "packet"
    (gloo, a few ranks, packet by packet).

    Raises CapacityError when the cluster is too small, DeadlockError when ranks wait for each other, OutOfTime, and
    SimulationError when a fault cuts ranks off for too long, or the packet network cannot run the workload.
    """
    env = Clock()
    progress = progress or Progress()
    routed = routed or RouteCache(cluster, folding)
    gpus_of_ranks = gpu_of_each_rank(routed.cluster, workload.n_ranks, gpus)
    shared_cores = Cores(env, cores) if cores is not None else None
    if shared_cores is not None or network == "packet":
        workload = workload.one_by_one()
    model: NetworkModel
    if network == "packet":
        if faults:
            raise SimulationError("the packet network does not model faults; leave them out, or use the fluid network")
        chosen = [name for name in (algorithms or {}).values() if name not in ("auto", GLOO)]
        # `timing` matters to NCCL's algorithms only.
        if chosen or (options is not None and replace(options, timing=Options().timing) != Options()):
            raise SimulationError("the packet network runs gloo's own algorithms; leave out algorithms and options")
        model = PacketNetwork(PacketFabric(env, routed.cluster, shared_cores), workload.groups, gpus_of_ranks)
    else:
        fabric = FlowFabric(
            env, routed.cluster, routed.folding, progress, faults.timeout if faults else RETRY_TIMEOUT_S
        )
        fluid = FluidNetwork(fabric, routed, workload.groups, algorithms, options, gpus_of_ranks)
        model = fluid
        if faults:
            env.process(faults.apply(env, fabric, [fluid]))
    run = JobRun(env, model, workload, progress, shared_cores)
    _run_to_end(env, run)
    record = run.finish()
    record.solves += model.counters.solves
    record.bytes_by_kind = dict(zip(routed.cluster.links.kinds, model.counters.bytes_by_kind.tolist(), strict=True))
    record.load = model.counters.load(record.end)
    return record


def _run_to_end(env: simpy.Environment, run: JobRun) -> None:
    """Raises DeadlockError, OutOfTime."""
    try:
        env.run(until=run.start())
    except RuntimeError as stuck:
        # simpy raises this when no event is left although `until` has not fired.
        raise DeadlockError(f"deadlock: {run.rendezvous.missing()}") from stuck
    except OutOfTime as cut:
        raise OutOfTime(cut.line, cut.so_far | run.so_far()) from None
