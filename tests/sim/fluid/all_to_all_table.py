"""The table of all_to_all on eight kinds of fabrics and six sizes: the time of `auto`, and that of each candidate.

    python -m tests.sim.fluid.all_to_all_table
    python -m tests.sim.fluid.all_to_all_table torus hyperx     # fabrics whose names contain one of the words

Every candidate is simulated in full. Exits 3 if one of them is faster than `auto`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import numpy as np

from dessim.collectives import ALGORITHMS
from dessim.commands.collective import run_collective
from dessim.sim.fluid.model import layout_of
from dessim.sim.fluid.route_cache import RouteCache
from dessim.trace.schema import Collective
from dessim.units import format_size, format_time
from tests.sim.fluid.test_tuner import textbook

FABRICS = (
    ("a100-8x_leafspine_16", 128),
    ("h100-8x_rail_128", 256),
    ("h100-8x_railonly_64", 128),
    ("gb200-nvl72_8", 144),
    ("a100-4x_dragonflyplus_3456", 192),
    ("tpu-v4_torus_512", 256),
    ("mi250x-8x_dragonfly_2048", 256),
    ("h100-8x_hyperx_128", 512),
)
SIZES = (2.0**14, 2.0**17, 2.0**20, 2.0**23, 2.0**26, 2.0**29)
_WIDTH = 12


def main(words: Sequence[str]) -> int:
    slower = 0
    for name, ranks in FABRICS:
        if words and not any(word in name for word in words):
            continue
        cluster = textbook(name)
        layout, routed = layout_of(cluster, np.arange(ranks)), RouteCache(cluster)
        entries = ALGORITHMS[Collective.ALL_TO_ALL].items()
        candidates = [a for a, entry in entries if not entry.unfit(layout) and a != "gloo"]
        print(f"{name}, {ranks} ranks\n{'size':>9s}{'auto':>{_WIDTH}s}" + "".join(f"{a:>14s}" for a in candidates))
        for size in SIZES:
            auto = run_collective(cluster, Collective.ALL_TO_ALL, ranks, size, routed=routed)
            times = {
                a: run_collective(cluster, Collective.ALL_TO_ALL, ranks, size, a, routed=routed).time_s
                for a in candidates
            }
            cells = (f"{format_time(t, 3) + ('*' if a == auto.algorithm else ''):>14s}" for a, t in times.items())
            print(f"{format_size(size):>9s}{format_time(auto.time_s, 3):>{_WIDTH}s}" + "".join(cells), flush=True)
            slower += auto.time_s > min(times.values()) * (1 + 1e-9)
    print(f"* chosen by auto. auto is slower than a candidate in {slower} cases")
    return 3 if slower else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
