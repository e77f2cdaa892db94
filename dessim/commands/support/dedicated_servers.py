"""Projection of parameter servers on dedicated hosts.

Workers use the cluster's first GPUs. Each server has a host to itself, starting with the first host without a worker,
and is attached through that host's first NIC. Only the CPU and memory of a server host count; they are those of a
device of the parts catalogue. A request costs the device's launch overhead, then its roofline at 1/k of the device's
rates, where k is the number of threads. That is exact while all threads are busy, which is when it matters, and too
slow for a lone request.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from dessim.cluster import Cluster, Gpu
from dessim.cluster.links import IntArray
from dessim.cluster.load import load_device
from dessim.commands.support.server_defaults import AUTO, IDEAL, SERVER_DEVICE
from dessim.commands.support.spreads import served_spreads
from dessim.errors import CapacityError, UsageError
from dessim.results.error_bar import ErrorBar, error_bar
from dessim.results.metrics import Breakdown
from dessim.results.server_times import ServerTimes, server_breakdown
from dessim.sim.core.device import roofline
from dessim.sim.core.recorder import Record
from dessim.sim.fluid.route_cache import RouteCache
from dessim.sim.progress import Progress
from dessim.sim.servers.parameter_server import serve
from dessim.sim.servers.traffic import Consistency, StepTraffic
from dessim.units import counted
from dessim.workload.memory import Memory
from dessim.workload.owners import Owner
from dessim.workload.plan import Plan, PlannedOp
from dessim.workload.server_roles import Roles, Work, on_server, requests_of
from dessim.workload.strategies import STRATEGIES, parse_strategy, spec_of

_MOST_AUTO_WORKERS = 128
"""Workers are not folded, so a simulation with servers takes minutes for more."""


@dataclass(frozen=True, slots=True)
class Servers:
    """`count` parameter servers, each with `threads` threads on a `device`; 0: as many as `AUTO` says.

    `staleness`, `jitter` and `seed` are those of `dessim.sim.servers.traffic.Consistency`.
    """

    count: int
    device: Gpu
    threads: int = 1
    staleness: int | None = None
    jitter: float = 0.0
    seed: int = 0

    def for_workers(self, cluster: Cluster, n_workers: int) -> Servers | None:
        """Return these servers with their number for `n_workers`; None if `AUTO` finds no host free for any."""
        if self.count:
            return self
        hosts = int(cluster.node_of(np.array([n_workers - 1]))[0]) + 1
        count = min(hosts, cluster.n_nodes - hosts)
        return replace(self, count=count) if count and n_workers <= _MOST_AUTO_WORKERS else None

    def consistency(self, strategy: str) -> Consistency:
        """When workers wait for each other under `strategy`; a synchronous one has no staleness bound."""
        sync = spec_of(strategy).synchronous
        return Consistency(
            sync=sync,
            staleness=None if sync else self.staleness,
            threads=self.threads,
            jitter=self.jitter,
            seed=self.seed,
        )

    def first_gpus(self, cluster: Cluster, n_workers: int) -> IntArray:
        """Return the first GPU of each server's host [count]; the server uses that GPU's attachment to the fabric.

        Raises CapacityError where too few hosts are left beside the workers'.
        """
        host_of_gpu = cluster.node_of(np.arange(cluster.n_gpus))
        first_host = int(host_of_gpu[n_workers - 1]) + 1
        hosts_left = cluster.n_nodes - first_host
        if self.count > hosts_left:
            raise CapacityError(
                f"cluster {cluster.name} has {cluster.n_nodes} hosts; {n_workers:,} GPUs take {first_host} of them, "
                f"which leaves {hosts_left} for --servers {self.count}; ask for fewer GPUs or servers, or raise "
                f"node.count in {cluster.path}"
            )
        return np.searchsorted(host_of_gpu, first_host + np.arange(self.count))

    def source(self) -> str:
        """Describe the servers in the provenance of a row."""
        share = f", of which each of {self.threads} threads has its share" if self.threads > 1 else ""
        return f"assumed: {counted(self.count, 'host')} beside the workers', roofline of {self.device.name}{share}"


@dataclass(frozen=True, slots=True)
class ServedStep:
    """A projected step with dedicated servers. `memory` is that of one server, `times` the causes of waiting."""

    servers: Servers
    memory: Memory
    consistency: Consistency
    breakdown: Breakdown
    times: ServerTimes
    record: Record

    def error_bar(self, cluster: Cluster, measured: bool) -> ErrorBar | None:
        """The error bar of the step; `measured`: whether the compute times of its workers were measured."""
        path = self.breakdown.critical_path
        size = max((op.size for op in path), default=0.0) / self.servers.count
        spreads = served_spreads(cluster, self.record.n_ranks, size, self.servers.device.spread, measured=measured)
        return error_bar(path, spreads)

    def to_json(self) -> dict[str, Any]:
        """The `servers` object of a row of `projection`."""
        return {
            "count": self.servers.count,
            "device": self.servers.device.name,
            "threads": self.servers.threads,
            "sync": self.consistency.sync,
            "staleness_bound_steps": self.consistency.staleness,
            "jitter": self.consistency.jitter,
            "seed": self.consistency.seed,
            "memory_bytes": self.memory.total,
            "memory": self.memory.to_json(),
            **self.times.to_json(),
        }


def default_servers() -> Servers:
    """The servers of a projection that states none: `AUTO`, on `SERVER_DEVICE`."""
    return Servers(0, load_device(SERVER_DEVICE))


def parse_servers(
    count: str, device: str, threads: int, *, staleness: int | None, jitter: float, seed: int
) -> Servers | None:
    """Return the servers that command-line options describe; None for `IDEAL` ones.

    Raises UsageError where another option needs dedicated servers, or the device is unknown.
    """
    if count != IDEAL:
        if count != AUTO and not (count.isdecimal() and len(count) < 19 and int(count)):
            raise UsageError(f"--servers {count}: write a number of hosts from 1, {AUTO} or {IDEAL}")
        return Servers(
            count=0 if count == AUTO else int(count),
            device=load_device(device),
            threads=threads,
            staleness=staleness,
            jitter=jitter,
            seed=seed,
        )
    given = {
        "--staleness": staleness is not None,
        "--jitter": jitter > 0,
        "--server-threads": threads > 1,
        "--seed": seed > 0,
        "--server-device": device != SERVER_DEVICE,
    }
    for flag, is_given in given.items():
        if is_given:
            raise UsageError(f"{flag} is for dedicated parameter servers: add --servers 16, for example")
    return None


def check_servers(strategies: Sequence[str], servers: Servers | None) -> None:
    """Raise UsageError where strategies and servers do not go together."""
    served = [strategy for strategy in strategies if spec_of(strategy).has_servers]
    if servers is None or not servers.count:
        if servers is not None and not served:
            _refuse_details(servers)
        without = [strategy for strategy in served if spec_of(strategy).dedicated_servers]
        if without and servers is None:
            raise UsageError(f"{without[0]} needs dedicated servers: add --servers 16, for example")
        return
    with_options = [strategy for strategy in served if parse_strategy(strategy)[1]]
    if with_options:
        raise UsageError(
            f"--servers and {with_options[0]}: options of strategies are not modelled for dedicated servers; leave one "
            "of them out"
        )
    if not served:
        names = " and ".join(spec.name for spec in STRATEGIES.values() if spec.has_servers)
        raise UsageError(f"--servers is for {names}; add one of them to --strategy")
    if servers.staleness is not None and all(spec_of(strategy).synchronous for strategy in served):
        raise UsageError("--staleness is for ps_async; ps_sync waits for every push")


def _refuse_details(servers: Servers) -> None:
    """Raise UsageError for what is said of servers where no strategy has any."""
    if servers.staleness is not None or servers.jitter > 0:
        raise UsageError("--staleness and --jitter are for ps_sync and ps_async; add one of them to --strategy")
    given = {
        "--server-threads": servers.threads > 1,
        "--seed": servers.seed > 0,
        "--server-device": servers.device.name != SERVER_DEVICE,
    }
    for flag, is_given in given.items():
        if is_given:
            raise UsageError(f"{flag} is for ps_sync and ps_async; leave it out, or add one of them to --strategy")


def step_with_servers(
    routed: RouteCache,
    plan: Plan,
    owners: tuple[Owner, Owner],
    *,
    symbols: Mapping[str, float],
    durations: Mapping[str, float],
    servers: Servers,
    memory: Memory,
    progress: Progress,
) -> ServedStep:
    """Simulate a step of `plan` with dedicated servers; `owners` are the busiest one and the others.

    `durations` are the seconds of a worker's compute ops by name; `memory` is what one server needs.
    """
    n_workers = int(symbols["N"])
    consistency = servers.consistency(plan.strategy)
    roles = Roles.of(plan)
    busiest, others = (_traffic(plan, on_server(symbols, owner), servers, consistency) for owner in owners)

    def compute_s(ops: Sequence[PlannedOp]) -> float:
        return sum(durations[op.name] for op in ops)

    served = serve(
        routed.cluster,
        np.arange(n_workers),
        servers.first_gpus(routed.cluster, n_workers),
        traffic=others,
        compute=[compute_s(roles.prepare), compute_s(roles.compute)],
        consistency=consistency,
        busiest=busiest if busiest != others else None,
        folding=routed.folding,
        progress=progress,
    )
    step_breakdown, times = server_breakdown(served)
    return ServedStep(
        servers=servers,
        memory=memory,
        consistency=consistency,
        breakdown=step_breakdown,
        times=times,
        record=served.record,
    )


def _traffic(plan: Plan, symbols: Mapping[str, float], servers: Servers, consistency: Consistency) -> StepTraffic:
    """Bytes of each message of a step, and the seconds that a server's thread takes to serve it."""
    requests = requests_of(plan, symbols, servers.count, consistency.sync)

    def service_s(work: Work) -> float:
        # A thread has 1/k of the device's rates, so the same work takes k times as long.
        return roofline(servers.device, work.flops * servers.threads, work.mem * servers.threads, kernels=1)

    return StepTraffic(
        request=requests.request,
        reply=requests.reply,
        push=requests.push,
        gather=service_s(requests.gather),
        merge=service_s(requests.merge),
        apply=service_s(requests.apply) if consistency.sync else 0.0,
    )
