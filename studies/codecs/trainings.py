"""The trainings of the codec study: one codec on real ranks, with some steps recorded."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dessim.errors import DessimError
from dessim.files import write_json
from dessim.trace.io import Trace, load_trace
from dessim.trace.schema import Kind, sent_factor
from dessim.workload import formula

Row = dict[str, Any]
FIGURES = ("auc", "logloss", "validation_auc", "best_epoch")


def result(study: Mapping[str, Any], codec: Mapping[str, str], seed: int, runs: Path) -> Row:
    """Return the result of a training, from `runs` if kept there; otherwise train and keep it. Raises DessimError."""
    kept = runs / f"{re.sub(r'[^a-z0-9]+', '-', codec['codec'])}-{seed}.json"
    if not kept.exists():
        runs.mkdir(parents=True, exist_ok=True)
        write_json(kept, train(study, codec["codec"], seed))
    training: Row = json.loads(kept.read_text("utf-8"))
    return training


def train(study: Mapping[str, Any], codec: str, seed: int) -> Row:
    """Run one training; return its metrics and the bytes of its recorded steps. Raises DessimError."""
    with tempfile.TemporaryDirectory() as scratch:
        trace = Path(scratch) / "run.trace"
        record = study["record"]
        flags = ["--model", study["model"], "--data", study["data"], "--strategy", study["strategy"], "--codec", codec]
        flags += ["--seed", seed, "--device", "cpu", "--json", "--trace", trace]
        flags += ["--trace-warmup", record["warmup"], "--trace-steps", record["steps"]]
        summary = _launch(study["workers"], list(map(str, flags)))
        if summary["data"] != study["data"]:
            raise DessimError(f"{study['data']} is not available: {summary['fallback_reason']}")
        sizes = recorded(load_trace(trace))
    return {key: summary[key] for key in FIGURES} | sizes | {"sparsity_by_op": summary["sparsity_by_op"]}


def recorded(trace: Trace) -> Row:
    """Return the bytes a worker sends per recorded step, and all ops' bytes as recorded and by formula."""
    n = trace.header.world_size
    steps = len(trace.header.recorded_steps)
    sent = 0.0
    recorded_bytes = 0
    formula_bytes = 0
    for op in (op for ops in trace.ranks for op in ops if op.kind is Kind.COLLECTIVE):
        assert op.collective is not None and op.size is not None
        sent += sent_factor(op.collective, n) * op.bytes
        recorded_bytes += op.bytes
        formula_bytes += round(formula.evaluate(op.size, {**trace.header.symbols, **op.vars}))
    return {"sent_bytes": sent / n / steps, "recorded_bytes": recorded_bytes, "formula_bytes": formula_bytes}


def _launch(processes: int, flags: Sequence[str]) -> dict[str, Any]:
    """Run the trainer on `processes` ranks and return its JSON summary. Raises DessimError with its error message."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    # One thread per process keeps the order of floating-point sums independent of the machine.
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*command, "-m", "des_ref.train", *flags], capture_output=True, text=True, env=env)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no message"]
        raise DessimError(next((line for line in lines if line.startswith("des_ref.train: error: ")), lines[-1]))
    summary: dict[str, Any] = json.loads(done.stdout)
    return summary
