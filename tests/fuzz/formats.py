"""A format for the fuzzer: seeds, a mutation, a reader, and what a command then does with the result."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from dessim.cluster import Cluster, load_cluster
from dessim.results.show import print_projection
from dessim.sim.progress import Progress
from dessim.workload.scale import Job
from tests.fuzz.mutate import Mutation
from tests.projecting import project

ROOT = Path(__file__).resolve().parents[2]
SMALL = "lab/switch_4"
BUDGET_S = 0.2
"""The `--time-budget` of a simulation here; one that does not stop within seconds of it counts as a hang."""

Seeds = Callable[[], Sequence[bytes]]


@dataclass(frozen=True)
class Format:
    """A format of files. `use` gets what `read` returned; the fuzzer calls it for one input of `use_every`.

    Both raise DessimError or OSError where a command prints one line.
    """

    name: str
    suffix: str
    mutate: Mutation
    seeds: Seeds
    read: Callable[[Path], Any]
    use: Callable[[Any], object] = lambda value: None
    use_every: int = 4

    def run(self, path: Path, deep: bool = True) -> None:
        """Read a file, and do a command's work with it if `deep`."""
        value = self.read(path)
        if deep:
            self.use(value)


@lru_cache
def shipped(name: str = SMALL) -> Cluster:
    return load_cluster(name)


def files(*patterns: str) -> Seeds:
    """The contents of files of the repository."""
    return lambda: [path.read_bytes() for pattern in patterns for path in sorted(ROOT.glob(pattern))]


def budget() -> Progress:
    return Progress(BUDGET_S)


def shown(show: Callable[..., object], *arguments: object) -> None:
    """Print as a command does, to nowhere."""
    with redirect_stdout(io.StringIO()):
        show(*arguments)


def projected(job: Job, cluster: str = SMALL, gpus: int = 4, **options: Any) -> None:
    """Project a job as `dessim project` does."""
    strategies = options.pop("strategies", ("des_all_reduce", "table_wise"))
    rows = project(job, options.pop("on", None) or shipped(cluster), strategies, [gpus], progress=budget(), **options)
    shown(print_projection, [row.to_json() for row in rows])
