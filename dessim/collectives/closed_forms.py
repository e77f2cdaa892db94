"""Closed forms of collective times, held against the simulation in the tests.

alpha is the time of an empty message (overhead + path latency, s), beta the time a byte (s) at the rate every rank has
to itself. S counts as in nccl-tests (dessim.trace.schema).
"""

from __future__ import annotations

from dessim.trace.schema import Collective, sent_factor


def ring_time(op: Collective, n: int, size: float, alpha: float, beta: float) -> float:
    """Ring on a non-blocking fabric: all_reduce 2(n-1)(alpha + S/n beta), the halves of it n-1 of the same."""
    stages = {Collective.ALL_REDUCE: 2, Collective.REDUCE_SCATTER: 1, Collective.ALL_GATHER: 1}[op] * (n - 1)
    return stages * (alpha + size / n * beta)


def pairwise_time(n: int, size: float, alpha: float, beta: float) -> float:
    """Pairwise all_to_all on a non-blocking fabric."""
    return (n - 1) * (alpha + size / n * beta)


def algorithm_bandwidth(size: float, time: float) -> float:
    """algbw = S / t, bytes/s."""
    return size / time


def bus_bandwidth(op: Collective, n: int, size: float, time: float) -> float:
    """busbw, bytes/s: what each rank's link carries on average; comparable with the hardware's rate at any n."""
    return algorithm_bandwidth(size, time) * sent_factor(op, n)
