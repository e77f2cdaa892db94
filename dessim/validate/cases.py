"""The grids of cases.toml, spelled out: each collective to run, where, and how often."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from dessim.cluster import load_cluster
from dessim.trace.schema import Collective
from dessim.units import format_size, parse_size, parse_time

_ENOUGH = ((128 << 10, 25), (1 << 20, 11))
"""Iterations of sizes up to so many bytes; short ones vary more and cost less."""
_FEWEST = 3
_APART_S = 2e-3
"""Between the starts of ranks that exchange. What gloo does depends on who comes first, which a barrier leaves to
chance; so each iteration has an order of its own, and the prediction the same ones."""


@dataclass(frozen=True, slots=True)
class CollectiveCase:
    """`op` on S = `size` bytes on `bed`, by each of `jobs`, groups of ranks that run at once.

    `late`: a rank and the seconds that it starts after the others. `connections`: how many sets of connections the
    iterations take turns over.
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
        """How often it runs; every set of connections as often."""
        enough = next((times for up_to, times in _ENOUGH if self.size <= up_to), _FEWEST)
        return -(-enough // self.connections) * self.connections

    def delays(self) -> list[tuple[float, ...]]:
        """Seconds by which each member of a job starts late, in turns of an iteration; empty: a barrier lets all go."""
        n = len(self.jobs[0])
        if self.late is not None:
            return [tuple(self.late[1] if rank == self.late[0] else 0.0 for rank in self.jobs[0])]
        if self.op is Collective.ALL_TO_ALL or (self.op is Collective.ALL_GATHER and n == 2):
            orders = (np.random.default_rng(turn).permutation(n) for turn in range(self.iterations))
            return [tuple((_APART_S * order).tolist()) for order in orders]
        return []

    def to_bench(self, world: int) -> dict[str, Any]:
        """As des_ref.bench takes it, of a job of `world` ranks."""
        delays = []
        for turn in self.delays():
            of = dict(pair for ranks in self.jobs for pair in zip(ranks, turn, strict=True))
            delays.append([of.get(rank, 0.0) for rank in range(world)])
        return {
            "parts": [{"op": str(self.op), "bytes": self.size, "ranks": list(ranks)} for ranks in self.jobs],
            "iterations": self.iterations,
            "warmup": 1,
            "delays": delays,
            "connections": self.connections,
        }


def collective_cases(table: Mapping[str, Any], splits: Sequence[str], quick: bool) -> list[CollectiveCase]:
    """All cases of `[[collectives]]` in the splits wanted, in the file's order."""
    found = []
    for grid in table["collectives"]:
        if grid["split"] in splits:
            sizes = grid.get("quick", []) if quick else grid["sizes"]
            found += [_case(grid, Collective(op), parse_size(size)) for op, size in product(grid["ops"], sizes)]
    return found


def _case(grid: Mapping[str, Any], op: Collective, size: float) -> CollectiveCase:
    bed = grid["bed"]
    everyone = range(grid.get("ranks") or load_cluster(bed).n_gpus)
    late = (int(grid["late"]["rank"]), parse_time(grid["late"]["by"])) if "late" in grid else None
    apart = [
        bed.removeprefix("lab/"),
        *([f"{grid['ranks']} ranks"] if "ranks" in grid else []),
        *([f"{len(grid['jobs'])} jobs"] if "jobs" in grid else []),
        *(["one late"] if late else []),
    ]
    return CollectiveCase(
        name=f"{', '.join(apart)}: {op} {format_size(size)}",
        split=grid["split"],
        bed=bed,
        op=op,
        size=int(size),
        jobs=tuple(tuple(job) for job in grid.get("jobs", [everyone])),
        late=late,
        connections=int(grid.get("connections", 1)),
    )
