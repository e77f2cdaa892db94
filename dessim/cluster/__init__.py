"""Clusters: parts, topology files, links, fabrics and routes.

Modules depend on each other in one direction, from parts and links (bottom) over routing, fabrics and servers to the
`Cluster`, its topology file, checks and drawings (top). pyproject.toml states the order as an import contract.
"""

from dessim.cluster.check import check, describe
from dessim.cluster.graph import Cluster
from dessim.cluster.links import Links
from dessim.cluster.load import list_topologies, load_cluster
from dessim.cluster.parts import Gpu, Link, Node, Switch, Transport
from dessim.cluster.routing.routes import Routes

__all__ = [
    "Cluster",
    "Gpu",
    "Link",
    "Links",
    "Node",
    "Routes",
    "Switch",
    "Transport",
    "check",
    "describe",
    "list_topologies",
    "load_cluster",
]
