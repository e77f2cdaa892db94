"""A study of small cases, for tests and for tests/sweep/chaos.py."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

TABLES = ("results.csv", "results.parquet", "ops.csv", "sweep.json")
STUDY = """
[grid]
model = "lr"
cluster = ["one-switch_16", {{name = "lab", value = "lab/switch_8"}}]
what_if = ["none", "2x:nic_rate+0:latency"]
strategy = ["des_all_reduce", "row_all_to_all"]
gpus = {gpus}
batch = {{from = 24, to = {last}, step = 24}}
"""


def write_study(folder: Path, batches: int = 1, gpus: Sequence[int] = (2, 3, 8)) -> Path:
    """Write a study of 8 points for each batch and number of GPUs; return its path."""
    path = folder / "study.toml"
    path.write_text(STUDY.format(last=24 * batches, gpus=[*gpus]), "utf-8")
    return path


def tables(folder: Path) -> dict[str, bytes]:
    """The bytes of each table that a sweep has written."""
    return {name: (folder / name).read_bytes() for name in TABLES if (folder / name).exists()}


def journalled(folder: Path) -> list[bytes]:
    """The complete lines of all journals."""
    lines = [line for file in (folder / "journal").glob("*.jsonl") for line in file.read_bytes().splitlines(True)]
    return [line for line in lines if line.endswith(b"\n")]
