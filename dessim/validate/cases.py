"""The collectives of cases.toml: each grid expanded to its cases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from dessim.cluster import load_cluster
from dessim.trace.schema import Collective
from dessim.units import format_size, parse_size, parse_time

_ITERATIONS_UP_TO = ((128 << 10, 25), (1 << 20, 11))
"""Iterations of cases up to a size in bytes. Short collectives vary more, and cost less."""
_MIN_ITERATIONS = 3
_START_INTERVAL_S = 2e-3
"""Seconds between the starts of successive ranks of an exchange.

gloo's behaviour depends on the order in which ranks start, and a barrier releases them in random order. So each
iteration has a seeded order, which the prediction uses too.
"""


@dataclass(frozen=True, slots=True)
class CollectiveCase:
    """`op` on S = `size` bytes on `bed`, run at the same time by each of `jobs`, which are groups of ranks.

    `late` is a rank and the seconds by which it starts after the others. The iterations are distributed round-robin
    over `connections` sets of connections.
    """

    name: str
    split: str
    bed: str
    op: Collective
    size: int
    jobs: tuple[tuple[int, ...], ...]
    late: tuple[int, float] | None
    connections: int

    @property
    def iterations(self) -> int:
        """Number of iterations; a multiple of the number of connections."""
        iterations = next((n for max_size, n in _ITERATIONS_UP_TO if self.size <= max_size), _MIN_ITERATIONS)
        return -(-iterations // self.connections) * self.connections

    def delays(self) -> list[tuple[float, ...]]:
        """Return the start delays of a job's members in seconds, one tuple per iteration, to be repeated in turn.

        Empty where all ranks start together, after a barrier.
        """
        n_ranks = len(self.jobs[0])
        if self.late is not None:
            late_rank, late_s = self.late
            return [tuple(late_s if rank == late_rank else 0.0 for rank in self.jobs[0])]
        if self.op is Collective.ALL_TO_ALL or (self.op is Collective.ALL_GATHER and n_ranks == 2):
            orders = (np.random.default_rng(iteration).permutation(n_ranks) for iteration in range(self.iterations))
            return [tuple((_START_INTERVAL_S * order).tolist()) for order in orders]
        return []

    def to_bench(self, world_size: int) -> dict[str, Any]:
        """Return the case for des_ref.bench, of a launch with `world_size` ranks."""
        delays = []
        for job_delays in self.delays():
            delay_of_rank = {rank: delay for job in self.jobs for rank, delay in zip(job, job_delays, strict=True)}
            delays.append([delay_of_rank.get(rank, 0.0) for rank in range(world_size)])
        return {
            "parts": [{"op": str(self.op), "bytes": self.size, "ranks": list(ranks)} for ranks in self.jobs],
            "iterations": self.iterations,
            "warmup": 1,
            "delays": delays,
            "connections": self.connections,
        }


def collective_cases(table: Mapping[str, Any], splits: Sequence[str], quick: bool) -> list[CollectiveCase]:
    """Return the cases of `[[collectives]]` in `splits`, in the order of the file."""
    cases = []
    for grid in table["collectives"]:
        if grid["split"] in splits:
            sizes = grid.get("quick", []) if quick else grid["sizes"]
            n_ranks = grid.get("ranks") or load_cluster(grid["bed"]).n_gpus
            pairs = product(map(Collective, grid["ops"]), map(parse_size, sizes))
            cases += [_case(grid, n_ranks, op, size) for op, size in pairs]
    return cases


def _case(grid: Mapping[str, Any], n_ranks: int, op: Collective, size: float) -> CollectiveCase:
    bed = grid["bed"]
    late = (int(grid["late"]["rank"]), parse_time(grid["late"]["by"])) if "late" in grid else None
    name = [bed.removeprefix("lab/")]
    if "ranks" in grid:
        name.append(f"{grid['ranks']} ranks")
    if "jobs" in grid:
        name.append(f"{len(grid['jobs'])} jobs")
    if late is not None:
        name.append("one late")
    return CollectiveCase(
        name=f"{', '.join(name)}: {op} {format_size(size)}",
        split=grid["split"],
        bed=bed,
        op=op,
        size=int(size),
        jobs=tuple(tuple(job) for job in grid.get("jobs", [range(n_ranks)])),
        late=late,
        connections=int(grid.get("connections", 1)),
    )
