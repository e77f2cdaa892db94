"""Whole training steps of every strategy on emulated clusters, with real training.

Measured: the seconds from the end of a step to the end of the next, median over steps. A step ends with its last
worker; with ps_async, whose workers are asynchronous, each worker's own steps count. Predicted: the simulated step of
the strategy's plan, from the bed's topology file and the calibrated transport. Sizes and compute come from traces of 2
and 4 ranks (dessim.commands.support.captured), scaled by the plan's formulas; all ranks share the machine's cores.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from dessim.cluster import Cluster
from dessim.cluster.parts import Transport
from dessim.commands.support.captured import Capture, Captured
from dessim.commands.support.lab_training import Trained, train_on_lab
from dessim.commands.support.median_step import STEPS, median_step
from dessim.sim.core.recorder import Record
from dessim.sim.engine import NetworkName, simulate
from dessim.sim.packet.model import supports_packet_model
from dessim.sim.progress import Progress
from dessim.sim.servers.parameter_server import serve
from dessim.sim.servers.traffic import Consistency, StepTraffic
from dessim.trace.io import load_trace
from dessim.trace.schema import sent_factor
from dessim.validate.outcome import Outcome
from dessim.validate.request import CaseRequest, OnStatus
from dessim.validate.step_cases import StepCase, model_of, read_steps, samples_of, step_cases
from dessim.workload.dag import Workload
from dessim.workload.from_plan import workload_from_plan
from dessim.workload.owners import busiest_server, owners_of
from dessim.workload.plan import PlannedOp
from dessim.workload.server_roles import Roles, a_message, moved, on_server, requests_of
from dessim.workload.strategies import plan as plan_of
from dessim.workload.strategies import spec_of

KIND = "steps"
_TIMEOUT_S = 280.0  # of a launch, one per bed
_STALENESS = 4  # the bound that des_ref.steps trains with


def traced_strategy(strategy: str) -> str:
    """The strategy whose traces give the compute of `strategy`: itself, if its ops can be traced."""
    return spec_of(strategy).traced_as or strategy


def run_steps(request: CaseRequest) -> tuple[list[Outcome], dict[str, Any]]:
    """Return the outcomes of steps.toml, and the measurements: captures, and the step times of each case's workers."""
    table = read_steps()
    cases = [case for case in step_cases(table, request.splits, request.quick) if request.only in case.name]
    if not cases:
        return [], request.measured or {}
    measured = request.measured or measure(table, cases, request.on_status)
    trained = measured["trained"]
    outcomes = [
        Outcome(
            name=case.name,
            kind=KIND,
            split=case.split,
            predicted_s=predict(case, captured_of(case, measured), request.transport, int(measured["cores"])),
            measured_s=Trained(trained[case.name]).step_s,
        )
        for case in cases
        if case.name in trained
    ]
    return outcomes, measured


def captured_of(case: StepCase, measured: Mapping[str, Any]) -> Captured:
    """Return the case's captures among the measurements. Raises TraceError."""
    captures = [Capture.from_json(raw) for raw in measured["captures"][capture_key(case)]]
    return Captured.of(captures, case.cluster().gpu)


def predict(case: StepCase, captured: Captured, transport: Transport, cores: int) -> float:
    """Simulate a case on a machine with `cores` cores. Returns the seconds of a step."""
    cluster = replace(case.cluster(), transport=transport)
    if case.servers:
        return _predict_with_servers(case, captured, cluster)
    plan = plan_of(case.strategy, captured.job.model)
    plan = plan.pipelined() if case.pipeline else plan
    symbols = plan.symbols(captured.job.symbols(case.workers, case.batch))
    owners = owners_of(plan, captured.job.model, symbols)
    durations = [captured.durations(plan, symbols, owner) for owner in owners]
    workload = workload_from_plan(plan, symbols, durations, STEPS, owners)
    network: NetworkName = "packet" if supports_packet_model(transport) else "fluid"

    def run(uneven: Workload, progress: Progress) -> Record:
        return simulate(cluster, uneven, cores=cores, network=network, progress=progress)

    return median_step(workload, captured.spread, run).seconds


def payload_of(case: StepCase, captured: Captured) -> float:
    """Return the bytes that the plan sends in a step, summed over all hosts."""
    plan = plan_of(case.strategy, captured.job.model)
    n_workers = case.workers
    symbols = plan.symbols(captured.job.symbols(n_workers, case.batch))
    if case.servers:
        return n_workers * moved(plan, symbols, case.servers)
    return sum(
        n_workers * sent_factor(op.collective, n_workers) * op.even_size(symbols)
        for op in plan.collectives
        if op.collective is not None
    )


def _predict_with_servers(case: StepCase, captured: Captured, cluster: Cluster) -> float:
    """Simulate asynchronous servers. Returns the seconds of a worker's step.

    A server of des_ref has one thread, which also sends and receives, one message at a time. So its service times
    include the transfer of the message at the NIC's rate.
    """
    plan = plan_of(case.strategy, captured.job.model)
    symbols = captured.job.symbols(case.workers, case.batch)
    roles = Roles.of(plan)
    nic_rate = cluster.node.nic.capacity

    def seconds(ops: Sequence[PlannedOp], symbols: Mapping[str, float]) -> float:
        return sum(captured.seconds(op, symbols) for op in ops)

    def traffic(symbols: Mapping[str, float]) -> StepTraffic:
        requests = requests_of(plan, symbols, case.servers, sync=False)
        message = a_message(symbols, case.servers)
        return StepTraffic(
            request=requests.request,
            reply=requests.reply,
            push=requests.push,
            gather=seconds(roles.gather, message) + requests.reply / nic_rate,
            merge=seconds(roles.update, message) + requests.push / nic_rate,
        )

    owners = busiest_server(plan, captured.job.model, symbols, case.servers)
    busiest, others = (traffic(on_server(symbols, owner)) for owner in owners)
    served = serve(
        cluster,
        np.arange(case.workers),
        np.arange(case.workers, case.workers + case.servers),
        traffic=others,
        compute=[seconds(roles.prepare, symbols), seconds(roles.compute, symbols)],
        consistency=Consistency(sync=False, staleness=_STALENESS),
        busiest=busiest if busiest != others else None,
        folding=True,
        progress=Progress(),
    )
    return served.step_time


def measure(table: Mapping[str, Any], cases: Sequence[StepCase], on_status: OnStatus) -> dict[str, Any]:
    """Capture traces for the predictions, then train every case, in one launch per bed. Raises LabError."""
    captures = _capture(table, cases, on_status)
    trained: dict[str, Any] = {}
    by_bed: dict[tuple[str, float], list[StepCase]] = {}
    for case in cases:
        by_bed.setdefault((case.bed, case.scale), []).append(case)
    cores = 0
    machine = ""
    for number, ((bed, scale), bed_cases) in enumerate(by_bed.items(), 1):
        on_status(f"measuring steps of {len(bed_cases)} jobs on {bed} ({number} of {len(by_bed)} beds)")
        result = train_on_lab(bed, [case.to_job(table) for case in bed_cases], _TIMEOUT_S, scale=scale)
        cores = result["cores"]
        machine = result["machine"]
        for case, job in zip(bed_cases, result["jobs"], strict=True):
            trained[case.name] = {key: value for key, value in job.items() if key not in ("model", "trace")}
    return {"machine": machine, "cores": cores, "captures": captures, "trained": trained}


def _capture(table: Mapping[str, Any], cases: Sequence[StepCase], on_status: OnStatus) -> dict[str, list[Any]]:
    """Train every model and strategy of the cases on few ranks. Returns the captures as JSON, by `capture_key`."""
    settings = table["capture"]
    case_of_key = {capture_key(case): case for case in cases}
    captures: dict[str, list[Any]] = {key: [] for key in case_of_key}
    for ranks in settings["ranks"]:
        on_status(f"capturing {len(case_of_key)} traces of {ranks} ranks on {settings['bed']}")
        with TemporaryDirectory() as folder:
            jobs = [
                _capture_job(key, case, table, ranks, Path(folder, f"{number}.trace"))
                for number, (key, case) in enumerate(case_of_key.items())
            ]
            result = train_on_lab(settings["bed"], jobs, _TIMEOUT_S, ranks=ranks, scale=settings["scale"])
            for job, trained in zip(jobs, result["jobs"], strict=True):
                trace = load_trace(job["trace"])
                captures[job["name"]].append(Capture.of_trace(trace, float(trained["work_s"])).to_json())
    return captures


def _capture_job(key: str, case: StepCase, table: Mapping[str, Any], ranks: int, trace: Path) -> dict[str, Any]:
    """The job for des_ref.steps that records `trace`."""
    settings = table["capture"]
    return {
        "name": key,
        "model": model_of(table["models"][case.model]["file"]),
        "strategy": traced_strategy(case.strategy),
        "batch": case.batch * ranks,
        "samples": samples_of(table, case.batch * ranks),
        "pipeline": case.overlapped,
        "warmup": settings["warmup"],
        "traced": settings["steps"],
        "steps": settings["steps"] + 1,
        "trace": str(trace),
    }


def capture_key(case: StepCase) -> str:
    """Return the key of a case's captures among the measurements."""
    key = f"{case.model} {traced_strategy(case.strategy)}"
    return f"{key} overlapped" if case.overlapped else key
