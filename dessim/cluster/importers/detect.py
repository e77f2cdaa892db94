"""Finds the format of a file by its content, and reads it."""

from __future__ import annotations

import re
from pathlib import Path

from dessim.cluster.importers.found import FoundFabric, FoundNode
from dessim.cluster.importers.graphml import read_graphml_fabric
from dessim.cluster.importers.ibnetdiscover import read_ibnetdiscover
from dessim.cluster.importers.infragraph import read_infragraph
from dessim.cluster.importers.nccl_xml import read_nccl_xml
from dessim.cluster.importers.nvidia_smi import read_nvidia_smi
from dessim.cluster.importers.read import read_text
from dessim.cluster.importers.slurm import read_slurm
from dessim.errors import ClusterError


def read_fabric(path: Path, compute: re.Pattern[str] | None = None) -> FoundFabric:
    """Read a fabric: ibnetdiscover, SLURM's topology.conf, GraphML or InfraGraph. Raises ClusterError.

    `compute` chooses adapters, which only ibnetdiscover lists.
    """
    start = read_text(path)[: 1 << 16]
    if re.search(r"^(Switch(\s|-)|# ?Initiated from node)", start, re.MULTILINE):
        return read_ibnetdiscover(path, compute)
    if compute is not None:
        raise ClusterError(path, "", "lists no adapters, so --compute has nothing to match; leave it out")
    if start.lstrip("\ufeff \t\r\n").startswith("<"):
        return read_graphml_fabric(path)
    if re.search(r"^[ \t]*SwitchName\s*=", start, re.MULTILINE | re.IGNORECASE):
        return read_slurm(path)
    if re.search(r"(?:^|[{,])[ \t]*\"?(devices|instances|infrastructure)\"?\s*:", start, re.MULTILINE):
        return read_infragraph(path)
    known = "ibnetdiscover, SLURM's topology.conf, GraphML, InfraGraph"
    raise ClusterError(path, "", f"is no description of a fabric that dessim knows: {known}")


def read_node(path: Path, nics: re.Pattern[str] | None = None) -> FoundNode:
    """Read a server: NCCL's topology XML, or the output of `nvidia-smi topo -m`. Raises ClusterError."""
    start = read_text(path)[: 1 << 16]
    if start.lstrip("\ufeff \t\r\n").startswith("<"):
        return read_nccl_xml(path, nics)
    if re.search(r"^[ \t]+GPU0\b", start, re.MULTILINE):
        return read_nvidia_smi(path, nics)
    raise ClusterError(
        path, "", "is no description of a server that dessim knows: NCCL's topology XML, nvidia-smi topo -m"
    )
