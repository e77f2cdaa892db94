"""What a calibration times, as cases of des_ref.bench: single messages, several at once, and sums; no collective."""

from __future__ import annotations

from typing import Any

KIB, MIB = 1 << 10, 1 << 20
SHORT = KIB
"""Up to here a message's bytes do not count."""
LONG = 64 * KIB
"""From here on they do. Between the two a burst may hide them or not."""
_SIZES = (64, KIB, 4 * KIB, 16 * KIB, LONG, 256 * KIB, MIB, 4 * MIB)
_LARGEST = 32 * MIB
_FAN = 256 * KIB
_OFTEN = ((SHORT, 60), (16 * KIB, 20), (LONG + KIB, 25), (257 * KIB, 11), (MIB, 5), (4 * MIB, 3))


def calibration_cases(ranks: int) -> list[dict[str, Any]]:
    """For a bed of so many ranks, at least two."""
    pair, everyone = [0, 1], list(range(ranks))
    groups = [list(range(k)) for k in dict.fromkeys((2, *range(4, ranks, 2), ranks))]
    cases = [_case("fan_out", size, pair) for size in (*_SIZES, _LARGEST)]
    cases += [_case("send_recv", size, pair) for size in _SIZES]
    cases += [_case("send_recv", size, group) for group in groups[1:] for size in (LONG, 256 * KIB)]
    cases += [_case(op, _FAN, list(range(k + 1))) for op in ("fan_in", "fan_out") for k in range(2, ranks)]
    cases += [_case("local_sum", size, everyone) for size in (LONG, MIB, 4 * MIB)]
    return cases


def _case(op: str, size: int, ranks: list[int]) -> dict[str, Any]:
    often = next((times for up_to, times in _OFTEN if size <= up_to), 1)
    return {"parts": [{"op": op, "bytes": size, "ranks": ranks}], "iterations": often, "warmup": 1 if often > 1 else 0}
