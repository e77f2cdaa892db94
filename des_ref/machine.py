"""What the kernel counted: an account of sent bytes and of busy cores that knows nothing of plans.

In a lab (docs/lab.md) a host's interface ends in a shaper whose queue counts Ethernet frames, 14 bytes of header each.
`tc` counts a segment that is still to be cut into packets with the headers each of them will have; the counters of
devices do not.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path


def sent_frames() -> int | None:
    """Bytes of frames that left by the interface that gloo uses, since it is up; None where no shaper counts them."""
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
    """Seconds since boot in which this machine's cores worked, and all that they had; zeros where nobody counts."""
    try:
        ticks = [int(field) for field in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    except (OSError, ValueError):
        return 0.0, 0.0
    idle, tick = ticks[3] + ticks[4], 1 / os.sysconf("SC_CLK_TCK")  # idle, iowait
    return (sum(ticks) - idle) * tick, sum(ticks) * tick
