"""The demo: the whole product on this machine, end to end, with real training.

    train      the trainer, on `ranks` processes, until validation stops improving; its steps are captured on the way
    certify    distributed training against one process, in float64
    calibrate  a collective micro-benchmark, fitted to a description of this machine
    replay     the captured trace on that description: predicted against measured step time
    project    the recorded job on 1,024 H100s
    report     one HTML page, and everything behind it

The trainer is only ever started as a program, so dessim itself needs no torch.
"""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from dessim.calibrate.fit import cluster_toml, fit_transport, load_bench
from dessim.cluster import Cluster, load_cluster
from dessim.cluster.drawing.draw import draw
from dessim.commands.project import project
from dessim.commands.replay import counters_of, replay, timeline_of
from dessim.commands.support.projection import Projection
from dessim.commands.support.what_if import EVERYTHING, parse_changes, what_if_projected
from dessim.errors import CheckFailed, DessimError, UsageError
from dessim.files import write_json, write_text
from dessim.results.report import write_report
from dessim.results.show import print_projection
from dessim.results.tables import key_value_table, print_table, write_projection_csv
from dessim.results.timeline import write_timeline
from dessim.trace.io import load_trace
from dessim.units import format_bandwidth, format_time, percent
from dessim.workload.scale import Job
from dessim.workload.strategies import STRATEGIES as PLANS

SCHEMA_VERSION = 1
STRATEGIES = ("des_all_reduce", "des_reduce_scatter", "table_wise", "ps_sync")
TRACED = tuple(spec.name for spec in PLANS.values() if not spec.dedicated_servers)  # others send no collectives
GPUS = (8, 64, 256, 1024)
TARGET = "h100-8x_rail_128"
BATCH = 1024  # samples of a training step here, over all ranks
BATCH_PER_GPU = 4096  # of a projected one
REFERENCE_AUC = {"ml-100k": 0.785}  # plain one-process DeepFM with Adam, random 80/10/10 split
_SOURCES = {"ml-100k": "GroupLens, from the recbole wheel", "synthetic": "Zipf ids with a planted teacher"}
TRACE_STEPS = 30
LONGEST_S = 1800.0  # of one program; far beyond what the demo needs
_PARTS = ("train", "certify", "calibrate", "replay", "project", "report")


def run_demo(out: Path, ranks: int, data: str, strategy: str = "des_all_reduce", quiet: bool = False) -> dict[str, Any]:
    """Run everything into folder `out`. Returns what result.json holds; prints it too unless `quiet`.

    Raises UsageError without torch, DessimError when a program fails, CheckFailed when the certificate is red.
    """
    if importlib.util.find_spec("torch") is None:
        raise UsageError("the demo trains for real and needs torch: pip install 'dessim[train]'")
    if strategy not in TRACED:
        raise UsageError(f"--strategy {strategy!r}: the demo records a trace, so choose from {', '.join(TRACED)}")
    logs = out / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    trainer = _Trainer(logs, ranks)
    with _progress() as begin:
        begin("train")
        # Files are in Criteo's format, for which deepfm is the model that fits.
        model = [] if data in _SOURCES else ["--model", "deepfm"]
        tracing = ["--trace", str(out / "run.trace"), "--trace-steps", str(TRACE_STEPS)]
        batch = max(round(BATCH / ranks), 1) * ranks
        how = ["--strategy", strategy]
        trained = trainer.torchrun("train", "--data", data, "--batch", str(batch), *how, *model, *tracing, "--json")
        if trained["fell_back"]:
            _shout(f"NOT REAL DATA: {data} could not be had ({trained['fallback_reason']}); trained on synthetic data")
        begin("certify")
        certificate = trainer.python("certify", "--ranks", _certified(ranks), *how, "--json")
        begin("calibrate")
        # A rank has nobody to talk to when it is alone; two then stand for the machine.
        bench = out / "bench.json"
        _Trainer(logs, max(ranks, 2)).torchrun("bench", "--iterations", "30", "--json", str(bench), parse=False)
        fit = fit_transport(*load_bench(bench))
        machine_file = out / "this-machine.toml"
        write_text(machine_file, cluster_toml(fit, "this-machine", platform.node() or "localhost"))
        begin("replay")
        trace = load_trace(out / "run.trace")
        replayed = replay(trace, load_cluster(machine_file))
        write_timeline(out / "timeline.json.gz", timeline_of(replayed.record), counters_of(replayed.record))
        begin("project")
        target = load_cluster(TARGET)
        rows = _projected(Job.of_trace(trace), target)
        write_projection_csv(out / "projection.csv", rows)
        begin("report")
        result = {
            "schema_version": SCHEMA_VERSION,
            "dessim_version": version("dessim"),
            "data": {
                "name": trained["data"],
                "source": _SOURCES.get(trained["data"], "file"),
                "fallback": trained["fell_back"],
                "samples": sum(trained["samples"].values()),
                "rows_train": trained["samples"]["train"],
                "rows_test": trained["samples"]["test"],
            },
            "auc": trained["auc"],
            "logloss": trained["logloss"],
            "reference_auc": None if trained["fell_back"] else REFERENCE_AUC.get(data),
            "training": {
                "ranks": trained["world_size"],
                "epochs": trained["epochs"],
                "seconds": trained["wall_time_s"],
                "samples_per_s": trained["samples_per_s"],
            },
            "certificate": certificate,
            "measured_step_s": replayed.measured_step_s,
            "predicted_step_s": replayed.predicted_step_s,
            "prediction_error": replayed.prediction_error,
            "self_replay_error": replayed.self_replay_error,
            "replay": replayed.to_json(),
            "calibration": fit.to_json(),
            "projection_cluster": target.name,
            "projection_batch_per_gpu": BATCH_PER_GPU,
            "projection": rows,
        }
        write_json(out / "result.json", result)
        write_report(
            out / "report.html",
            result,
            cluster_svg=draw(target),
            timeline="timeline.json.gz",
            steps=replayed.step_rows(),
        )
    if not quiet:
        _print_summary(out, result)
    if not certificate["ok"]:
        raise CheckFailed(f"the certificate is red: see {out / 'report.html'}")
    return result


def _projected(job: Job, target: Cluster) -> list[dict[str, Any]]:
    """The projection's rows; for the fastest at the largest scale also what changes of the cluster would buy."""
    projected = project(job, target, STRATEGIES, GPUS, BATCH_PER_GPU)
    rows = [row.to_json() for row in projected]
    priced = [(r, out) for r, out in zip(projected, rows, strict=True) if isinstance(r, Projection)]
    best, out = max(priced, key=lambda pair: (pair[0].gpus, pair[0].samples_per_s))
    if best.gpus == GPUS[-1]:
        changes = parse_changes(EVERYTHING, target)
        (asked,) = what_if_projected(changes, [best], job, target, [best.strategy], [best.gpus], BATCH_PER_GPU)
        out["what_if"] = [change.to_json() for change in asked]
    return rows


class _Trainer:
    """Starts des_ref's programs and reads the JSON object they end with."""

    def __init__(self, logs: Path, ranks: int) -> None:
        self._logs, self._ranks = logs, ranks

    def torchrun(self, program: str, *flags: str, parse: bool = True) -> dict[str, Any]:
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={self._ranks}"]
        return self._run(program, [*launcher, "-m", f"des_ref.{program}", *flags], parse)

    def python(self, program: str, *flags: str) -> dict[str, Any]:
        return self._run(program, ["-m", f"des_ref.{program}", *flags], True)

    def _run(self, program: str, command: list[str], parse: bool) -> dict[str, Any]:
        log = self._logs / f"{program}.log"
        # One thread a rank: ranks share the cores, and the trace should not depend on how many there are.
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        with log.open("w", encoding="utf-8") as errors:
            process = subprocess.Popen(
                [sys.executable, *command],
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env=environment,
                start_new_session=True,
            )
            try:
                output, _ = process.communicate(timeout=LONGEST_S)
            except subprocess.TimeoutExpired:
                raise DessimError(f"{program} did not end within {LONGEST_S:g} s; see {log}") from None
            finally:
                # Also on Ctrl-C: the ranks are in a session of their own and would live on.
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGTERM)
                    process.wait()
        if process.returncode not in (0, CheckFailed.exit_code):
            raise DessimError(f"{program} failed (exit {process.returncode}): {_last_line(log)}; see {log}")
        if not parse:
            return {}
        try:
            found: dict[str, Any] = json.loads(output)
        except ValueError:
            raise DessimError(f"{program} did not end with a JSON object; see {log}") from None
        return found


def _certified(ranks: int) -> str:
    """Rank counts to certify: two, and as many as trained."""
    return ",".join(map(str, sorted({2, max(ranks, 1)})))


def _last_line(log: Path) -> str:
    """The trainer's own message, rather than torchrun's account of which rank gave it."""
    lines = log.read_text("utf-8", errors="replace").splitlines()
    ours = [line for line in lines if line.startswith("des_ref.") and ": error: " in line]
    nothing = "the disk is full" if shutil.disk_usage(log.parent).free < 4096 else "no message"
    return (ours or [line for line in lines if line.strip()] or [nothing])[-1]


@contextmanager
def _progress() -> Iterator[Any]:
    """A bar on a terminal, a line a part elsewhere; on stderr both."""
    console = Console(stderr=True)
    started = time.perf_counter()
    if not console.is_terminal:

        def line(part: str) -> None:
            at = time.perf_counter() - started
            print(f"[{_PARTS.index(part) + 1}/{len(_PARTS)}] {part} ({at:.0f} s)", file=sys.stderr, flush=True)

        yield line
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=len(_PARTS))
        yield lambda part: bar.update(task, description=part, completed=_PARTS.index(part))


def _shout(text: str) -> None:
    edge = "!" * min(len(text) + 4, 100)
    print(f"{edge}\n! {text}\n{edge}", file=sys.stderr, flush=True)


def _print_summary(out: Path, result: dict[str, Any]) -> None:
    certificate, calibration = result["certificate"], result["calibration"]
    reference = result["reference_auc"]
    error = result["prediction_error"]
    pairs = [
        ("data", f"{result['data']['name']} ({result['data']['source']})"),
        ("held-out AUC", f"{result['auc']:.4f}" + (f" (plain one-process DeepFM: {reference})" if reference else "")),
        (
            "certificate",
            f"{'green' if certificate['ok'] else 'RED'}: parameters within {certificate['max_param_diff']:.1e} of one "
            f"process, bytes {'equal to' if certificate['bytes_match'] else 'NOT equal to'} the formula",
        ),
        (
            "this machine",
            f"overhead {format_time(calibration['message_overhead_s'], 3)}, latency "
            f"{format_time(calibration['latency_s'], 3)} a message, "
            f"{format_bandwidth(calibration['bandwidth_GBps'] * 1e9)} a rank (R2 {calibration['r2']:.3f})",
        ),
        ("step, predicted", format_time(result["predicted_step_s"])),
        ("step, measured", f"{format_time(result['measured_step_s'])} (error {percent(error, signed=True)})"),
    ]
    print_table(key_value_table("", pairs))
    print(
        f"\nThe recorded job on {result['projection_cluster']}, {result['projection_batch_per_gpu']:,} samples a GPU:"
    )
    print_projection(result["projection"])
    print(f"\n{out / 'report.html'}")
