"""Whole training steps on beds of the lab: real training, every strategy.

Measured: the seconds from one step's end to the next one's, the last worker's end counting, median over steps; of
ps_async, whose workers keep no pace, the median over workers and steps. Predicted: the simulator's step of the
strategy's plan on the bed's topology file with the calibrated transport. Sizes and compute come from traces of 2 and of
4 ranks (dessim.commands.support.captured), scaled by the plan's formulas; all ranks compute on the machine's cores.
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
from dessim.results.metrics import step_windows
from dessim.sim.engine import NetworkName, simulate
from dessim.sim.packet.model import supports_packet_model
from dessim.sim.progress import Progress
from dessim.sim.servers.parameter_server import serve
from dessim.sim.servers.traffic import Consistency, StepTraffic
from dessim.trace.io import load_trace
from dessim.trace.schema import sent_factor
from dessim.validate.outcome import Outcome
from dessim.validate.request import Request, Say
from dessim.validate.step_cases import StepCase, model_of, read_steps, samples_of, step_cases
from dessim.workload.from_plan import workload_from_plan
from dessim.workload.plan import PlannedOp
from dessim.workload.server_roles import Roles, a_message, moved, requests_of
from dessim.workload.strategies import plan as plan_of
from dessim.workload.strategies import spec_of

KIND = "steps"
_TIMEOUT_S = 280.0  # of a bed
_STALENESS = 4  # of des_ref.steps
_STEPS = 9
"""That are simulated: ranks begin together, and it takes a few until they have drifted apart."""


def traced_strategy(strategy: str) -> str:
    """The strategy whose traces give the compute of `strategy`: itself, if its ops can be traced."""
    return spec_of(strategy).traced_as or strategy


def run_steps(request: Request) -> tuple[list[Outcome], dict[str, Any]]:
    """Outcomes of steps.toml, and what was measured: captures, and every case's times of its workers."""
    table = read_steps()
    cases = step_cases(table, request.splits, request.quick)
    if not cases:
        return [], request.measured or {}
    measured = request.measured or measure(table, cases, request.say)
    outcomes = []
    for case in cases:
        if case.name in measured["trained"]:
            predicted = predict(case, captured_of(case, measured), request.transport, int(measured["cores"]))
            found = Trained(measured["trained"][case.name])
            outcomes.append(Outcome(case.name, KIND, case.split, predicted, found.step_s))
    return outcomes, measured


def captured_of(case: StepCase, measured: Mapping[str, Any]) -> Captured:
    """A case's captures among what was measured. Raises TraceError."""
    captures = [Capture.from_json(raw) for raw in measured["captures"][capture_key(case)]]
    return Captured.of(captures, case.cluster().gpu)


def predict(case: StepCase, captured: Captured, transport: Transport, cores: int) -> float:
    """Seconds of a step, by the simulator."""
    cluster = replace(case.cluster(), transport=transport)
    if case.servers:
        return _served(case, captured, cluster)
    plan = plan_of(case.strategy, captured.job.model)
    plan = plan.pipelined() if case.pipeline else plan
    symbols = plan.symbols(captured.job.symbols(case.workers, case.batch))
    workload = workload_from_plan(plan, symbols, captured.durations(plan, symbols), _STEPS)
    network: NetworkName = "packet" if supports_packet_model(transport) else "fluid"
    record = simulate(cluster, workload.uneven(captured.spread), cores=cores, network=network)
    windows = step_windows(record)
    return float(np.median(np.diff([end for _, end in windows.values()])))


def payload_of(case: StepCase, captured: Captured) -> float:
    """Bytes that the plan has all hosts send in a step."""
    plan, n = plan_of(case.strategy, captured.job.model), case.workers
    symbols = plan.symbols(captured.job.symbols(n, case.batch))
    if case.servers:
        return n * moved(plan, symbols, case.servers)
    ops = ((op.collective, op) for op in plan.collectives if op.collective is not None)
    return sum(n * sent_factor(collective, n) * op.even_size(symbols) for collective, op in ops)


def _served(case: StepCase, captured: Captured, cluster: Cluster) -> float:
    """Seconds that a worker takes for a step with asynchronous servers. A server of des_ref has one thread, which also
    sends and receives, one message at a time."""
    plan = plan_of(case.strategy, captured.job.model)
    symbols, roles = captured.job.symbols(case.workers, case.batch), Roles.of(plan)
    wanted, message = requests_of(plan, symbols, case.servers, sync=False), a_message(symbols, case.servers)
    rate = cluster.node.nic.capacity

    def seconds(ops: Sequence[PlannedOp], symbols: Mapping[str, float]) -> float:
        return sum(captured.seconds(op, symbols) for op in ops)

    served = serve(
        cluster,
        np.arange(case.workers),
        np.arange(case.workers, case.workers + case.servers),
        StepTraffic(
            wanted.request,
            wanted.reply,
            wanted.push,
            seconds(roles.gather, message) + wanted.reply / rate,
            seconds(roles.update, message) + wanted.push / rate,
        ),
        [seconds(roles.prepare, symbols), seconds(roles.compute, symbols)],
        Consistency(sync=False, staleness=_STALENESS),
        folding=True,
        progress=Progress(),
    )
    return served.step_time


def measure(table: Mapping[str, Any], cases: Sequence[StepCase], say: Say) -> dict[str, Any]:
    """Traces for predictions, then every case for real; one launch a bed. Raises LabError."""
    captures = _capture(table, cases, say)
    trained: dict[str, Any] = {}
    by_bed: dict[tuple[str, float], list[StepCase]] = {}
    for case in cases:
        by_bed.setdefault((case.bed, case.scale), []).append(case)
    cores, machine = 0, ""
    for number, ((bed, scale), here) in enumerate(by_bed.items(), 1):
        say(f"measuring steps of {len(here)} jobs on {bed} ({number} of {len(by_bed)} beds)")
        result = train_on_lab(bed, [case.to_job(table) for case in here], _TIMEOUT_S, scale=scale)
        cores, machine = result["cores"], result["machine"]
        for case, found in zip(here, result["jobs"], strict=True):
            trained[case.name] = {key: value for key, value in found.items() if key not in ("model", "trace")}
    return {"machine": machine, "cores": cores, "captures": captures, "trained": trained}


def _capture(table: Mapping[str, Any], cases: Sequence[StepCase], say: Say) -> dict[str, list[Any]]:
    """Traces of what the cases train, on few ranks, as JSON."""
    settings, wanted = table["capture"], {capture_key(case): case for case in cases}
    found: dict[str, list[Any]] = {key: [] for key in wanted}
    for ranks in settings["ranks"]:
        say(f"capturing {len(wanted)} traces of {ranks} ranks on {settings['bed']}")
        with TemporaryDirectory() as folder:
            jobs = [
                {
                    "name": key,
                    "model": model_of(table, case.model),
                    "strategy": traced_strategy(case.strategy),
                    "batch": case.batch * ranks,
                    "samples": samples_of(table, case.batch * ranks),
                    "pipeline": case.overlapped,
                    "warmup": settings["warmup"],
                    "traced": settings["steps"],
                    "steps": settings["steps"] + 1,
                    "trace": str(Path(folder, f"{number}.trace")),
                }
                for number, (key, case) in enumerate(wanted.items())
            ]
            ran = train_on_lab(settings["bed"], jobs, _TIMEOUT_S, ranks=ranks, scale=settings["scale"])["jobs"]
            for job, counted in zip(jobs, ran, strict=True):
                trace = load_trace(str(job["trace"]))
                found[str(job["name"])].append(Capture.of_trace(trace, float(counted["work_s"])).to_json())
    return found


def capture_key(case: StepCase) -> str:
    """Of a case's captures."""
    return f"{case.model} {traced_strategy(case.strategy)}{' overlapped' if case.overlapped else ''}"
