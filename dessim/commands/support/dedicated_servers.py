"""Projection of parameter servers that have hosts of their own.

Workers take the cluster's first GPUs. Each server is a host of its own, from the first one without a worker on, and is
attached by its first NIC; of the host only CPU and memory count, and these are those of a device of the parts
catalogue. A server's thread is the device's share of one in k: a request costs it the launch overhead, then the
roofline at 1/k of the device's rates. That is exact when all threads are busy, which is when it matters, and slow for a
lone request.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dessim.cluster import Cluster, Gpu
from dessim.cluster.links import IntArray
from dessim.cluster.load import load_device
from dessim.errors import CapacityError, UsageError
from dessim.results.metrics import Breakdown
from dessim.results.server_times import ServerTimes, server_breakdown
from dessim.sim.core.device import roofline
from dessim.sim.core.recorder import Record
from dessim.sim.progress import Progress
from dessim.sim.servers.parameter_server import serve
from dessim.sim.servers.traffic import Consistency, StepTraffic
from dessim.workload.memory import Memory
from dessim.workload.plan import Plan
from dessim.workload.server_roles import Roles, Work, requests_of
from dessim.workload.strategies import STRATEGIES, spec_of


@dataclass(frozen=True, slots=True)
class Servers:
    """`count` parameter servers with `threads` threads each on a `device`; `staleness`, `jitter` and `seed` are those
    of `dessim.sim.servers.traffic.Consistency`."""

    count: int
    device: Gpu
    threads: int = 1
    staleness: int | None = None
    jitter: float = 0.0
    seed: int = 0

    def consistency(self, strategy: str) -> Consistency:
        sync = spec_of(strategy).synchronous
        return Consistency(sync, None if sync else self.staleness, self.threads, self.jitter, self.seed)

    def seats(self, cluster: Cluster, n: int) -> IntArray:
        """The GPU in whose place each is attached, beside `n` workers. Raises CapacityError where hosts are too few."""
        host = cluster.node_of(np.arange(cluster.n_gpus))
        first = int(host[n - 1]) + 1
        left = cluster.n_nodes - first
        if self.count > left:
            raise CapacityError(
                f"cluster {cluster.name} has {cluster.n_nodes} hosts; {n:,} GPUs take {first} of them, which leaves "
                f"{left} for --servers {self.count}; ask for fewer GPUs or servers, or raise node.count in "
                f"{cluster.path}"
            )
        return np.searchsorted(host, first + np.arange(self.count))


@dataclass(frozen=True, slots=True)
class ServedStep:
    """A projected step with servers: the servers, what each needs, and where time goes."""

    servers: Servers
    memory: Memory
    consistency: Consistency
    breakdown: Breakdown
    times: ServerTimes
    record: Record

    def to_json(self) -> dict[str, Any]:
        """What a row of `projection` says of its servers."""
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


def parse_servers(
    count: int | None, device: str, threads: int, staleness: int | None, jitter: float, seed: int
) -> Servers | None:
    """The servers that options of the command line ask for. Raises UsageError where they need `--servers`."""
    if count is None:
        for flag, given in (("--staleness", staleness is not None), ("--jitter", jitter > 0)):
            if given:
                raise UsageError(
                    f"{flag} is for parameter servers on hosts of their own: add --servers 16, for example"
                )
        return None
    return Servers(count, load_device(device), threads, staleness, jitter, seed)


def check(strategies: Sequence[str], servers: Servers | None) -> None:
    """Raise UsageError where strategies and servers do not go together."""
    served = [strategy for strategy in strategies if spec_of(strategy).has_servers]
    if servers is not None and (optioned := next((strategy for strategy in served if "+" in strategy), None)):
        raise UsageError(f"--servers and {optioned}: hosts that serve have no options yet; leave one of the two out")
    if servers is None:
        if apart := [strategy for strategy in served if spec_of(strategy).dedicated_servers]:
            raise UsageError(f"{apart[0]} needs servers on hosts of their own: add --servers 16, for example")
        return
    if not served:
        names = " and ".join(spec.name for spec in STRATEGIES.values() if spec.has_servers)
        raise UsageError(f"--servers is for {names}; add one of them to --strategy")
    if servers.staleness is not None and all(spec_of(strategy).synchronous for strategy in served):
        raise UsageError("--staleness is for ps_async; ps_sync waits for every push")


def step_with_servers(
    cluster: Cluster,
    plan: Plan,
    symbols: Mapping[str, float],
    durations: Mapping[str, float],
    servers: Servers,
    memory: Memory,
    folding: bool,
    progress: Progress,
) -> ServedStep:
    """Simulate. `durations` are the seconds of a worker's compute ops by name, `memory` is what a server needs."""
    n, consistency, device = int(symbols["N"]), servers.consistency(plan.strategy), servers.device
    wanted, roles = requests_of(plan, symbols, servers.count, consistency.sync), Roles.of(plan)

    def seconds(work: Work) -> float:
        return roofline(device, work.flops * servers.threads, work.mem * servers.threads, kernels=1)

    served = serve(
        cluster,
        np.arange(n),
        servers.seats(cluster, n),
        StepTraffic(
            wanted.request,
            wanted.reply,
            wanted.push,
            seconds(wanted.gather),
            seconds(wanted.merge),
            seconds(wanted.apply) if consistency.sync else 0.0,
        ),
        [sum(durations[op.name] for op in ops) for ops in (roles.prepare, roles.compute)],
        consistency,
        folding=folding,
        progress=progress,
    )
    return ServedStep(servers, memory, consistency, *server_breakdown(served), served.record)
