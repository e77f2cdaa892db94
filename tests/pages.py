"""Compare generated pages at the precision that they print."""

from __future__ import annotations

import re
from pathlib import Path

_NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?(?:e[+-]?\d+)?")
TOLERANCE = 2e-3
"""Relative. Another processor may round differently, and a predicted step may move by this much."""


def assert_same_page(generated: Path, kept: Path) -> None:
    """Require equal text, and numbers that agree to `TOLERANCE` and one unit of the last digit printed."""
    generated_text = generated.read_text("utf-8")
    kept_text = kept.read_text("utf-8")
    assert words(generated_text) == words(kept_text), f"{kept} is out of date; regenerate it"
    for new, old in differing_numbers(generated_text, kept_text):
        raise AssertionError(f"{kept} says {old}, but the value is now {new}; regenerate it")


def words(text: str) -> str:
    """The text with each number replaced by `#`."""
    return _NUMBER.sub("#", text)


def differing_numbers(new_text: str, old_text: str) -> list[tuple[str, str]]:
    """The numbers of two texts with equal words that differ by more than `TOLERANCE` and one unit of the last digit."""
    pairs = zip(_NUMBER.findall(new_text), _NUMBER.findall(old_text), strict=True)
    return [(new, old) for new, old in pairs if abs(_value(new) - _value(old)) > _allowed(old)]


def _allowed(old: str) -> float:
    return TOLERANCE * abs(_value(old)) + _last_digit(old)


def _value(text: str) -> float:
    return float(text.replace(",", ""))


def _last_digit(text: str) -> float:
    """One unit of the last digit of a number as printed."""
    digits, _, exponent = text.partition("e")
    decimals = len(digits.partition(".")[2])
    return 1.000001 * 10.0 ** (int(exponent or 0) - decimals)
