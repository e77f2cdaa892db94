"""The lab: builds the cluster of a topology file on one Linux machine, slower by a scale, and runs programs on it.

with lab.up(load_cluster("lab/switch_4"), scale=1.0) as bed:
    bed.run(["python", "train.py"])
"""

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
