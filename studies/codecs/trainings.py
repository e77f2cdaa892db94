"""The trainings of the study: each with its codec on real ranks, some of its steps recorded."""

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
    """What a training found; kept in `runs`, and not trained again where it is there. Raises DessimError."""
    kept = runs / f"{re.sub(r'[^a-z0-9]+', '-', codec['codec'])}-{seed}.json"
    if not kept.exists():
        runs.mkdir(parents=True, exist_ok=True)
        write_json(kept, train(study, codec["codec"], seed))
    found: Row = json.loads(kept.read_text("utf-8"))
    return found


def train(study: Mapping[str, Any], codec: str, seed: int) -> Row:
    """Train, and read the trace of the recorded steps. Raises DessimError."""
    with tempfile.TemporaryDirectory() as scratch:
        trace, record = Path(scratch) / "run.trace", study["record"]
        flags = ["--model", study["model"], "--data", study["data"], "--strategy", study["strategy"], "--codec", codec]
        flags += ["--seed", seed, "--device", "cpu", "--json", "--trace", trace]
        flags += ["--trace-warmup", record["warmup"], "--trace-steps", record["steps"]]
        found = _launch(study["workers"], list(map(str, flags)))
        if found["data"] != study["data"]:
            raise DessimError(f"{study['data']} cannot be had: {found['fallback_reason']}")
        sizes = recorded(load_trace(trace))
    return {key: found[key] for key in FIGURES} | sizes | {"sparsity_by_op": found["sparsity_by_op"]}


def recorded(trace: Trace) -> Row:
    """Of the recorded steps: bytes that a worker sends in one, and all ops' bytes as recorded and by formula."""
    n, steps = trace.header.world_size, len(trace.header.recorded_steps)
    sent, seen, due = 0.0, 0, 0
    for op in (op for ops in trace.ranks for op in ops if op.kind is Kind.COLLECTIVE):
        assert op.collective is not None and op.size is not None
        sent += sent_factor(op.collective, n) * op.bytes
        seen += op.bytes
        due += round(formula.evaluate(op.size, {**trace.header.symbols, **op.vars}))
    return {"sent_bytes": sent / n / steps, "recorded_bytes": seen, "formula_bytes": due}


def _launch(processes: int, flags: Sequence[str]) -> dict[str, Any]:
    """What the trainer ends with on so many processes. Raises DessimError with its last line when it fails."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    # One thread a process: sums of floats then have the same order whatever the machine.
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*command, "-m", "des_ref.train", *flags], capture_output=True, text=True, env=env)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no message"]
        raise DessimError(next((line for line in lines if line.startswith("des_ref.train: error: ")), lines[-1]))
    found: dict[str, Any] = json.loads(done.stdout)
    return found
