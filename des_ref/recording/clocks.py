"""Clock offsets between ranks, measured with pings."""

from __future__ import annotations

from collections.abc import Callable

import torch

from des_ref.comm import Comm

_PINGS = 25


def clock_offsets_us(comm: Comm, now_us: Callable[[], float]) -> tuple[float, ...]:
    """Microseconds to add to each rank's clock to read rank 0's clock, [world_size], the same on every rank.

    Every rank calls it. Rank 0 pings each other rank `_PINGS` times; the fastest round trip gives the offset, assuming
    that the reply was sent half-way through it. `now_us` reads the caller's clock.
    """
    offsets = torch.zeros(comm.world_size, dtype=torch.float64, device=comm.device)
    message = torch.zeros(1, dtype=torch.float64, device=comm.device)
    for other in range(1, comm.world_size):
        if comm.rank == 0:
            offsets[other] = _offset_to_us(comm, other, message, now_us)
        elif comm.rank == other:
            for _ in range(_PINGS):
                comm.receive(message, 0)  # returns when the ping is here, also over NCCL
                comm.send(torch.full_like(message, now_us()), 0)
    comm.broadcast("clocks", offsets)
    return tuple(offsets.tolist())


def _offset_to_us(comm: Comm, other: int, message: torch.Tensor, now_us: Callable[[], float]) -> float:
    """Rank 0's side: ping `other`, and return the offset that the fastest ping shows."""
    pings: list[tuple[float, float]] = []  # (round trip, offset)
    for _ in range(_PINGS):
        sent_us = now_us()
        comm.send(message, other)
        comm.receive(message, other)
        their_us = float(message)
        received_us = now_us()
        pings.append((received_us - sent_us, (sent_us + received_us) / 2 - their_us))
    return min(pings)[1]
