"""NVLink domains the size of a rack, joined by a scale-out fabric: NVL72 and its like.

A node is a whole rack: one NVLink plane for all its GPUs, and trays with NICs of their own (a GB200 NVL72 has 18 trays
of 4 GPUs and 4 NICs: NVIDIA DGX SuperPOD reference architecture for DGX GB200). The scale-out fabric joins trays as it
would join servers: NIC r of every tray is on rail r, or all of a tray's NICs are on one leaf. Where it is rail-aware,
traffic changes rail over NVLink inside its own tray's place, as it would in a server.
"""

from __future__ import annotations

from dataclasses import replace

from dessim.cluster.fabrics.fat_tree import FatTree
from dessim.cluster.fabrics.leaf_spine import LeafSpine
from dessim.cluster.routing.routes import Fabric

KIND = "nvlink_domain"


def of(scale_out: Fabric) -> LeafSpine | FatTree:
    """The fabric that joins trays, under its name as the fabric of racks."""
    if not isinstance(scale_out, LeafSpine | FatTree):
        raise TypeError(f"a {scale_out.kind} fabric cannot join NVLink domains")
    return replace(scale_out, kind=KIND)
