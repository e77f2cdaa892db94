"""Models and clusters as commands name them: a shipped name or a file, with the changes that options make."""

from __future__ import annotations

from pathlib import Path

from dessim.calibrate.profile import with_profile
from dessim.cluster import Cluster, load_cluster
from dessim.cluster.load import load_device
from dessim.workload.id_logs.in_model import model_with_ids
from dessim.workload.model import Model


def model_of(name: str, ids: Path | None = None, precision: str | None = None) -> Model:
    """The model `name`, with the ids of a file of `dessim ids`, at a precision. Raises ModelError, FileError and
    UsageError.
    """
    return at_precision(model_with_ids(name, ids), precision)


def at_precision(model: Model, precision: str | None) -> Model:
    """The model with the parts of `precision` changed (None: as it is). Raises UsageError."""
    return model if precision is None else model.at(model.precision.changed(precision))


def cluster_of(name: str, transport: Path | None = None, device: str | None = None) -> Cluster:
    """The cluster `name`, with another transport, and with another device in every server. Raises ClusterError,
    FileError and UsageError.
    """
    cluster = with_profile(load_cluster(name), transport)
    return cluster if device is None else cluster.with_gpu(load_device(device))
