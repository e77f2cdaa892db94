"""A small model of unequal tables, and its loads on a few GPUs."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from dessim.cluster import Cluster, load_cluster
from dessim.plan.loads import Loads, loads_of
from dessim.plan.rates import Rate
from dessim.workload.model import Model, parse_model
from dessim.workload.scale import Job

CLUSTER = "h100-8x_rail_128"
TABLES = ((40_000_000, 20), (9_000_000, 3), (50_000, 1), (700, 2), (12, 1))
BATCH = 65_536


@lru_cache
def cluster() -> Cluster:
    return load_cluster(CLUSTER)


def model_of(tables: tuple[tuple[int, int], ...] = TABLES, width: int = 64) -> Model:
    raw: dict[str, Any] = {
        "schema_version": 2,
        "name": "small",
        "input": {"batch_per_worker": 1024},
        "tables": [{"name": f"t{n}", "rows": rows, "ids": ids} for n, (rows, ids) in enumerate(tables)],
        "embedding": {"width": width, "optimizer": "rowwise_adagrad"},
        "operators": [{"kind": "mlp", "widths": [64]}],
    }
    return parse_model(raw, "small.toml")


def loads(model: Model, n: int, batch: int = BATCH, server: int = 0) -> Loads:
    """Loads with rates of 50 GB/s and starts of 20 us."""
    symbols = Job.of_model(model).symbols(n, batch // n)
    return loads_of(
        model, symbols, cluster().gpu, rate_of=lambda op, size, participants: Rate(2e-5, 2e-11), server=server
    )


def model_text(tables: tuple[tuple[int, int], ...] = TABLES) -> str:
    """The model as a file."""
    entries = (f'[[tables]]\nname = "t{n}"\nrows = {rows}\nids = {ids}\n' for n, (rows, ids) in enumerate(tables))
    return _HEAD + "".join(entries)


_HEAD = """schema_version = 2
name = "small"
[input]
batch_per_worker = 1024
[embedding]
width = 64
[[operators]]
kind = "mlp"
widths = [64]
"""
