"""Fit a transport to a collective micro-benchmark: what a message costs, how long it is under way, and bytes.

Every measurement is one equation,

    seconds = messages * message_overhead + stages * latency + sent_bytes / bandwidth

with the messages and bytes a rank sends and the stages that wait for each other in the algorithm the library uses: a
ring sends one message a stage, gloo's all_to_all and the trainer's reduce_scatter over gloo send all of theirs in one.
Least squares on relative errors (small and large messages weigh alike), coefficients not negative. What it leaves out:
congestion, incast, and that ranks sharing cores slow each other; the benchmark must be run as the job will be.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from dessim.errors import FileError
from dessim.trace.schema import Collective, sent_factor


@dataclass(frozen=True, slots=True)
class TransportFit:
    """Seconds a message costs and is under way, bytes/s, and how well they explain `n` measurements (R2 of log s)."""

    message_overhead: float
    latency: float
    bandwidth: float
    r2: float
    median_error: float
    n: int
    ranks: int
    backend: str

    def to_json(self) -> dict[str, Any]:
        return {
            "transport": f"{self.backend}, fitted",
            "message_overhead_s": self.message_overhead,
            "latency_s": self.latency,
            "bandwidth_GBps": self.bandwidth / 1e9,
            "r2": self.r2,
            "median_error": self.median_error,
            "n": self.n,
        }


def fit_transport(results: Sequence[Mapping[str, Any]], ranks: int, backend: str) -> TransportFit:
    """Fit measurements `{op, bytes, seconds}` of `ranks` ranks. Raises ValueError when there are too few."""
    used = [r for r in results if r["op"] in _ROUNDS and r["seconds"] > 0 and r["bytes"] > 0]
    if len(used) < 4 or ranks < 2:
        raise ValueError(f"{len(used)} measurements on {ranks} ranks are too few to fit a transport")
    at_once = {Collective.ALL_TO_ALL} | ({Collective.REDUCE_SCATTER} if backend == "gloo" else set())
    seconds = np.array([float(r["seconds"]) for r in used])
    terms = np.array(
        [
            [
                _ROUNDS[op] * (ranks - 1),
                1.0 if op in at_once else _ROUNDS[op] * (ranks - 1),
                sent_factor(op, ranks) * float(r["bytes"]),
            ]
            for r in used
            for op in (Collective(r["op"]),)
        ]
    )
    costs = nonnegative(terms / seconds[:, None], np.ones(len(used)))
    predicted = terms @ costs
    residual = np.log(predicted / seconds)
    spread = np.log(seconds) - np.log(seconds).mean()
    return TransportFit(
        message_overhead=float(costs[0]),
        latency=float(costs[1]),
        bandwidth=1 / float(costs[2]) if costs[2] > 0 else math.inf,
        r2=1 - float(residual @ residual) / float(spread @ spread),
        median_error=float(np.median(np.abs(predicted / seconds - 1))),
        n=len(used),
        ranks=ranks,
        backend=backend,
    )


def load_bench(path: Path) -> tuple[list[dict[str, Any]], int, str]:
    """Results, ranks and backend of a des_ref.bench file. Raises FileError."""
    try:
        raw = json.loads(path.read_text("utf-8"))
        # The mean: a step adds its collectives up, those that the scheduler delayed as well.
        results = [
            {"op": str(r["op"]), "bytes": int(r["bytes"]), "seconds": float(r["mean_seconds"])} for r in raw["results"]
        ]
        return results, int(raw["world_size"]), str(raw["backend"])
    except OSError as error:
        raise FileError(path, "", f"cannot be read: {error.strerror}") from None
    except (ValueError, KeyError, TypeError) as error:
        raise FileError(path, "", f"not a benchmark file of des_ref.bench: {error!r}") from None


def cluster_toml(fit: TransportFit, name: str, host: str) -> str:
    """A topology file for `fit.ranks` processes of one machine: one switch, a link each at the fitted rate.

    The link is no cable: it stands for what the machine's memory and scheduler let a rank send while all do.
    """
    source = f"fitted to {fit.n} collectives of {fit.ranks} ranks on this machine, R2 {fit.r2:.3f}"
    return f'''# Written by a calibration on {host}.
name = "{name}"
description = "{fit.ranks} processes on one machine ({host}), as measured"
gpu = "cpu-core"

[transport]
name = "{fit.backend}, fitted"
message_overhead = "{fit.message_overhead * 1e6:.9g} us"
op_overhead = "0 s"
source = "{source}"

[transport.algorithms]
all_reduce = ["ring"]
reduce_scatter = ["{"gloo" if fit.backend == "gloo" else "ring"}"]
all_gather = ["ring"]
all_to_all = ["direct"]

[node]
count = {fit.ranks}
gpus = 1
nics = 1

# A message crosses two links, so each has half the latency.
[node.nic]
rate = "{fit.bandwidth / 1e9:.9g} GB/s"
efficiency = 1.0
latency = "{fit.latency * 1e6 / 2:.9g} us"
source = "{source}"

[fabric]
kind = "single_switch"
'''


_NEGLIGIBLE = 1e-12
"""Share of the sum of squares below which a difference of two residuals may be rounding."""

# Messages a rank sends, in units of n-1.
_ROUNDS = {
    Collective.ALL_REDUCE: 2,
    Collective.REDUCE_SCATTER: 1,
    Collective.ALL_GATHER: 1,
    Collective.ALL_TO_ALL: 1,
}


def nonnegative(a: np.ndarray[Any, np.dtype[np.float64]], b: np.ndarray[Any, np.dtype[np.float64]]) -> Any:
    """Least squares with coefficients >= 0: of all subsets of the few columns, the best feasible one.

    Returns the coefficients [columns], rounded to 9 significant digits, and 0 for columns left out. Neither the choice
    nor the digits depend on the processor: a larger subset must fit better by more than rounding errors could explain.
    """
    best, best_error = np.zeros(a.shape[1]), math.inf
    negligible = _NEGLIGIBLE * math.fsum((b * b).tolist())
    for size in range(1, a.shape[1] + 1):
        for columns in combinations(range(a.shape[1]), size):
            part = a[:, columns]
            x, *_ = np.linalg.lstsq(part, b, rcond=None)
            error = float(((part @ x - b) ** 2).sum())
            # Proportional columns fit equally well, alone or together: keep the first.
            if (x >= 0).all() and error < best_error - negligible:
                best = np.zeros(a.shape[1])
                best[list(columns)], best_error = [float(f"{value:.9g}") for value in x], error
    return best
