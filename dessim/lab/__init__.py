"""The lab: builds the cluster of a topology file on one Linux machine, slower by a scale, and runs programs on it.

with lab.up(load_cluster("lab/switch_4"), scale=1.0) as bed:
    bed.run(["python", "train.py"])
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dessim.lazy import finder

if TYPE_CHECKING:
    from dessim.lab.bed import Bed, down, down_all, find, up
    from dessim.lab.build import WINDOW, burst_of
    from dessim.lab.counters import Counter, between
    from dessim.lab.forking import Program
    from dessim.lab.launch import Finished
    from dessim.lab.layout import QUEUES, Layout, lay_out

__all__ = [
    "QUEUES",
    "WINDOW",
    "Bed",
    "Counter",
    "Finished",
    "Layout",
    "Program",
    "between",
    "burst_of",
    "down",
    "down_all",
    "find",
    "lay_out",
    "up",
]

if not TYPE_CHECKING:  # so that type checkers report names that do not exist
    # Ranks are forked from a process that needs only one of these modules (forking.py).
    __getattr__ = finder(
        __name__,
        {
            "dessim.lab.bed": ("Bed", "down", "down_all", "find", "up"),
            "dessim.lab.build": ("WINDOW", "burst_of"),
            "dessim.lab.counters": ("Counter", "between"),
            "dessim.lab.forking": ("Program",),
            "dessim.lab.launch": ("Finished",),
            "dessim.lab.layout": ("QUEUES", "Layout", "lay_out"),
        },
    )
