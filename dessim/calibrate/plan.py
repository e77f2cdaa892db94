"""The cases that a calibration times with des_ref.bench: single and concurrent messages, and sums; no collectives."""

from __future__ import annotations

from typing import Any

KIB = 1 << 10
MIB = 1 << 20
SHORT = KIB
"""Up to this size in bytes a message's time on the wire is ignored."""
LONG = 64 * KIB
"""From this size on it counts in full. Between the two, a burst may hide it or not."""
_SIZES = (64, KIB, 4 * KIB, 16 * KIB, LONG, 256 * KIB, MIB, 4 * MIB)
_LARGEST = 32 * MIB
_FAN_SIZE = 256 * KIB
_ITERATIONS = ((SHORT, 60), (16 * KIB, 20), (LONG + KIB, 25), (257 * KIB, 11), (MIB, 5), (4 * MIB, 3))
"""(largest size, iterations); one iteration for larger messages."""


def calibration_cases(ranks: int) -> list[dict[str, Any]]:
    """The cases for a cluster of `ranks` ranks, at least two, as in a file for des_ref.bench --cases."""
    pair = [0, 1]
    everyone = list(range(ranks))
    groups = [list(range(k)) for k in dict.fromkeys((2, *range(4, ranks, 2), ranks))]
    cases = [_case("fan_out", size, pair) for size in (*_SIZES, _LARGEST)]
    cases += [_case("send_recv", size, pair) for size in _SIZES]
    cases += [_case("send_recv", size, group) for group in groups[1:] for size in (LONG, 256 * KIB)]
    cases += [_case(op, _FAN_SIZE, list(range(k + 1))) for op in ("fan_in", "fan_out") for k in range(2, ranks)]
    cases += [_case("local_sum", size, everyone) for size in (LONG, MIB, 4 * MIB)]
    return cases


def _case(op: str, size: int, ranks: list[int]) -> dict[str, Any]:
    iterations = next((count for up_to, count in _ITERATIONS if size <= up_to), 1)
    part = {"op": op, "bytes": size, "ranks": ranks}
    return {"parts": [part], "iterations": iterations, "warmup": 1 if iterations > 1 else 0}
