"""Jobs and clusters as commands and golden files name them: shipped names or files, with the changes of options."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from dessim.calibrate.profile import with_profile
from dessim.cluster import Cluster, load_cluster
from dessim.cluster.load import load_device
from dessim.commands.support.plain import Plain
from dessim.errors import UsageError
from dessim.trace.io import Trace, load_trace
from dessim.workload.id_logs.in_model import model_with_ids
from dessim.workload.model import Model
from dessim.workload.scale import Job


def model_of(name: str | Path, ids: str | Path | None = None, precision: str | None = None) -> Model:
    """The model `name`, with the ids of a file of `dessim ids`, at a precision. Raises ModelError, FileError and
    UsageError.
    """
    return at_precision(model_with_ids(str(name), ids), precision)


def at_precision(model: Model, precision: str | None) -> Model:
    """The model with the parts of `precision` changed (None: as it is). Raises UsageError."""
    return model if precision is None else model.at(model.precision.changed(precision))


def cluster_of(name: str | Path, transport: str | Path | None = None, device: str | None = None) -> Cluster:
    """The cluster `name`, with another transport, and with another device in every server. Raises ClusterError,
    FileError and UsageError.
    """
    cluster = with_profile(load_cluster(name), Path(transport) if transport is not None else None)
    return cluster if device is None else cluster.with_gpu(load_device(device))


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedJob(Plain):
    """A job: a `model`, with the rows and laws of a file of `ids`, or a recorded `trace`; at a `precision`."""

    FILES = ("model", "trace", "ids")

    model: str | None = None
    trace: str | None = None
    ids: str | None = None
    precision: str | None = None

    def load(self) -> Job:
        """The job. Raises UsageError for options that exclude each other, ModelError, TraceError and FileError."""
        if (self.trace is None) == (self.model is None):
            raise UsageError("give either a trace folder or --model, not both")
        if self.ids is not None and self.model is None:
            raise UsageError("--ids needs --model: a trace has counted its ids")
        if self.trace is not None:
            recorded = Job.of_trace(self.load_trace())
            return replace(recorded, model=at_precision(recorded.model, self.precision))
        return Job.of_model(model_of(self.model or "", self.ids, self.precision))

    def load_trace(self) -> Trace:
        """The trace alone, for a replay. Raises TraceError."""
        return load_trace(self.trace or "")


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedCluster(Plain):
    """A cluster, with another `transport` and another `device` in every server where they are given."""

    FILES = ("name", "transport", "device")

    name: str
    transport: str | None = None
    device: str | None = None

    def load(self) -> Cluster:
        """The cluster. Raises ClusterError, FileError and UsageError."""
        return cluster_of(self.name, self.transport, self.device)
