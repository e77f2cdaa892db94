"""Quantities with units: parsed from files and flags, and formatted for people.

Inside dessim all quantities are in base units: seconds, bytes, bytes/s, FLOP/s. Other units exist only where text is
read or printed. Decimal prefixes are powers of ten (`GB` = 1e9 bytes), binary prefixes are powers of two (`MiB` =
2**20 bytes). A small `b` is a bit and a capital `B` is a byte, as in SimGrid: `400 Gb/s` equals `50 GB/s`. A bare
number is refused wherever a unit is required, because `bandwidth = 400` is ambiguous.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

from dessim.errors import UnitError

_DECIMAL = {"": 1.0, "k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "E": 1e18}
_BINARY = {"Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40}
_PREFIX = {**_DECIMAL, **_BINARY}

# Each unit in base units.
_SIZE = {f"{prefix}B": factor for prefix, factor in _PREFIX.items()}
_BANDWIDTH = {
    **{f"{prefix}B/s": factor for prefix, factor in _PREFIX.items()},
    **{f"{prefix}b/s": factor * 0.125 for prefix, factor in _PREFIX.items()},
}
_TIME = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_FLOPS = {f"{prefix}FLOP/s": factor for prefix, factor in _DECIMAL.items()}
_SHARE = {"%": 0.01}
_POWER = {"W": 1.0, "kW": 1e3, "MW": 1e6}
_PRICE = {"$/h": 1.0}
_SAMPLES = {f"{prefix}samples/s": factor for prefix, factor in _DECIMAL.items()}

_MOST_LISTED = 8  # units in a message; sizes and bandwidths have more
_QUANTITY = re.compile(r"([+-]?(?:\d+(?:_\d+)*(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?)\s*(\S*)")


def _parse(text: object, units: Mapping[str, float], what: str, example: str) -> float:
    """The value of `text` in base units. `what` names the quantity and `example` shows one, in error messages."""
    if not isinstance(text, str):
        raise UnitError(f'{what} needs a unit, not the bare value {text!r}; write for example "{example}"')
    match = _QUANTITY.fullmatch(text.strip())
    if match is None:
        raise UnitError(f'{text!r} is not a {what}; write for example "{example}"')
    number, unit = match.groups()
    if not unit:
        raise UnitError(f'{what} {text!r} has no unit; write for example "{example}"')
    if unit not in units:
        listed = f"; units: {', '.join(units)}" if len(units) <= _MOST_LISTED else ""
        raise UnitError(f'{text!r}: {unit!r} is not a unit of {what}; write for example "{example}"{listed}')
    value = float(number) * units[unit]
    if value < 0 or not math.isfinite(value):
        raise UnitError(f"{what} {text!r} must be finite and not negative")
    return value


def parse_size(text: object) -> float:
    """Return the bytes of a size such as `64 MiB`, `1.5 GB` or `512 B`. Raises UnitError."""
    return _parse(text, _SIZE, "size", "64 MiB")


def parse_bandwidth(text: object) -> float:
    """Return the bytes/s of a bandwidth such as `400 Gb/s`, `50 GB/s` or `3.35 TB/s`. Raises UnitError."""
    return _parse(text, _BANDWIDTH, "bandwidth", "400 Gb/s")


def parse_time(text: object) -> float:
    """Return the seconds of a time such as `1.5 us`, `2 ms` or `30 d`. Raises UnitError."""
    return _parse(text, _TIME, "time", "1.5 us")


def parse_flops(text: object) -> float:
    """Return the FLOP/s of a compute rate such as `67 TFLOP/s`. Raises UnitError."""
    return _parse(text, _FLOPS, "compute rate", "67 TFLOP/s")


def parse_share(text: object) -> float:
    """Return a share from 0 to 1, written such as `25 %`. Raises UnitError."""
    share = _parse(text, _SHARE, "share", "25 %")
    if share > 1:
        raise UnitError(f"share {text!r} is more than 100 %")
    return share


def parse_power(text: object) -> float:
    """Return the watts of a power such as `700 W`. Raises UnitError."""
    return _parse(text, _POWER, "power", "700 W")


def parse_price(text: object) -> float:
    """Return the dollars per hour of a price such as `2.50 $/h`. Raises UnitError."""
    return _parse(text, _PRICE, "price", "2.50 $/h")


def parse_throughput(text: object) -> float:
    """Return the samples/s of a throughput such as `20 M samples/s`. Raises UnitError."""
    joined = re.sub(r"(\S)\s+samples/s$", r"\1samples/s", text.strip()) if isinstance(text, str) else text
    return _parse(joined, _SAMPLES, "throughput", "20 M samples/s")


def _format(value: float, steps: list[tuple[float, str]], digits: int) -> str:
    """`value` in the first unit of `steps` (factor, unit; descending) that does not exceed it, or in the last one."""
    factor, unit = next((step for step in steps if abs(value) >= step[0]), steps[-1])
    text = f"{value / factor:.{digits}g}"
    # Binary steps are 1024 apart: 1010 KiB in three digits would print as 1.01e+03.
    return f"{value / factor:.0f} {unit}" if "e+" in text else f"{text} {unit}"


def format_time(seconds: float, digits: int = 4) -> str:
    """Format seconds: `0.0015` -> `1.5 ms`."""
    if seconds == 0:
        return "0 s"
    return _format(seconds, [(1.0, "s"), (1e-3, "ms"), (1e-6, "us"), (1e-9, "ns")], digits)


def format_duration(seconds: float, digits: int = 3) -> str:
    """Format a time of minutes or longer: `5400` -> `1.5 h`; up to a minute as `format_time` does."""
    steps = [(2 * 86400.0, 86400.0, "d"), (3600.0, 3600.0, "h"), (60.0, 60.0, "min")]
    for least, factor, unit in steps:
        if seconds >= least:
            return _format(seconds, [(factor, unit)], digits)
    return format_time(seconds, digits)


def format_size(size: float, digits: int = 4) -> str:
    """Format bytes: `1536` -> `1.5 KiB` (binary prefixes, as nccl-tests prints buffer sizes)."""
    steps = [(2.0**40, "TiB"), (2.0**30, "GiB"), (2.0**20, "MiB"), (2.0**10, "KiB"), (1.0, "B")]
    return _format(size, steps, digits)


def format_bandwidth(rate: float, digits: int = 4) -> str:
    """Format bytes/s: `5e10` -> `50 GB/s` (decimal prefixes)."""
    return _format(rate, [(1e12, "TB/s"), (1e9, "GB/s"), (1e6, "MB/s"), (1e3, "kB/s"), (1.0, "B/s")], digits)


def format_count(value: float, digits: int = 4) -> str:
    """Format a number: `1250000` -> `1.25 M`."""
    return _format(value, [(1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, "")], digits).rstrip()


def percent(value: float, signed: bool = False) -> str:
    """Format a share: `0.0596` -> `6 %`; two significant digits below 10 %, whole numbers above.

    `signed` adds a plus sign to positive shares.
    """
    sign = "+" if signed and value > 0 else "−" if value < 0 else ""
    share = abs(100 * value)
    return f"{sign}{share:.0f} %" if share >= 9.95 else f"{sign}{share:.2g} %"


def plural(noun: str) -> str:
    """The plural of a noun that dessim counts."""
    return {"switch": "switches", "leaf": "leaves"}.get(noun, f"{noun}s")


def counted(n: int, noun: str) -> str:
    """A number with its noun, such as `1 GPU` or `2,048 leaves`."""
    return f"{n:,} {noun if n == 1 else plural(noun)}"
