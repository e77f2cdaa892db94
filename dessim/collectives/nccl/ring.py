"""Rings: all_reduce in 2(n-1) steps, reduce_scatter and all_gather in n-1, of chunks that shrink with the size.

Every GPU works on a chunk in every step. A step lasts for the longer of two times: what the slowest GPU needs for its
chunk, and what an average edge of the ring takes to pass one on. The average counts because a chunk visits all edges,
and while it waits on a slow one others are in flight (the cycle mean of a ring of stages). Source: NCCL
src/device/all_reduce.h, runRing.
"""

from __future__ import annotations

import math

from dessim.collectives.nccl import protocols
from dessim.collectives.nccl.protocols import SIMPLE, Lanes, Protocol, Values
from dessim.collectives.nccl.setup import Setup
from dessim.trace.schema import Collective


def steps(op: Collective, n: int) -> int:
    """The steps of a ring of n GPUs."""
    return 2 * (n - 1) if op is Collective.ALL_REDUCE else n - 1


def ring(op: Collective, size: float, setup: Setup, lanes: Lanes, c: Values) -> float:
    """Time [us] of a ring on S = `size` bytes."""
    share = lanes.size / setup.n
    loops = max(1, math.ceil(share / lanes.protocol.chunk - 1e-9))
    step = _step(setup, lanes, share / loops, c)
    return protocols.call(lanes.protocol, lanes.count, c) + steps(op, setup.n) * loops * step


def _step(setup: Setup, lanes: Lanes, chunk: float, c: Values) -> float:
    protocol = lanes.protocol
    hop = protocols.hop_latency(setup, protocol, c)
    moving = protocols.moving(setup, lanes, chunk, c)
    if setup.nodes == 1:
        return hop + moving
    wire = protocols.on_network(setup, lanes, chunk, c)
    parts = protocols.slices(protocol)
    posts = parts * protocols.posts(setup, lanes, c)
    if protocol is SIMPLE:
        inside = hop + moving / parts
        across = (moving + wire) / parts
        own = protocols.either(hop + moving, wire + posts, sharpness=protocols.SHARP)
    else:
        first = moving * protocols.first_part(protocol, chunk)
        inside = hop + first
        across = wire + first
        own = protocols.either(moving, wire + posts)
    across += c[f"network_ring_{protocol.name}"]
    edges = setup.n - setup.nodes
    mean = (edges * inside + setup.nodes * across) / setup.n
    return protocols.either(own, mean, sharpness=protocols.SHARP if protocol is SIMPLE else protocols.SHARPNESS)


def chain(size: float, setup: Setup, lanes: Lanes, c: Values, back_to_back: bool) -> float:
    """Time [us] of a broadcast or reduce along the ring, in pipelined chunks.

    Back-to-back calls (`back_to_back`, as in nccl-tests) hide the time in which the chain fills. The exception is the
    time for which GPUs wait because channels have different orders.
    """
    protocol: Protocol = lanes.protocol
    count = max(1, math.ceil(lanes.size / protocol.tree_chunk - 1e-9))
    chunk = lanes.size / count
    hop = protocols.hop_latency(setup, protocol, c)
    moving = protocols.moving(setup, lanes, chunk, c)
    stage = moving + (hop if protocol is SIMPLE else 0.0)
    fill = (setup.n - setup.nodes) * (hop + moving * protocols.first_part(protocol, chunk))
    if setup.nodes > 1:
        wire = protocols.on_network(setup, lanes, chunk, c)
        fill += (setup.nodes - 1) * (c[f"network_tree_{protocol.name}"] + wire)
        stage = protocols.either(stage, wire + c["message"])
    exposed = _exposed(setup, lanes, c) if back_to_back else 1.0
    return 0.8 * protocols.call(protocol, lanes.count, c) + count * stage + exposed * fill


def _exposed(setup: Setup, lanes: Lanes, c: Values) -> float:
    """The share of the filling time that back-to-back calls do not hide."""
    if setup.nodes == 1 or setup.nics <= 1 or lanes.count <= 1:
        return c["fill"] if lanes.protocol is not protocols.LL else 0.0
    return c["fill_network"] * min(1.0, lanes.count - 1)
