"""A cluster in the format of another simulator or drawing program."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dessim.cluster import Cluster
from dessim.cluster.exporters.astra_sim import astra_sim_network
from dessim.cluster.exporters.graphml import graphml_losses, graphml_plan, graphml_text
from dessim.cluster.exporters.infragraph import infragraph_json
from dessim.cluster.exporters.simgrid import simgrid_platform
from dessim.cluster.load import load_topology
from dessim.cluster.spec.direct_fabrics import GraphTable
from dessim.errors import UsageError

FORMATS = ("simgrid", "astra-sim", "infragraph", "graphml")


@dataclass(frozen=True, slots=True)
class ExportRequest:
    """The cluster and the format; `gpus` limits SimGrid's platform to the first ones, `latency` keeps its latencies."""

    cluster: Cluster
    to: str
    gpus: int | None = None
    latency: bool = True


def run_export(request: ExportRequest) -> tuple[str, list[str]]:
    """Return the text and sentences on what is lost. Raises UsageError where the format cannot express the cluster."""
    cluster = request.cluster
    if request.to != "simgrid" and (request.gpus is not None or not request.latency):
        raise UsageError("--gpus and --no-latency are for --format simgrid; leave them out")
    if request.to == "simgrid":
        n = cluster.n_gpus if request.gpus is None else request.gpus
        cluster.require(n)
        return simgrid_platform(cluster, np.arange(n), latency=request.latency)
    if request.to == "astra-sim":
        return astra_sim_network(cluster)
    if request.to == "infragraph":
        return infragraph_json(cluster)
    if request.to == "graphml":
        file, path = load_topology(cluster.path)
        if isinstance(file.fabric, GraphTable) and cluster.built is None:
            plan = file.fabric.plan(path.parent)
        else:
            plan = graphml_plan(cluster)
        return graphml_text(plan), graphml_losses(cluster)
    raise UsageError(f"--format {request.to}: choose from {', '.join(FORMATS)}")
