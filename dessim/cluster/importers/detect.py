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

_START = 1 << 16
"""Characters that tell the format."""


def read_fabric(path: Path, compute: re.Pattern[str] | None = None) -> FoundFabric:
    """Read a fabric: ibnetdiscover, SLURM's topology.conf, GraphML or InfraGraph. Raises ClusterError.

    `compute` chooses adapters, which only ibnetdiscover lists.
    """
    text = read_text(path)
    start = text[:_START]
    if re.search(r"^(Switch(\s|-)|# ?Initiated from node)", start, re.MULTILINE):
        return read_ibnetdiscover(path, text, compute)
    if compute is not None:
        raise ClusterError(path, "", "lists no adapters, so --compute has nothing to match; leave it out")
    if _is_xml(start):
        return read_graphml_fabric(path, text)
    if re.search(r"^[ \t]*SwitchName\s*=", start, re.MULTILINE | re.IGNORECASE):
        return read_slurm(path, text)
    if re.search(r"(?:^|[{,])[ \t]*\"?(devices|instances|infrastructure)\"?\s*:", start, re.MULTILINE):
        return read_infragraph(path, text)
    known = "ibnetdiscover, SLURM's topology.conf, GraphML, InfraGraph"
    raise ClusterError(path, "", f"is no description of a fabric that dessim knows: {known}")


def read_node(path: Path, nics: re.Pattern[str] | None = None) -> FoundNode:
    """Read a server: NCCL's topology XML, or the output of `nvidia-smi topo -m`. Raises ClusterError."""
    text = read_text(path)
    start = text[:_START]
    if _is_xml(start):
        return read_nccl_xml(path, text, nics)
    if re.search(r"^[ \t]+GPU0\b", start, re.MULTILINE):
        return read_nvidia_smi(path, text, nics)
    raise ClusterError(
        path, "", "is no description of a server that dessim knows: NCCL's topology XML, nvidia-smi topo -m"
    )


def _is_xml(start: str) -> bool:
    return start.lstrip("\ufeff \t\r\n").startswith("<")
