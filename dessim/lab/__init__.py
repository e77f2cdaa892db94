"""The lab: builds the cluster of a topology file on one Linux machine, slower by a scale, and runs programs on it.

with lab.up(load_cluster("lab/switch_4"), scale=1.0) as bed:
    bed.run(["python", "train.py"])
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

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

# Imported on first use, because ranks are forked from a process that needs only one of these modules (forking.py).
_NAMES_OF = {
    "bed": ("Bed", "down", "down_all", "find", "up"),
    "build": ("WINDOW", "burst_of"),
    "counters": ("Counter", "between"),
    "forking": ("Program",),
    "launch": ("Finished",),
    "layout": ("QUEUES", "Layout", "lay_out"),
}
_MODULE_OF = {name: f"{__name__}.{module}" for module, names in _NAMES_OF.items() for name in names}


if not TYPE_CHECKING:  # so that type checkers report names that do not exist

    def __getattr__(name: str) -> Any:
        if name not in _MODULE_OF:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(_MODULE_OF[name]), name)
