"""The works that `make bench` measures: those that SimGrid can do too, those with a target, and the cost by size."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dessim.cluster import load_cluster
from dessim.sim.fluid.flows import route_flows
from tests.validation import peer

SIZE = 1_000_000_000
EVEN = 1024 * (SIZE // 1024)
"""About 1 GB, divisible by 1,024 ranks."""
SEED = 7
NIC = 50e9
PER_LEAF = 16
LATENCY = 1e-6
FINER = 1024
"""SimGrid rounds to whole bytes. Scaling bytes and rates by this keeps the times and makes the rounding 1,024 times
smaller."""


@dataclass(frozen=True, slots=True)
class Work:
    """A work. `dessim`, `peer`: command lines; `limit_s`, `limit_MiB`: targets; `answer_s`: a known result.

    `finishes` runs dessim again for the finish time of every message, to compare with the peer's.
    """

    name: str
    dessim: list[str]
    peer: list[str] | None = None
    limit_s: float | None = None
    limit_MiB: float | None = None
    answer_s: float | None = None
    rel: float = 1e-6
    finishes: list[str] | None = None


def dessim(op: str, cluster: str, gpus: int, algorithm: str, *more: str, size: int = SIZE) -> list[str]:
    """Return the command line of `dessim collective`, on 1 GB unless `size` differs."""
    return [
        *(sys.executable, "-m", "dessim", "collective", op, "--cluster", cluster, "--gpus", str(gpus)),
        *("--size", f"{size}B", "--algorithm", algorithm, *more, "--json"),
    ]


def two_level(n: int, *work: str | int, latency: float = LATENCY, finer: int = 1) -> list[str]:
    """Return the peer's command line on the cluster of `two_level_1024`."""
    nic = NIC * finer
    return peer.command("two_level", n, PER_LEAF, nic, nic * PER_LEAF, latency, *work)


def against_the_peer(folder: Path) -> Iterator[Work]:
    """Yield the works of both programs; clusters and flows that are not shipped are written to `folder`."""
    bed = "bench/two_level_1024"
    yield Work(
        "ring all_reduce, 1,024 hosts, step by step",
        dessim("all_reduce", bed, 1024, "ring", size=EVEN),
        two_level(1024, "ring", SIZE // 1024),
        limit_s=1.5,
        answer_s=48.144917e-3,
    )
    yield Work(
        "all_to_all, 1,024 hosts, 1,023 steps",
        dessim("all_to_all", bed, 1024, "pairwise", size=EVEN),
        two_level(1024, "pairwise", SIZE // 1024),
        limit_s=2.0,
    )
    no_latency = str(zero_latency(folder))
    for n, tolerance in ((128, None), (128, 1e-3), (256, 1e-3)):
        name = f"uneven all_to_all, {n} hosts, {n * (n - 1):,} flows at once"
        inexact = [] if tolerance is None else ["--tolerance", str(tolerance)]
        yield Work(
            name if tolerance is None else f"uneven, {n} hosts, within {tolerance:g} of the makespan",
            dessim("all_to_all", no_latency, n, "direct", "--uneven", str(SEED), *inexact),
            two_level(n, str(uneven_flows(folder, n)), latency=0, finer=FINER),
            limit_s=None if tolerance is None else {128: 8.0, 256: 60.0}[n],
            rel=tolerance or 1e-6,
            finishes=None if tolerance else [sys.executable, "-m", "tests.bench.works", no_latency, str(n)],
        )


def alone(folder: Path) -> Iterator[Work]:
    """Yield works that SimGrid cannot do, or not at this size."""
    tree = "bench/three_tier_65536"
    nodes = "bench/nodes8_8192"
    yield Work(
        "ring all_reduce, 65,536 hosts", dessim("all_reduce", tree, 65_536, "ring"), limit_s=10.0, limit_MiB=2048
    )
    yield Work(
        "hierarchical all_reduce, 8,192 GPUs in nodes of 8",
        dessim("all_reduce", nodes, 8192, "hierarchical"),
        limit_s=3.0,
    )
    yield Work(
        "all_to_all, 16,384 GPUs in nodes of 8, hierarchical",
        dessim("all_to_all", str(nodes_of_8(folder, 16_384)), 16_384, "hierarchical"),
        limit_s=20.0,
    )
    yield Work(
        "all_to_all at once, 64 hosts, 4:1 oversubscribed",
        dessim("all_to_all", "bench/two_level_1024_4to1", 64, "direct"),
        answer_s=60.004e-3,
        rel=1e-5,
    )
    model = [sys.executable, "-m", "dessim", "project", "--model", "deepfm", "--strategy", "des_all_reduce"]
    yield Work(
        "a DES training step of DeepFM, 65,536 hosts",
        # Every worker runs the tail on the whole batch, so larger batches exceed a GPU's memory.
        [*model, "--cluster", tree, "--gpus", "65536", "--batch-per-worker", "128", "--json"],
        limit_s=15.0,
    )


def curves(folder: Path) -> dict[str, Iterator[tuple[int, list[str]]]]:
    """Return for each line of the figure its (N, command) pairs by rising N."""
    sizes = [2**k for k in range(3, 17)]
    tree = "bench/three_tier_65536"
    return {
        "ring all_reduce": ((n, dessim("all_reduce", tree, n, "ring")) for n in sizes),
        "hierarchical all_reduce": (
            (n, dessim("all_reduce", str(nodes_of_8(folder, n)), n, "hierarchical")) for n in sizes[1:]
        ),
        "hierarchical all_to_all": (
            (n, dessim("all_to_all", str(nodes_of_8(folder, n)), n, "hierarchical")) for n in sizes[1:]
        ),
        "pairwise all_to_all": ((n, dessim("all_to_all", tree, n, "pairwise")) for n in sizes),
        "ring in SimGrid": ((n, two_level(n, "ring", SIZE // n)) for n in sizes),
        "pairwise in SimGrid": ((n, two_level(n, "pairwise", SIZE // n)) for n in sizes),
    }


def uneven_sizes(n: int) -> np.ndarray:
    """Return the sizes that `--uneven SEED` draws: bytes from each rank to each other [n, n]."""
    return np.random.default_rng(SEED).uniform(0, 2 * SIZE / n, size=(n, n))


def uneven_flows(folder: Path, n: int) -> Path:
    """Write the uneven sizes as flows for the peer; return the file."""
    sizes = uneven_sizes(n) * FINER
    path = folder / f"uneven_{n}.txt"
    path.write_text(peer.flows_text([(0.0, sizes[i, j], i, j) for i in range(n) for j in range(n) if i != j]))
    return path


def zero_latency(folder: Path) -> Path:
    """Write `two_level_1024` without latency (tests/validation/peer.py says why); return the file."""
    path = folder / "two_level_no_latency.toml"
    path.write_text(load_cluster("bench/two_level_1024").path.read_text().replace('"1 us"', '"0 s"'))
    return path


def nodes_of_8(folder: Path, gpus: int) -> Path:
    """Return `nodes8_8192`, or a copy with more nodes if `gpus` needs them."""
    bed = load_cluster("bench/nodes8_8192").path
    if gpus <= 8192:
        return bed
    path = folder / f"nodes8_{gpus}.toml"
    path.write_text(bed.read_text().replace("count = 1024", f"count = {gpus // 8}"))
    return path


def finishes(cluster: str, n: int) -> list[float]:
    """Return dessim's exact finish time of each message of the uneven all_to_all, in seconds."""
    sizes = uneven_sizes(n)
    src, dst = np.divmod(np.arange(n * n), n)
    src, dst = src[src != dst], dst[src != dst]
    flows = route_flows(load_cluster(cluster), src, dst, sizes[src, dst])
    arrived: list[float] = flows.arrivals(1.0)[flows.folded.colour].tolist()
    return arrived


if __name__ == "__main__":
    print(json.dumps(finishes(sys.argv[1], int(sys.argv[2]))))  # noqa: T201
