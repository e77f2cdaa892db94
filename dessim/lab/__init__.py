"""The lab: the topology file that is simulated, built on one Linux machine and run for real, slower by a scale.

with lab.up(load_cluster("lab/switch_4"), scale=1.0) as bed:
    bed.run(["python", "train.py"])
"""

from dessim.lab.bed import Bed, down, down_all, find, up
from dessim.lab.build import WINDOW, burst_of
from dessim.lab.counters import Counter, between
from dessim.lab.launch import Finished
from dessim.lab.layout import QUEUES, Layout, lay_out

__all__ = [
    "QUEUES",
    "WINDOW",
    "Bed",
    "Counter",
    "Finished",
    "Layout",
    "between",
    "burst_of",
    "down",
    "down_all",
    "find",
    "lay_out",
    "up",
]
