"""SimGrid as a peer: a program that runs SimGrid's fluid network model on the links and flows of a dessim cluster.

SimGrid 4 is packaged by Debian (`libsimgrid-dev`, `g++`); `peer.cpp` is compiled once into `build/`. The settings of
exported platforms make the two models equal (SimGrid documentation, "Configuring SimGrid", and network_cm02.cpp in its
src/kernel/resource/models), and the peer computes more precisely:

    network/model:CM02             plain fluid flows; the default LV08 multiplies bandwidth by 0.97 and latency by 13
    network/TCP-gamma:0            no TCP window that caps a flow at gamma / (2 latency)
    network/crosstraffic:0         acknowledgements use no bandwidth in the opposite direction
    network/weight-S:0             no penalty by link speed; shares stay weighted by latency, so platforms have none
    precision/*                    ten times finer than the default, so that near ties do not merge

Sizes are whole bytes. A split flow has weight 1/k on each of k links. SimGrid has no such weights, but counts a link
twice if a route names it twice; so all weights and capacities are multiplied by the common denominator.
"""

from __future__ import annotations

import hashlib
import math
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from fractions import Fraction
from functools import cache
from pathlib import Path

import numpy as np

from dessim.cluster import Cluster
from dessim.cluster.exporters.simgrid import SETTINGS

SOURCE = Path(__file__).with_name("peer.cpp")
BUILD = Path(__file__).resolve().parents[2] / "build"
PRECISION = {"precision/timing": "1e-10", "precision/work-amount": "1e-6"}

Message = tuple[float, float, int, int]
"""Start in seconds, size in bytes, source GPU, destination GPU."""


class PeerMissing(Exception):
    """SimGrid or a C++ compiler is not installed."""


def program() -> Path:
    """The compiled peer. Raises PeerMissing with the packages to install."""
    if shutil.which("g++") is None or not Path("/usr/include/simgrid/s4u.hpp").is_file():
        raise PeerMissing("SimGrid is not installed; on Debian: apt-get install libsimgrid-dev g++")
    name = hashlib.sha256(SOURCE.read_bytes()).hexdigest()[:16]
    binary = BUILD / f"simgrid-peer-{name}"
    if not binary.is_file():
        BUILD.mkdir(exist_ok=True)
        # Several test workers may compile at once: each writes its own file, and a rename is atomic.
        with tempfile.TemporaryDirectory(dir=BUILD) as folder:
            output = Path(folder) / "peer"
            command = ["g++", "-O2", "-std=c++17", str(SOURCE), "-o", str(output), "-lsimgrid"]
            subprocess.run(command, check=True, capture_output=True)
            output.replace(binary)
    return binary


def command(*arguments: str | float, settings: Mapping[str, str] = SETTINGS | PRECISION) -> list[str]:
    """The peer's command line."""
    options = [f"--cfg={key}:{value}" for key, value in settings.items()]
    return [str(program()), *map(str, arguments), "--log=root.thresh:warning", *options]


def version() -> str:
    """The version of SimGrid, from its headers."""
    text = Path("/usr/include/simgrid/version.h").read_text()
    match = re.search(r'SIMGRID_VERSION_STRING "SimGrid version ([^"]+)"', text)
    return match[1] if match else "unknown"


def times(*arguments: str | float, settings: Mapping[str, str] = SETTINGS | PRECISION) -> list[float]:
    """Run the peer and return the seconds that it prints."""
    words = command(*arguments, settings=settings)
    done = subprocess.run(words, check=True, capture_output=True, text=True, env={**os.environ, "LC_ALL": "C"})
    return [float(line) for line in done.stdout.split()]


@cache
def _server() -> subprocess.Popen[str]:
    """A peer that reads names of files; it ends with this process, which closes its standard input."""
    return subprocess.Popen(
        command("serve"), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, "LC_ALL": "C"}
    )


def _finish_times(file: Path) -> list[float]:
    """The seconds that the peer prints for `file`, a network with its flows."""
    server = _server()
    assert server.stdin is not None and server.stdout is not None
    server.stdin.write(f"{file}\n")
    server.stdin.flush()
    seconds = []
    for line in server.stdout:
        if line == "end\n":
            return seconds
        seconds.append(float(line))  # "failed" is no number
    raise AssertionError("the peer has ended")


def finish_times(cluster: Cluster, messages: Sequence[Message]) -> list[float]:
    """The seconds at which each message has drained in SimGrid, over the links and routes of `cluster`.

    Latencies are ignored.
    """
    pairs = sorted({(src, dst) for _, _, src, dst in messages})
    routes = cluster.routes([p[0] for p in pairs], [p[1] for p in pairs])
    weights = [Fraction(w).limit_denominator(1 << 16) for w in np.unique(routes.weight).tolist()]
    common = math.lcm(*(w.denominator for w in weights))
    repetitions = np.rint(routes.weight * common).astype(int)
    lines = [str(len(cluster.links)), *(repr(c * common) for c in cluster.links.capacity.tolist())]
    lines += [str(cluster.n_gpus), str(len(pairs))]
    for number, (src, dst) in enumerate(pairs):
        of_pair = routes.flow == number
        route = np.repeat(routes.link[of_pair], repetitions[of_pair]).tolist()
        lines.append(f"{src} {dst} {len(route)} {' '.join(map(str, route))}")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.txt"
        path.write_text("\n".join([*lines, flows_text(messages)]))
        return _finish_times(path)


def platform_times(platform: str, messages: Sequence[Message]) -> list[float]:
    """The seconds at which each message has drained on a platform in SimGrid's XML, by the settings in it.

    Only the precision is set here.
    """
    with tempfile.TemporaryDirectory() as folder:
        xml, flows = Path(folder, "platform.xml"), Path(folder, "flows.txt")
        xml.write_text(platform)
        flows.write_text(flows_text(messages))
        return times("platform", str(xml), str(flows), settings=PRECISION)


def flows_text(messages: Sequence[Message]) -> str:
    """Messages in the format that the peer reads."""
    rows = (f"{start!r} {size:.0f} {src} {dst}" for start, size, src, dst in messages)
    return "\n".join([str(len(messages)), *rows, ""])
