"""Loading: clusters, models and traces, by shipped name or by file."""

from __future__ import annotations

from pathlib import Path

from dessim.cluster import Cluster
from dessim.commands.support import inputs
from dessim.errors import UsageError
from dessim.trace import io
from dessim.trace.io import Trace
from dessim.workload.model import Model


def load_cluster(name: str | Path, transport: str | Path | None = None, device: str | None = None) -> Cluster:
    """The cluster of a topology file, or of a shipped topology (`dessim topo list`).

    `transport` replaces its transport by a profile of `dessim calibrate` or a shipped one, `device` the GPU of every
    server by a part or a file of `des_ref.bench_ops`. Raises ClusterError, FileError and UsageError.

    >>> import dessim
    >>> cluster = dessim.load_cluster("h100-8x_rail_128")
    >>> cluster.n_gpus, cluster.gpu.name
    (1024, 'h100-sxm')
    """
    return inputs.cluster_of(_named(name, "a cluster"), transport, device)


def load_model(name: str | Path, ids: str | Path | None = None, precision: str | None = None) -> Model:
    """The model of a model file, or a shipped model (`dessim model list`).

    `ids` is a file of `dessim ids`, with the rows and laws of the model's tables; `precision` changes some of the
    model's, such as `"dense=bf16,rows=fp16"`. Raises ModelError, FileError and UsageError.

    >>> import dessim
    >>> model = dessim.load_model("deepfm")
    >>> model.input.fields, model.embedding.width
    (39, 16)
    """
    return inputs.model_of(_named(name, "a model"), ids, precision)


def load_trace(path: str | Path) -> Trace:
    """The trace of a recorded job, a folder NAME.trace. Raises TraceError and UsageError.

    Its `problems` list data that could not be read.
    """
    return io.load_trace(_named(path, "a trace"))


def _named(name: str | Path, what: str) -> str | Path:
    if not isinstance(name, str | Path):
        raise UsageError(f"name {what} by a str or Path, not by an object of type {type(name).__name__}")
    return name
