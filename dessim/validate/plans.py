"""The planner's choice on emulated clusters, trained for real against other plans of the same job.

For each job of plans.toml `dessim.plan` chooses a plan, from the bed's topology file, the calibrated transport, and
this machine's device: its kernels as des_ref.bench_ops measured them, the cores that all ranks share, and the host's
time for a kernel of the trainer and the variation of compute times, from steps of another model on another bed. No
trace of the job is used. That plan and those of the file are trained and predicted.

    regret             how much longer the measured step of its plan is than the shortest measured one, relative to that
    rank correlation   Spearman's, of the predicted and the measured steps of a job's plans
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from dessim.cluster import Cluster, Gpu
from dessim.cluster.load import load_device
from dessim.cluster.parts import Transport
from dessim.commands.project import run_projection
from dessim.commands.support.captured import Capture
from dessim.commands.support.lab_training import Trained, train_on_lab
from dessim.commands.support.project_request import ProjectRequest
from dessim.commands.support.projection import Projection
from dessim.errors import LabError
from dessim.lab.priority import first
from dessim.plan.candidates import PlanProblem
from dessim.plan.search import search
from dessim.sim.progress import Progress
from dessim.trace.io import load_trace
from dessim.validate.beds import cores
from dessim.validate.outcome import Outcome
from dessim.validate.plan_cases import PLANS, PlannedJob, planned_jobs, read_plans
from dessim.validate.request import CaseRequest, OnStatus
from dessim.validate.step_cases import model_of, samples_of
from dessim.workload.composed import TablePlan, compose
from dessim.workload.model import parse_model
from dessim.workload.plan_file import JobPlan
from dessim.workload.scale import Job
from dessim.workload.strategies import plan as plan_of

KIND = "plans"
_TIMEOUT_S = 600.0  # of a launch, one per bed
OURS = "the planner's"


@dataclass(frozen=True, slots=True)
class Choice:
    """How the planner's plan of a job did. `best`: the plan with the shortest measured step."""

    job: str
    split: str
    best: str
    regret: float
    rank_correlation: float


def run_plans(request: CaseRequest) -> tuple[list[Outcome], dict[str, Any]]:
    """Return an outcome for each plan of plans.toml and of the planner, and the measurements."""
    jobs = [] if request.quick else planned_jobs(read_plans(), request.splits)
    jobs = [job for job in jobs if request.only in job.name]
    if not jobs:
        return [], request.measured or {}
    measured = request.measured or _measure(jobs, request.transport, request.on_status)
    outcomes = []
    for job in jobs:
        if job.name not in measured["trained"]:
            continue
        trained = {name: Trained(raw) for name, raw in measured["trained"][job.name].items()}
        plans = {name: plan_of_trained(one.job) for name, one in trained.items()}
        predicted = predict(job, plans, _bed(job, measured, request.transport))
        outcomes += [
            Outcome(f"{job.name}: {name}", KIND, job.split, predicted[name], one.step_s)
            for name, one in trained.items()
        ]
    return outcomes, measured


def choices(outcomes: Sequence[Outcome]) -> list[Choice]:
    """The planner's choice of each job, in the order of the outcomes."""
    by_job: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        if outcome.kind == KIND:
            by_job.setdefault(outcome.name.rpartition(": ")[0], []).append(outcome)
    return [_choice(job, of_job) for job, of_job in by_job.items()]


def broken_by(choices: Sequence[Choice], bounds: Mapping[str, float]) -> list[str]:
    """Return a sentence for each of plans.toml's `[bounds]` that the choices in held-out jobs exceed."""
    choices = [choice for choice in choices if choice.split == "held_out"]
    if not choices:
        return []
    regrets = np.array([choice.regret for choice in choices])
    share = float(np.mean(regrets <= bounds["within"]))
    most = float(regrets.max())
    correlation = float(np.median([choice.rank_correlation for choice in choices]))
    sentences = []
    if share < bounds["share"]:
        sentences.append(
            f"plans: the planner's is within {bounds['within']:.0%} of the fastest in {share:.0%} "
            f"of {len(choices)} jobs, at least {bounds['share']:.0%} required"
        )
    if most > bounds["most"]:
        sentences.append(f"plans: the planner's is {most:.0%} slower than the fastest, allowed {bounds['most']:.0%}")
    if correlation < bounds["rank_correlation"]:
        sentences.append(
            f"plans: rank correlation {correlation:.2f}, at least {bounds['rank_correlation']:.2f} required"
        )
    return sentences


def predict(job: PlannedJob, plans: Mapping[str, JobPlan], bed: Cluster) -> dict[str, float]:
    """The seconds of a step of each plan, simulated as `dessim project --network packet` does."""
    whole = {name: plan.strategy for name, plan in plans.items() if not plan.tables}
    composed = {name: compose(job.model, plan.tables) for name, plan in plans.items() if plan.tables}
    request = ProjectRequest(
        job=Job.of_model(job.model),
        cluster=bed,
        strategies=list(whole.values()),
        gpus=[bed.n_gpus],
        batch_per_worker=job.batch,
        servers=None,
        network="packet",
        composed=list(composed.values()),
    )
    rows = [row for row in run_projection(request) if isinstance(row, Projection)]
    return {name: row.breakdown.step_time_s for name, row in zip([*whole, *composed], rows, strict=True)}


def _choice(job: str, outcomes: Sequence[Outcome]) -> Choice:
    from scipy.stats import spearmanr  # takes a second, and only this function needs it

    predicted = np.array([outcome.predicted_s for outcome in outcomes])
    measured = np.array([outcome.measured_s for outcome in outcomes])
    names = [outcome.name.rpartition(": ")[2] for outcome in outcomes]
    best = int(measured.argmin())
    regret = float(measured[names.index(OURS)] / measured[best] - 1)
    return Choice(job, outcomes[0].split, names[best], regret, float(spearmanr(predicted, measured).statistic))


def _bed(job: PlannedJob, measured: Mapping[str, Any], transport: Transport) -> Cluster:
    device = replace(
        _device(measured["device"]),
        launch_overhead=measured["launch_s"],
        variation=measured.get("variation", 0.0),
        shared_cores=int(measured["cores"]),
    )
    return job.cluster(transport, device)


def _device(text: str) -> Gpu:
    """The device of a file of des_ref.bench_ops, from its text."""
    with TemporaryDirectory() as folder:
        file = Path(folder, "device.toml")
        file.write_text(text, "utf-8")
        return load_device(str(file))


def plan_of_trained(trained: Mapping[str, Any]) -> JobPlan:
    """The plan that a job of des_ref.steps trained."""
    tables = tuple(
        TablePlan(table["strategy"], tuple(table["ranks"]), tuple(table["columns"])) for table in trained["tables"]
    )
    return JobPlan(int(trained["workers"]), int(trained["batch"]), tables, trained["strategy"])


def _measure(jobs: Sequence[PlannedJob], transport: Transport, on_status: OnStatus) -> dict[str, Any]:
    """Measure the device, plan every job, and train all plans, in one launch per bed. Raises LabError."""
    table = read_plans()
    on_status("measuring this machine's device")
    measured: dict[str, Any] = {"device": _measured_device(), **_measured_host(table), "cores": cores(), "trained": {}}
    beds = list(dict.fromkeys((job.bed, job.scale) for job in jobs))
    for number, (bed, scale) in enumerate(beds, 1):
        on_bed = [job for job in jobs if (job.bed, job.scale) == (bed, scale)]
        on_status(f"planning {len(on_bed)} jobs on {bed} ({number} of {len(beds)} beds)")
        plans = {job.name: _with_ours(job, _bed(job, measured, transport)) for job in on_bed}
        asked = [job.to_training(table, name, plan) for job in on_bed for name, plan in plans[job.name].items()]
        on_status(f"training {len(asked)} plans on {bed} ({number} of {len(beds)} beds)")
        result = train_on_lab(bed, asked, _TIMEOUT_S, scale=scale)
        measured["machine"] = result["machine"]
        trained = iter(result["jobs"])
        for job in on_bed:
            measured["trained"][job.name] = {name: _kept(next(trained)) for name in plans[job.name]}
    return measured


def _kept(trained: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in trained.items() if key not in ("model", "trace")}


def _with_ours(job: PlannedJob, bed: Cluster) -> dict[str, JobPlan]:
    """The plans of a job, and the planner's, which replaces an equal one."""
    problem = PlanProblem(
        job=Job.of_model(job.model),
        cluster=bed,
        gpus=bed.n_gpus,
        batch=job.batch * bed.n_gpus,
        pinned={},
        network="packet",
        replicas=[1],  # des_ref.steps times one
    )
    ours = search(problem, Progress()).job_plan()
    return {name: plan for name, plan in job.plans.items() if plan != ours} | {OURS: ours}


def _measured_device() -> str:
    """The device file of one core of this machine, measured by des_ref.bench_ops. Raises LabError."""
    with TemporaryDirectory() as folder:
        file = Path(folder, "device.toml")
        command = first([sys.executable, "-m", "des_ref.bench_ops", "-o", str(file)])
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise LabError(f"des_ref.bench_ops failed with code {done.returncode}: {done.stderr.strip()[-300:]}")
        return file.read_text("utf-8")


def _measured_host(table: Mapping[str, Any]) -> dict[str, float]:
    """The cost of the trainer's ops on the host, from the steps of `[host]`: medians over strategies. Raises LabError.

    `launch_s`: seconds of a kernel, CPU seconds of a step over its kernels. `variation`: the relative standard
    deviation of an op's CPU time between ranks and steps. Several ranks are trained, because processes that share cores
    evict each other's caches.
    """
    settings = table["host"]
    model = model_of(settings["file"])
    batch = int(settings["batch"])
    common = {"model": model, "batch": batch, "samples": samples_of(table, batch), **table["measure"]}
    with TemporaryDirectory() as folder:
        jobs = [
            {**common, "name": name, "strategy": name, "trace": str(Path(folder, f"{name}.trace"))}
            for name in settings["strategies"]
        ]
        trained = train_on_lab(settings["bed"], jobs, _TIMEOUT_S, scale=settings["scale"])["jobs"]
        captures = [Capture.of_trace(load_trace(job["trace"]), float(job["work_s"])) for job in trained]
    plans = [plan_of(job["strategy"], parse_model(model, PLANS)) for job in trained]
    kernels = [sum(op.kernels for op in plan.ops) for plan in plans]
    return {
        "launch_s": median(float(job["work_s"]) / count for job, count in zip(trained, kernels, strict=True)),
        "variation": median(capture.spread for capture in captures),
    }
