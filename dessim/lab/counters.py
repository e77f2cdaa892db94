"""What the kernel counted on every link, read from the shapers' queues.

`tc` counts a segment that is still to be cut into packets with the headers each of them will have; the counters of the
devices count one header, and so too few bytes. Bytes are those of Ethernet frames, 14 bytes of header each.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from dessim.lab import iproute
from dessim.lab.layout import Layout


@dataclass(frozen=True, slots=True)
class Counter:
    """What left by one directed link since the lab is up; `dropped` packets found its queue full."""

    link: int
    name: str
    kind: str
    bytes: int
    packets: int
    dropped: int


Counters = Mapping[int, Counter]
"""By the cluster's link id."""


def read(layout: Layout) -> dict[int, Counter]:
    """The counters of every link of the lab. Raises LabError."""
    queues = {}
    for space in layout.spaces:
        for queue in json.loads(iproute.call("tc", "-n", space, "-s", "-j", "qdisc", "show")):
            queues[space, queue["dev"]] = queue
    found = {}
    for port in layout.ports:
        queue = queues[port.space, port.device]
        counted = int(queue["bytes"]), int(queue["packets"]), int(queue["drops"])
        found[port.link] = Counter(port.link, port.name, port.kind, *counted)
    return found


def between(before: Counters, after: Counters) -> dict[int, Counter]:
    """What was counted from one reading to the next."""
    found = {}
    for link, now in after.items():
        then = before[link]
        counted = now.bytes - then.bytes, now.packets - then.packets, now.dropped - then.dropped
        found[link] = Counter(link, now.name, now.kind, *counted)
    return found
