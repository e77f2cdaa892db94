"""The demo: the whole product on this machine, end to end, with real training.

train      the trainer, on `ranks` processes, until validation stops improving; it also captures a trace
certify    distributed training against one process, in float64
calibrate  a collective micro-benchmark, fitted to a description of this machine
replay     the captured trace on that description: predicted against measured step time
project    the recorded job on up to 1,024 H100s
plan       a strategy for each table of the recorded job
report     one HTML page, and the files behind it
"""

from __future__ import annotations

import importlib.util
import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from dessim.calibrate.bench import load_bench
from dessim.calibrate.fit import TransportFit, cluster_toml, fit_transport
from dessim.cluster import Cluster, load_cluster
from dessim.cluster.drawing.draw import draw
from dessim.commands.project import run_projection
from dessim.commands.questions.what_if import ALL, parse_changes, what_if_projected
from dessim.commands.replay import Replay, counters_of, replay, timeline_of
from dessim.commands.support.demo_programs import TrainerPrograms
from dessim.commands.support.demo_screen import print_summary, print_warning, showing_stages
from dessim.commands.support.project_request import ProjectRequest
from dessim.commands.support.projection import Projection
from dessim.errors import CheckFailed, UsageError
from dessim.files import write_json, write_text
from dessim.results.pages.demo import fastest_row, write_report
from dessim.results.tables import write_projection_csv
from dessim.results.timeline import write_timeline
from dessim.trace.io import Trace, load_trace
from dessim.wording import choose_from, did_you_mean
from dessim.workload.model import load_model
from dessim.workload.scale import Job
from dessim.workload.strategies import STRATEGIES as PLANS

SCHEMA_VERSION = 1
STAGES = ("train", "certify", "calibrate", "replay", "project", "plan", "report")
TRACEABLE = tuple(spec.name for spec in PLANS.values() if not spec.dedicated_servers)  # others send no collectives
TRACE_STEPS = 30
BATCH = 1024  # samples of a training step on this machine, over all ranks
REFERENCE_AUC = {"ml-100k": 0.785}  # plain one-process DeepFM with Adam, random 80/10/10 split
PROJECTED_STRATEGIES = ("des_all_reduce", "des_reduce_scatter", "table_wise", "row_all_to_all", "ps_sync")
PROJECTED_GPUS = (8, 64, 256, 1024)
PROJECTED_CLUSTER = "h100-8x_rail_128"
PROJECTED_BATCH_PER_GPU = 4096
LARGE_MODEL = "dlrm_dcnv2"
"""A model of today's size, projected beside the recorded job, with as many samples a GPU as fit most strategies."""
LARGE_STRATEGIES = ("table_wise", "row_wise", "row_all_to_all", "des_reduce_scatter", "row_all_gather")
LARGE_GPUS = (8, 64, 1024)
LARGE_BATCH_PER_GPU = 1024
PLANNED_GPUS = 64
"""GPUs for which the recorded job is planned, which takes a few seconds of CPU time."""
Planner = Callable[[Job, Cluster, int, int], dict[str, Any]]
"""dessim.plan.answer.planned. The command line passes it in, since dessim.plan imports this package."""
_SOURCES = {"ml-100k": "GroupLens, from the recbole wheel", "synthetic": "Zipf ids with a planted teacher"}


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoRequest:
    """`out` is the folder of the report; `data` is ml-100k, synthetic, or a file in Criteo's format."""

    out: Path
    ranks: int = 4
    data: str = "ml-100k"
    strategy: str = "des_all_reduce"


def run_demo(request: DemoRequest, planner: Planner, quiet: bool = False) -> dict[str, Any]:
    """Run every stage. Returns the contents of result.json, and prints a summary unless `quiet`.

    Raises UsageError without torch, DessimError when a program fails, CheckFailed when the certificate is red.
    """
    _check_request(request)
    out = request.out
    logs = out / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    with showing_stages(STAGES) as begin:
        begin("train")
        trained = _train(request, logs)
        begin("certify")
        certificate = _certify(request, logs)
        begin("calibrate")
        machine_file = out / "this-machine.toml"
        fit = _calibrate(request, logs, machine_file)
        begin("replay")
        trace = load_trace(out / "run.trace")
        replayed = _replay(trace, machine_file, timeline=out / "timeline.json.gz")
        begin("project")
        target = load_cluster(PROJECTED_CLUSTER)
        rows = _project(trace, target)
        large = _project_large(target)
        write_projection_csv(out / "projection.csv", rows)
        begin("plan")
        plan = planner(Job.of_trace(trace), target, PLANNED_GPUS, PROJECTED_BATCH_PER_GPU)
        begin("report")
        result = {
            "schema_version": SCHEMA_VERSION,
            "dessim_version": version("dessim"),
            **_training_json(request, trained),
            "certificate": certificate,
            **_replay_json(replayed, fit),
            "projection_cluster": target.name,
            "projection_batch_per_gpu": PROJECTED_BATCH_PER_GPU,
            "projection": rows,
            "large_model": {"name": LARGE_MODEL, "batch_per_gpu": LARGE_BATCH_PER_GPU, "projection": large},
            "plan": plan,
        }
        _write_result(out, result, target, replayed)
    if not quiet:
        print_summary(out, result)
    if not certificate["ok"]:
        raise CheckFailed(f"the certificate is red: see {out / 'report.html'}")
    return result


def _check_request(request: DemoRequest) -> None:
    if importlib.util.find_spec("torch") is None:
        raise UsageError("the demo trains for real and needs torch: pip install 'dessim[train]'")
    if request.strategy not in TRACEABLE:
        choice = choose_from(request.strategy, TRACEABLE)
        raise UsageError(f"--strategy {request.strategy!r}: the demo records a trace; {choice}")
    if request.data not in _SOURCES and not Path(request.data).exists():
        hint = did_you_mean(request.data, _SOURCES)
        raise UsageError(f"--data {request.data}: {hint}write {', '.join(_SOURCES)}, or the path of a file")


def _train(request: DemoRequest, logs: Path) -> dict[str, Any]:
    """Train, and capture out/run.trace. Returns the trainer's result."""
    batch = max(round(BATCH / request.ranks), 1) * request.ranks  # a multiple of the number of ranks
    flags = ["--data", request.data, "--batch", str(batch), "--strategy", request.strategy]
    if request.data not in _SOURCES:
        flags += ["--model", "deepfm"]  # the model that fits files in Criteo's format
    flags += ["--trace", str(request.out / "run.trace"), "--trace-steps", str(TRACE_STEPS)]
    trained = TrainerPrograms(logs, request.ranks).torchrun_json("train", *flags)
    if trained["fell_back"]:
        reason = trained["fallback_reason"]
        print_warning(f"NOT REAL DATA: {request.data} is not available ({reason}); trained on synthetic data")
    return trained


def _certify(request: DemoRequest, logs: Path) -> dict[str, Any]:
    """Certify on two ranks, and on as many as trained. Returns the certificate."""
    ranks = sorted({2, max(request.ranks, 1)})
    flags = ["--ranks", ",".join(map(str, ranks)), "--strategy", request.strategy]
    return TrainerPrograms(logs, request.ranks).python_json("certify", *flags)


def _calibrate(request: DemoRequest, logs: Path, machine_file: Path) -> TransportFit:
    """Time collectives on this machine, and write the fitted description to `machine_file`."""
    bench = request.out / "bench.json"
    # A single rank sends no messages, so at least two are timed.
    programs = TrainerPrograms(logs, max(request.ranks, 2))
    programs.torchrun("bench", "--iterations", "30", "--json", str(bench))
    fit = fit_transport(load_bench(bench))
    write_text(machine_file, cluster_toml(fit, "this-machine", platform.node() or "localhost"))
    return fit


def _replay(trace: Trace, machine_file: Path, timeline: Path) -> Replay:
    """Replay the trace on this machine's description, and write its timeline."""
    replayed = replay(trace, load_cluster(machine_file))
    write_timeline(timeline, timeline_of(replayed.record), counters_of(replayed.record))
    return replayed


def _project(trace: Trace, target: Cluster) -> list[dict[str, Any]]:
    """The rows of the projection; the fastest row at the largest scale also has a what-if analysis."""
    request = ProjectRequest(
        job=Job.of_trace(trace),
        cluster=target,
        strategies=PROJECTED_STRATEGIES,
        gpus=PROJECTED_GPUS,
        batch_per_worker=PROJECTED_BATCH_PER_GPU,
    )
    rows = run_projection(request)
    json_rows = [row.to_json() for row in rows]
    fitting = [row for row in rows if isinstance(row, Projection) and not row.is_lower_bound]
    best = max(fitting, key=lambda row: (row.gpus, row.samples_per_s))
    if best.gpus == PROJECTED_GPUS[-1]:
        changes = parse_changes(ALL, target)
        alone = replace(request, strategies=[best.strategy], gpus=[best.gpus])
        (what_ifs,) = what_if_projected(changes, [best], alone)
        for row, json_row in zip(rows, json_rows, strict=True):
            if row is best:
                json_row["what_if"] = [what_if.to_json() for what_if in what_ifs]
    return json_rows


def _project_large(target: Cluster) -> list[dict[str, Any]]:
    """The rows of a large model, which was not recorded."""
    request = ProjectRequest(
        job=Job.of_model(load_model(LARGE_MODEL)),
        cluster=target,
        strategies=LARGE_STRATEGIES,
        gpus=LARGE_GPUS,
        batch_per_worker=LARGE_BATCH_PER_GPU,
    )
    return [row.to_json() for row in run_projection(request)]


def _training_json(request: DemoRequest, trained: Mapping[str, Any]) -> dict[str, Any]:
    """The part of result.json about data, training and its quality."""
    samples = trained["samples"]
    return {
        "data": {
            "name": trained["data"],
            "source": _SOURCES.get(trained["data"], "file"),
            "fallback": trained["fell_back"],
            "samples": sum(samples.values()),
            "rows_train": samples["train"],
            "rows_test": samples["test"],
        },
        "auc": trained["auc"],
        "logloss": trained["logloss"],
        "reference_auc": None if trained["fell_back"] else REFERENCE_AUC.get(request.data),
        "training": {
            "ranks": trained["world_size"],
            "epochs": trained["epochs"],
            "seconds": trained["wall_time_s"],
            "samples_per_s": trained["samples_per_s"],
        },
    }


def _replay_json(replayed: Replay, fit: TransportFit) -> dict[str, Any]:
    """The part of result.json about the step on this machine."""
    return {
        "measured_step_s": replayed.measured_step_s,
        "predicted_step_s": replayed.predicted_step_s,
        "prediction_error": replayed.prediction_error,
        "self_replay_error": replayed.self_replay_error,
        "replay": replayed.to_json(),
        "calibration": fit.to_json(),
    }


def _write_result(out: Path, result: dict[str, Any], target: Cluster, replayed: Replay) -> None:
    """Write result.json and report.html."""
    write_json(out / "result.json", result)
    use = fastest_row(result["projection"])["utilisation"]["mean_share"]
    write_report(
        out / "report.html",
        result,
        cluster_svg=draw(target, use or None),
        timeline="timeline.json.gz",
        recorded=replayed.step_rows(),
    )
