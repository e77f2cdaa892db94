"""SimGrid as a peer: its fluid network model, run as a program on the links and flows of a dessim cluster.

SimGrid 4 comes from Debian (`libsimgrid-dev`, `g++`); `peer.cpp` is compiled once into `build/`. What must be set for
both to mean the same (SimGrid documentation, "Configuring SimGrid", and src/kernel/resource/models/network_cm02.cpp):

    network/model:CM02             plain fluid flows; the default LV08 multiplies bandwidth by 0.97 and latency by 13
    network/TCP-gamma:0            no TCP window that caps a flow at gamma / (2 latency)
    network/crosstraffic:0         acknowledgements cost nothing on the way back
    network/weight-S:0             no penalty by link speed; shares still weigh by latency, so platforms have none
    precision/*                    ten times finer than the default, so that near ties do not merge

Sizes are whole bytes. A flow that is split has weight 1/k on each of k links; SimGrid has no such weights, but counts a
link twice that a route names twice, so all weights and capacities are multiplied by their common denominator.
"""

from __future__ import annotations

import hashlib
import math
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np

from dessim.cluster import Cluster

SOURCE = Path(__file__).with_name("peer.cpp")
BUILD = Path(__file__).resolve().parents[2] / "build"
SETTINGS = {
    "network/model": "CM02",
    "network/bandwidth-factor": "1",
    "network/latency-factor": "1",
    "network/TCP-gamma": "0",
    "network/crosstraffic": "0",
    "network/weight-S": "0",
    "precision/timing": "1e-10",
    "precision/work-amount": "1e-6",
}

Message = tuple[float, float, int, int]
"""Start in seconds, bytes, GPU it leaves, GPU it goes to."""


class PeerMissing(Exception):
    """SimGrid or a C++ compiler is not installed."""


def program() -> Path:
    """The compiled peer. Raises PeerMissing with what to install."""
    if shutil.which("g++") is None or not Path("/usr/include/simgrid/s4u.hpp").is_file():
        raise PeerMissing("SimGrid is not installed; on Debian: apt-get install libsimgrid-dev g++")
    name = hashlib.sha256(SOURCE.read_bytes()).hexdigest()[:16]
    ready = BUILD / f"simgrid-peer-{name}"
    if not ready.is_file():
        BUILD.mkdir(exist_ok=True)
        # Several test workers may compile at once: each writes its own file, and a rename is atomic.
        with tempfile.TemporaryDirectory(dir=BUILD) as folder:
            made = Path(folder) / "peer"
            command = ["g++", "-O2", "-std=c++17", str(SOURCE), "-o", str(made), "-lsimgrid"]
            subprocess.run(command, check=True, capture_output=True)
            made.replace(ready)
    return ready


def command(*arguments: str | float) -> list[str]:
    """The peer's command line, for whoever wants to time it."""
    settings = [f"--cfg={key}:{value}" for key, value in SETTINGS.items()]
    return [str(program()), *map(str, arguments), "--log=root.thresh:warning", *settings]


def version() -> str:
    """SimGrid's own version, from its headers."""
    text = Path("/usr/include/simgrid/version.h").read_text()
    found = re.search(r'SIMGRID_VERSION_STRING "SimGrid version ([^"]+)"', text)
    return found[1] if found else "unknown"


def times(*arguments: str | float) -> list[float]:
    """Run the peer; the seconds it prints."""
    answer = subprocess.run(command(*arguments), check=True, capture_output=True, text=True, env=_quiet())
    return [float(line) for line in answer.stdout.split()]


def finish_times(cluster: Cluster, messages: Sequence[Message]) -> list[float]:
    """When SimGrid says each message has drained, over the links and routes of `cluster`, latencies left out."""
    pairs = sorted({(src, dst) for _, _, src, dst in messages})
    routes = cluster.routes([p[0] for p in pairs], [p[1] for p in pairs])
    weights = [Fraction(w).limit_denominator(1 << 16) for w in np.unique(routes.weight).tolist()]
    common = math.lcm(*(w.denominator for w in weights))
    times_named = np.rint(routes.weight * common).astype(int)
    lines = [str(len(cluster.links)), *(repr(c * common) for c in cluster.links.capacity.tolist())]
    lines += [str(cluster.n_gpus), str(len(pairs))]
    for number, (src, dst) in enumerate(pairs):
        mine = routes.flow == number
        route = np.repeat(routes.link[mine], times_named[mine]).tolist()
        lines.append(f"{src} {dst} {len(route)} {' '.join(map(str, route))}")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.txt"
        path.write_text("\n".join([*lines, flows_text(messages)]))
        return times("routes", str(path))


def flows_text(messages: Sequence[Message]) -> str:
    """Messages as the peer reads them."""
    rows = (f"{start!r} {size:.0f} {src} {dst}" for start, size, src, dst in messages)
    return "\n".join([str(len(messages)), *rows, ""])


def _quiet() -> dict[str, str]:
    return {**os.environ, "LC_ALL": "C"}
