"""NVLink domains the size of a rack, such as NVL72, joined by a scale-out fabric.

A node is a complete rack: one NVLink plane for all its GPUs, and trays that each have NICs (a GB200 NVL72 has 18 trays
of 4 GPUs and 4 NICs: NVIDIA DGX SuperPOD reference architecture for DGX GB200). The scale-out fabric joins trays as it
would join servers: NIC r of every tray is on rail r, or all NICs of a tray are on one leaf. On a rail-aware fabric,
traffic changes rail over NVLink inside its tray, as it would in a server.
"""

from __future__ import annotations

from dataclasses import replace

from dessim.cluster.fabrics.fat_tree import FatTree
from dessim.cluster.fabrics.leaf_spine import LeafSpine
from dessim.cluster.routing.routes import Fabric

KIND = "nvlink_domain"


def of_trays(scale_out: Fabric) -> LeafSpine | FatTree:
    """Return the fabric that joins trays, relabelled as the fabric of their racks."""
    if not isinstance(scale_out, LeafSpine | FatTree):
        raise TypeError(f"a {scale_out.kind} fabric cannot join NVLink domains")
    return replace(scale_out, kind=KIND)
