"""Bytes and packets that the kernel counted on every link, read from the queues of the shapers.

`tc` counts a segment that will be split into packets with the headers of all of them. The devices' own counters count
one header only, and therefore too few bytes. Bytes are those of Ethernet frames, with 14 bytes of header each.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace

from dessim.lab import iproute
from dessim.lab.layout import Layout


@dataclass(frozen=True, slots=True)
class Counter:
    """Traffic on one directed link since the lab came up; `dropped` packets found its queue full."""

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
    counters = {}
    for port in layout.ports:
        queue = queues[port.space, port.device]
        counters[port.link] = Counter(
            link=port.link,
            name=port.name,
            kind=port.kind,
            bytes=int(queue["bytes"]),
            packets=int(queue["packets"]),
            dropped=int(queue["drops"]),
        )
    return counters


def between(before: Counters, after: Counters) -> dict[int, Counter]:
    """The traffic between two readings."""
    return {
        link: replace(
            now,
            bytes=now.bytes - before[link].bytes,
            packets=now.packets - before[link].packets,
            dropped=now.dropped - before[link].dropped,
        )
        for link, now in after.items()
    }
