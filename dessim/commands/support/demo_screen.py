"""The demo's output: its progress and warnings on stderr, a summary of the result on stdout."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from dessim.results.error_bar import interval_text
from dessim.results.show import print_projection, print_text
from dessim.results.style import strategy_label
from dessim.results.tables import key_value_table, print_table
from dessim.units import format_bandwidth, format_count, format_time, percent


@contextmanager
def showing_stages(stages: Sequence[str]) -> Iterator[Callable[[str], None]]:
    """Yield a function to call at the start of each stage.

    It draws a bar on stderr where that is a terminal, and prints one line per stage elsewhere.
    """
    console = Console(stderr=True)
    started = time.perf_counter()
    if not console.is_terminal:

        def print_stage(stage: str) -> None:
            elapsed_s = time.perf_counter() - started
            print(f"[{stages.index(stage) + 1}/{len(stages)}] {stage} ({elapsed_s:.0f} s)", file=sys.stderr, flush=True)

        yield print_stage
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=len(stages))
        yield lambda stage: bar.update(task, description=stage, completed=stages.index(stage))


def print_warning(text: str) -> None:
    """Print a warning in a box of exclamation marks on stderr."""
    edge = "!" * min(len(text) + 4, 100)
    print(f"{edge}\n! {text}\n{edge}", file=sys.stderr, flush=True)


def print_summary(out: Path, result: Mapping[str, Any]) -> None:
    """Print what result.json holds as tables, and where the report is."""
    reference = result["reference_auc"]
    error = percent(result["prediction_error"], signed=True)
    pairs = [
        ("data", f"{result['data']['name']} ({result['data']['source']})"),
        ("held-out AUC", f"{result['auc']:.4f}" + (f" (plain one-process DeepFM: {reference})" if reference else "")),
        ("certificate", _certificate(result["certificate"])),
        ("this machine", _machine(result["calibration"])),
        ("step, predicted", _with_interval(result)),
        ("step, measured", f"{format_time(result['measured_step_s'])} (error {error})"),
    ]
    print_table(key_value_table(pairs))
    batch = f"{result['projection_batch_per_gpu']:,} samples a GPU"
    print(f"\nThe recorded job on {result['projection_cluster']}, {batch}:")
    print_projection(result["projection"])
    large = result["large_model"]
    print(f"\n{large['name']} on {result['projection_cluster']}, {large['batch_per_gpu']:,} samples a GPU:")
    print_projection(large["projection"])
    print()
    print_text(f"dessim plan: {plan_sentence(result['plan'])}")
    print(f"\n{out / 'report.html'}")


def plan_sentence(plan: Mapping[str, Any]) -> str:
    """The fastest plan, its speed, and its lead over the best strategy for the whole model."""
    ends = plan["interval_samples_per_s"]
    interval = f" (80 % interval {' to '.join(format_count(end) for end in ends)})" if ends else ""
    speed = f"{format_count(plan['samples_per_s'])} samples/s{interval}"
    name = strategy_label(plan["strategy"])
    where = f"{plan['model']} on {plan['gpus']:,} GPUs, {plan['batch_per_gpu']:,} samples each"
    if not plan["is_composed"]:
        return f"{where}: {name} for all tables, {speed}; no plan of several strategies is faster"
    if plan["best_alone"] is None:
        return f"{where}: {name}, {speed}; no single strategy fits"
    lead = percent(round(plan["lead"], 3))
    return f"{where}: {name}, {speed}, {lead} faster than {strategy_label(plan['best_alone'])} alone"


def _with_interval(result: Mapping[str, Any]) -> str:
    predicted = format_time(result["predicted_step_s"])
    ends = interval_text(result["replay"]["interval"])
    return f"{predicted} (80 % interval {ends})" if ends else predicted


def _certificate(certificate: Mapping[str, Any]) -> str:
    verdict = "passed" if certificate["ok"] else "FAILED"
    equality = "equal to" if certificate["bytes_match"] else "NOT equal to"
    return (
        f"{verdict}: parameters within {certificate['max_param_diff']:.1e} of one process, bytes {equality} the formula"
    )


def _machine(calibration: Mapping[str, Any]) -> str:
    overhead = format_time(calibration["message_overhead_s"], 3)
    latency = format_time(calibration["latency_s"], 3)
    bandwidth = format_bandwidth(calibration["bandwidth_GBps"] * 1e9)
    return f"overhead {overhead}, latency {latency} a message, {bandwidth} a rank (R2 {calibration['r2']:.3f})"
