"""Published readings: the table and the topologies of a folder such as studies/published."""

from __future__ import annotations

import csv
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np

from dessim.calibrate.nccl.readings import Reading, op_named
from dessim.cluster import Cluster, load_cluster
from dessim.collectives.nccl.on_cluster import setup_of
from dessim.errors import FileError

TABLE = "nccl_tests.csv"
_COLUMNS = ("cluster", "gpus", "nodes", "nccl", "gpus_per_process", "settings", "op", "bytes", "time_us", "suspect")


@dataclass(frozen=True, slots=True)
class Published:
    """A reading, the topology that describes its cluster, and the cluster with the settings under which it ran.

    `suspect` says why it may be wrong ("": no reason).
    """

    reading: Reading
    cluster: Cluster
    suspect: str


def read_published(folder: Path) -> list[Published]:
    """The readings of a folder: `nccl_tests.csv`, and a topology in `clusters/` for each cluster in it.

    Raises FileError, which names the line, and ClusterError.
    """
    path = folder / TABLE
    load = cache(lambda name: load_cluster(folder / "clusters" / f"{name}.toml"))
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
    except OSError as error:
        raise FileError(path, "", f"cannot be read: {error.strerror}") from None
    readings = []
    for line, row in enumerate(rows, start=2):
        if any(row.get(column) is None for column in _COLUMNS):
            raise FileError(path, f"line {line}", f"needs the columns {', '.join(_COLUMNS)}")
        readings.append(_published(path, line, row, load(row["cluster"])))
    return readings


def _published(path: Path, line: int, row: dict[str, str], cluster: Cluster) -> Published:
    op = op_named(row["op"])
    if op is None:
        raise FileError(path, f"line {line}", f"{row['op']!r} is no op of nccl-tests")
    try:
        gpus = int(row["gpus"])
        nodes = int(row["nodes"])
        size = float(row["bytes"])
        time = float(row["time_us"])
        per_process = int(row["gpus_per_process"])
    except ValueError as error:
        raise FileError(path, f"line {line}", str(error)) from None
    if gpus < 2 or nodes < 1 or size <= 0 or time <= 0 or gpus % nodes:
        raise FileError(
            path, f"line {line}", "gpus, nodes, bytes and time_us must be positive, gpus a multiple of nodes"
        )
    setup = setup_of(cluster, first_gpus(cluster, gpus, nodes))
    setup = replace(setup, version=row["nccl"], gpus_per_process=per_process)
    where = f"{row['cluster']} {row['settings']}".strip()
    return Published(Reading(op, size, time, setup, where), cluster, row["suspect"])


def first_gpus(cluster: Cluster, gpus: int, nodes: int) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    """The first `gpus / nodes` GPUs of each of the first `nodes` servers."""
    per_node = cluster.node.gpus
    return (np.arange(nodes)[:, None] * per_node + np.arange(gpus // nodes)).ravel()
