"""Fit a transport to a benchmark of collectives: overhead per message, latency, and bandwidth.

Every measurement is one equation,

    seconds = messages * message_overhead + stages * latency + sent_bytes / bandwidth

with the messages and bytes that a rank sends, and the number of consecutive stages, in the algorithm that the library
uses. A ring sends one message per stage; gloo's all_to_all and the trainer's reduce_scatter over gloo send all of their
messages in one stage. The fit is least squares on relative errors, so small and large messages have equal weight, with
no coefficient below zero.

Left out: congestion, incast, and slower ranks where several share a core. Run the benchmark with as many ranks per
machine as the job.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from dessim.arrays import Floats, significant
from dessim.calibrate.bench import Bench, BenchResult
from dessim.calibrate.spreads import LeftOut, halves, spread_between_servers, toml_of
from dessim.cluster.spread import Spread
from dessim.trace.schema import Collective, sent_factor

_NEGLIGIBLE = 1e-12
"""A difference between two sums of squared residuals below this share of the total may be due to rounding."""

_ROUNDS = {
    Collective.ALL_REDUCE: 2,
    Collective.REDUCE_SCATTER: 1,
    Collective.ALL_GATHER: 1,
    Collective.ALL_TO_ALL: 1,
}
"""Messages that a rank sends, in units of n-1."""


@dataclass(frozen=True, slots=True)
class TransportFit:
    """A fitted transport: `message_overhead` and `latency` of a message in seconds, `bandwidth` in bytes/s.

    `r2` (of the logarithm of seconds) and `median_error` (relative) say how well it explains the `n` measurements;
    `spread` how far it predicts sizes that it has not seen (dessim.cluster.spread; None: too few sizes).
    """

    message_overhead: float
    latency: float
    bandwidth: float
    r2: float
    median_error: float
    n: int
    ranks: int
    backend: str
    spread: Spread | None = None

    def to_json(self) -> dict[str, Any]:
        """The fit with units in its keys."""
        return {
            "transport": f"{self.backend}, fitted",
            "message_overhead_s": self.message_overhead,
            "latency_s": self.latency,
            "bandwidth_GBps": self.bandwidth / 1e9,
            "r2": self.r2,
            "median_error": self.median_error,
            "n": self.n,
        }


def fit_transport(bench: Bench) -> TransportFit:
    """Fit a transport to the collectives of a benchmark on all ranks.

    Mean seconds are used, not medians: a step adds up its collectives, including those that the scheduler delayed.
    Raises ValueError if there are fewer than four measurements or two ranks.
    """
    ranks = bench.world_size
    used = [r for r in bench.results if r.op in _ROUNDS and r.mean_seconds > 0 and r.size > 0]
    if len(used) < 4 or ranks < 2:
        raise ValueError(f"{len(used)} measurements on {ranks} ranks are too few to fit a transport")
    one_stage = {Collective.ALL_TO_ALL} | ({Collective.REDUCE_SCATTER} if bench.backend == "gloo" else set())

    def terms_of(op: Collective, size: int) -> list[float]:
        messages = _ROUNDS[op] * (ranks - 1)
        return [messages, 1.0 if op in one_stage else messages, sent_factor(op, ranks) * float(size)]

    seconds = np.array([r.mean_seconds for r in used])
    terms = np.array([terms_of(Collective(r.op), r.size) for r in used])
    costs = _fitted(terms, seconds)
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
        backend=bench.backend,
        spread=_spread(used, terms, seconds),
    )


def _fitted(terms: Floats, seconds: Floats) -> Floats:
    return nonnegative(terms / seconds[:, None], np.ones(len(seconds)))


def _spread(used: Sequence[BenchResult], terms: Floats, seconds: Floats) -> Spread | None:
    """The spread of collectives between ranks, by two-fold cross-validation over sizes.

    None where half of the sizes are too few for a fit.
    """
    errors = []
    for kept, others in halves(range(len(used)), lambda i: used[i].size):
        if not others or len(kept) < terms.shape[1]:
            return None
        predicted = terms @ _fitted(terms[kept], seconds[kept])
        errors += [LeftOut("all", used[i].size, True, math.log(predicted[i] / seconds[i])) for i in others]
    return spread_between_servers(errors)


def cluster_toml(fit: TransportFit, name: str, host: str) -> str:
    """A topology file for `fit.ranks` processes on one machine: one switch, and a link of the fitted rate per process.

    The link does not stand for a cable, but for the rate at which memory and scheduler let a rank send while all ranks
    send.
    """
    source = f"fitted to {fit.n} collectives of {fit.ranks} ranks on this machine, R2 {fit.r2:.3f}"
    spread = "\n".join(toml_of(fit.spread, "transport.spread"))
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

{spread}
[node]
count = {fit.ranks}
gpus = 1
nics = 1

# A message crosses two links, each with half of the latency.
[node.nic]
rate = "{fit.bandwidth / 1e9:.9g} GB/s"
efficiency = 1.0
latency = "{fit.latency * 1e6 / 2:.9g} us"
source = "{source}"

[fabric]
kind = "single_switch"
'''


def nonnegative(a: Floats, b: Floats) -> Floats:
    """The x >= 0 [n_columns] that minimises |a x - b|, for `a` [n_rows, n_columns] with few columns.

    All subsets of the columns are tried; columns left out have the coefficient 0. Coefficients are rounded to 9
    significant digits. Neither the choice nor the digits depend on the processor: a larger subset must fit better by
    more than rounding errors could explain.
    """
    n_columns = a.shape[1]
    best = np.zeros(n_columns)
    best_error = math.inf
    negligible = _NEGLIGIBLE * math.fsum((b * b).tolist())
    for size in range(1, n_columns + 1):
        for columns in combinations(range(n_columns), size):
            subset = a[:, columns]
            x, *_ = np.linalg.lstsq(subset, b, rcond=None)
            error = float(((subset @ x - b) ** 2).sum())
            # Proportional columns fit equally well, alone or together; the first is kept.
            if (x >= 0).all() and error < best_error - negligible:
                best = np.zeros(n_columns)
                best[list(columns)] = [significant(float(value)) for value in x]
                best_error = error
    return best
