"""Counters of the kernel: bytes sent, and seconds for which cores were busy. They are independent of any plan.

In a lab (docs/lab.md) a host's interface ends in a shaper whose queue counts Ethernet frames, with 14 bytes of header
each. For a segment that is still to be cut into packets, `tc` counts the headers that each packet will have; counters
of network devices do not.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path


def sent_frames() -> int | None:
    """Bytes of Ethernet frames sent through gloo's interface since it came up; None where no shaper counts them."""
    device = os.environ.get("GLOO_SOCKET_IFNAME")
    if device is None:
        return None
    try:
        shown = subprocess.run(
            ["tc", "-s", "-j", "qdisc", "show", "dev", device, "root"], capture_output=True, text=True, check=True
        )
        (queue,) = json.loads(shown.stdout)
    except (OSError, ValueError, subprocess.CalledProcessError):
        return None
    return int(queue["bytes"]) if "bytes" in queue else None


def core_seconds() -> tuple[float, float]:
    """Core seconds of this machine since boot: those that were busy, and all; zeros if not known."""
    try:
        ticks = [int(field) for field in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    except (OSError, ValueError):
        return 0.0, 0.0
    idle_ticks = ticks[3] + ticks[4]  # idle, iowait
    tick_s = 1 / os.sysconf("SC_CLK_TCK")
    return (sum(ticks) - idle_ticks) * tick_s, sum(ticks) * tick_s
