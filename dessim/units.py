"""Quantities with units: parsed from files and flags, printed for people.

Inside dessim everything is SI base: seconds, bytes, bytes/s, FLOP/s. Units exist only at the edges.
Decimal prefixes are powers of ten (`GB` = 1e9 bytes), binary ones powers of two (`MiB` = 2**20 bytes);
a small `b` is a bit and a capital `B` a byte, as in SimGrid: `400 Gb/s` is `50 GB/s`.
A bare number is refused wherever a unit is due, because `bandwidth = 400` has no meaning.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

from dessim.errors import UnitError

_DECIMAL = {"": 1.0, "k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "E": 1e18}
_BINARY = {"Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40}
_PREFIX = {**_DECIMAL, **_BINARY}

_SIZE = {f"{p}B": f for p, f in _PREFIX.items()}
_BANDWIDTH = {f"{p}{u}/s": f * w for p, f in _PREFIX.items() for u, w in (("B", 1.0), ("b", 0.125))}
_TIME = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_FLOPS = {f"{p}FLOP/s": f for p, f in _DECIMAL.items()}
_SHARE = {"%": 0.01}
_POWER = {"W": 1.0, "kW": 1e3, "MW": 1e6}

_QUANTITY = re.compile(r"([+-]?(?:\d+(?:_\d+)*(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?)\s*(\S*)")


def _parse(text: object, units: Mapping[str, float], what: str, example: str) -> float:
    if not isinstance(text, str):
        raise UnitError(f'{what} needs a unit, not the bare value {text!r}; write for example "{example}"')
    match = _QUANTITY.fullmatch(text.strip())
    if match is None:
        raise UnitError(f'{text!r} is not a {what}; write for example "{example}"')
    number, unit = match.groups()
    if not unit:
        raise UnitError(f'{what} {text!r} has no unit; write for example "{example}"')
    if unit not in units:
        raise UnitError(f'{text!r}: {unit!r} is not a unit of {what}; write for example "{example}"')
    value = float(number) * units[unit]
    if value < 0 or not math.isfinite(value):
        raise UnitError(f"{what} {text!r} must be finite and not negative")
    return value


def parse_size(text: object) -> float:
    """Bytes from `64 MiB`, `1.5 GB`, `512 B`. Raises UnitError."""
    return _parse(text, _SIZE, "size", "64 MiB")


def parse_bandwidth(text: object) -> float:
    """Bytes/s from `400 Gb/s`, `50 GB/s`, `3.35 TB/s`. Raises UnitError."""
    return _parse(text, _BANDWIDTH, "bandwidth", "400 Gb/s")


def parse_time(text: object) -> float:
    """Seconds from `1.5 us`, `2 ms`, `30 d`. Raises UnitError."""
    return _parse(text, _TIME, "time", "1.5 us")


def parse_flops(text: object) -> float:
    """FLOP/s from `67 TFLOP/s`. Raises UnitError."""
    return _parse(text, _FLOPS, "compute rate", "67 TFLOP/s")


def parse_share(text: object) -> float:
    """A share from 0 to 1, from `25 %`. Raises UnitError."""
    share = _parse(text, _SHARE, "share", "25 %")
    if share > 1:
        raise UnitError(f"share {text!r} is more than 100 %")
    return share


def parse_power(text: object) -> float:
    """Watts from `700 W`. Raises UnitError."""
    return _parse(text, _POWER, "power", "700 W")


def _engineering(value: float, steps: list[tuple[float, str]], digits: int) -> str:
    factor, unit = next((step for step in steps if abs(value) >= step[0]), steps[-1])
    text = f"{value / factor:.{digits}g}"
    # 1010 KiB in three digits would be 1.01e+03.
    return f"{value / factor:.0f} {unit}" if "e+" in text else f"{text} {unit}"


def format_time(seconds: float, digits: int = 4) -> str:
    """`0.0015` -> `1.5 ms`."""
    if seconds == 0:
        return "0 s"
    return _engineering(seconds, [(1.0, "s"), (1e-3, "ms"), (1e-6, "us"), (1e-9, "ns")], digits)


def format_size(size: float, digits: int = 4) -> str:
    """`1536` -> `1.5 KiB` (binary, as nccl-tests prints buffer sizes)."""
    steps = [(2.0**40, "TiB"), (2.0**30, "GiB"), (2.0**20, "MiB"), (2.0**10, "KiB"), (1.0, "B")]
    return _engineering(size, steps, digits)


def format_bandwidth(rate: float, digits: int = 4) -> str:
    """`5e10` -> `50 GB/s` (decimal, bytes)."""
    return _engineering(rate, [(1e12, "TB/s"), (1e9, "GB/s"), (1e6, "MB/s"), (1e3, "kB/s"), (1.0, "B/s")], digits)


def format_count(value: float, digits: int = 4) -> str:
    """`1250000` -> `1.25 M`."""
    return _engineering(value, [(1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, "")], digits).rstrip()


def percent(value: float, signed: bool = False) -> str:
    """`0.0596` -> `6.0 %`; whole numbers from 10 % on."""
    sign = "+" if signed and value > 0 else "−" if value < 0 else ""
    share = abs(100 * value)
    return f"{sign}{share:.0f} %" if share >= 9.95 else f"{sign}{share:.2g} %"
