"""Seconds of a step on N hosts of the lab, and the order in which asynchronous servers apply pushes: simulated.

Messages are priced by the transport that was calibrated on the lab, compute by the captures of measure.py.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from dessim.calibrate.profile import fit_profile
from dessim.cluster import Cluster
from dessim.cluster.load import build_cluster, load_topology
from dessim.cluster.parts import Transport
from dessim.commands.support.captured import Capture, Captured
from dessim.commands.support.median_step import median_step
from dessim.sim.core.recorder import Record
from dessim.sim.engine import simulate
from dessim.sim.progress import Progress
from dessim.sim.servers.parameter_server import serve
from dessim.sim.servers.traffic import Consistency, StepTraffic
from dessim.validate.steps import traced_strategy
from dessim.workload.dag import Workload
from dessim.workload.from_plan import workload_from_plan
from dessim.workload.owners import owners_of
from dessim.workload.plan import PlannedOp
from dessim.workload.server_roles import Roles, a_message, requests_of
from dessim.workload.strategies import plan as plan_of

HERE = Path(__file__).parent
SYNCHRONOUS = ("des_all_reduce", "ps_sync")
STEPS = 3  # simulated in a row; the first does not count


@dataclass(frozen=True, slots=True)
class Served:
    """Asynchronous training: seconds in which every worker makes one step, and the lag of each update of an epoch."""

    step_s: float
    lags: list[int]


class StepTimes:
    """Predicts steps from the stored measurements of the lab."""

    def __init__(self, study: Mapping[str, Any], measured: Mapping[str, Any]) -> None:
        self._hosts = study["hosts"]
        self._batch = study["training"]["batch_per_worker"]
        self._measured = measured
        calibration = json.loads((HERE / self._hosts["calibration"]).read_text("utf-8"))["calibration"]
        self.transport: Transport = fit_profile(calibration).transport

    def hosts(self, count: int) -> Cluster:
        """`count` hosts of the lab on one switch."""
        file, path = load_topology(self._hosts["bed"])
        node = file.nodes[0].model_copy(update={"count": count})
        return replace(build_cluster(file.model_copy(update={"node": node}), path), transport=self.transport)

    def captured(self, strategy: str, cluster: Cluster) -> Captured:
        """The captures of `strategy`, or of the one that gives its compute."""
        raw = self._measured["captures"][f"fm {traced_strategy(strategy)}"]
        return Captured.of([Capture.from_json(one) for one in raw], cluster.gpu)

    def synchronous(self, strategy: str, workers: int) -> float:
        """Seconds of a step of `workers` hosts, each with a core to itself."""
        cluster = self.hosts(workers)
        captured = self.captured(strategy, cluster)
        plan = plan_of(strategy, captured.job.model).pipelined()
        symbols = plan.symbols(captured.job.symbols(workers, self._batch))
        owners = owners_of(plan, captured.job.model, symbols)
        durations = [captured.durations(plan, symbols, owner) for owner in owners]
        workload = workload_from_plan(plan, symbols, durations, STEPS, owners)

        def run(uneven: Workload, progress: Progress) -> Record:
            return simulate(cluster, uneven, network="packet", progress=progress)

        return median_step(workload, captured.spread, run, most_runs=1).seconds

    def asynchronous(self, workers: int, updates: int, seed: int) -> Served:
        """Steps of `workers` hosts with dedicated servers, until `updates` pushes have been applied.

        A server of des_ref has one thread, which also sends and receives, so that its service times include the
        transfer of the message (dessim.validate.steps predicts measured steps in the same manner).
        """
        servers = max(1, workers // self._hosts["workers_per_server"])
        cluster = self.hosts(workers + servers)
        captured = self.captured("ps_async", cluster)
        plan = plan_of("ps_async", captured.job.model)
        symbols = captured.job.symbols(workers, self._batch)
        roles = Roles.of(plan)
        message = a_message(symbols, servers)
        requests = requests_of(plan, symbols, servers, sync=False)
        nic_rate = cluster.node.nic.capacity

        def seconds(ops: Sequence[PlannedOp], values: Mapping[str, float]) -> float:
            return sum(captured.seconds(op, values) for op in ops)

        served = serve(
            cluster,
            np.arange(workers),
            np.arange(workers, workers + servers),
            traffic=StepTraffic(
                request=requests.request,
                reply=requests.reply,
                push=requests.push,
                gather=seconds(roles.gather, message) + requests.reply / nic_rate,
                merge=seconds(roles.update, message) + requests.push / nic_rate,
            ),
            compute=[seconds(roles.prepare, symbols) + captured.between, seconds(roles.compute, symbols)],
            consistency=Consistency(sync=False, jitter=captured.spread, seed=seed),
            measured=-(-updates // workers),
        )
        pulled, pushed = served.versions[:updates].T
        return Served(served.step_time, (pushed - pulled).tolist())
