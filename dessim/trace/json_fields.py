"""Fields of untrusted JSON objects, read with their type checked.

Each function returns the value of `raw[key]`, or raises ValueError naming the key.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, TypeVar

from dessim.errors import is_printable

E = TypeVar("E", bound=StrEnum)


def _short(value: object) -> str:
    """`value` for an error message."""
    return ascii(value) if len(ascii(value)) <= 100 else f"{ascii(value)[:100]}..."


def number(raw: Mapping[str, Any], key: str) -> float:
    """A finite number. Raises ValueError."""
    value = raw.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e18:
        raise ValueError(f"{key!r} must be a finite number, not {_short(value)}")
    return float(value)


def integer(raw: Mapping[str, Any], key: str, default: int | None = None) -> int:
    """A whole number of at most 63 bits. Raises ValueError."""
    value = raw.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int) or abs(value) >= 2**63:
        raise ValueError(f"{key!r} must be a whole number, not {_short(value)}")
    return value


def text(raw: Mapping[str, Any], key: str) -> str:
    """A text of 1 to 1000 characters, none of which controls a terminal. Raises ValueError."""
    value = raw.get(key)
    if not isinstance(value, str) or not value or len(value) > 1000 or not is_printable(value):
        raise ValueError(f"{key!r} must be a short text without control characters, not {_short(value)}")
    return value


def integers(raw: Mapping[str, Any], key: str) -> tuple[int, ...] | None:
    """A list of whole numbers; None if it is missing or null. Raises ValueError."""
    value = raw.get(key)
    if value is None:
        return None
    if not isinstance(value, list) or any(type(v) is not int or abs(v) >= 2**63 for v in value):
        raise ValueError(f"{key!r} must be a list of whole numbers")
    return tuple(value)


def floats(raw: Mapping[str, Any], key: str) -> tuple[float, ...]:
    """A list of finite numbers. Raises ValueError."""
    value = raw.get(key)
    if not isinstance(value, list):
        raise ValueError(f"{key!r} must be a list of numbers")
    return tuple(number({key: v}, key) for v in value)


def numbers(raw: object, key: str) -> dict[str, float]:
    """`raw` itself as a mapping of names to finite numbers. Raises ValueError, which calls it `key`."""
    if not isinstance(raw, dict):
        raise ValueError(f"{key!r} must map names to numbers")
    return {str(k): number(raw, k) for k in raw}


def member(raw: Mapping[str, Any], key: str, enum: type[E]) -> E:
    """A member of `enum`. Raises ValueError."""
    try:
        return enum(str(raw.get(key)))
    except ValueError:
        raise ValueError(
            f"{key!r} must be one of {', '.join(str(k) for k in enum)}, not {_short(raw.get(key))}"
        ) from None
