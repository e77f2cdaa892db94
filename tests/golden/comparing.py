"""Comparison of two results, with renamed words replaced, and the reduced form of large results."""

from __future__ import annotations

import json
import math
import tomllib
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
MAX_SIZE = 40_000  # characters; a larger result is stored reduced
_MAX_LIST = 50
_KEPT_ENDS = 3
RELATIVE = 1e-12
ABSOLUTE = 1e-13  # a tenth of a picosecond
UTILISATION = 1e-8
"""Relative: utilisation is a quotient of short intervals, which are differences of times."""


def dumped(value: Any, margin: str = "\n") -> str:
    """JSON text: keys in printed order, floats to the last bit, lists of plain values on one line."""
    inner = margin + " "
    if isinstance(value, dict) and value:
        entries = (f"{_text(key)}: {dumped(item, inner)}" for key, item in value.items())
        return f"{{{inner}{f',{inner}'.join(entries)}{margin}}}"
    if isinstance(value, list) and any(isinstance(item, dict | list) for item in value):
        return f"[{inner}{f',{inner}'.join(dumped(item, inner) for item in value)}{margin}]"
    return _text(value)


def _text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def reduced(value: Any) -> Any:
    """The value with each list of more than 50 entries replaced by its length, ends, and sums of its numbers."""
    if isinstance(value, dict):
        return {key: reduced(item) for key, item in value.items()}
    if not isinstance(value, list):
        return value
    if len(value) <= _MAX_LIST:
        return [reduced(item) for item in value]
    first, last = ([reduced(item) for item in part] for part in (value[:_KEPT_ENDS], value[-_KEPT_ENDS:]))
    return {"length": len(value), "first": first, "last": last, "sums": _sums(value)}


def _sums(items: Sequence[Any]) -> Any:
    """The sums in the shape of one entry; None where entries have no numbers."""
    tables = [item for item in items if isinstance(item, dict)]
    if tables:
        keys = dict.fromkeys(key for table in tables for key in table)
        return {key: _sums([table[key] for table in tables if key in table]) for key in keys}
    lists = [item for item in items if isinstance(item, list)]
    if lists:
        return _sums([entry for entries in lists for entry in entries])
    numbers = [item for item in items if isinstance(item, int | float) and not isinstance(item, bool)]
    return math.fsum(numbers) if numbers else None


def read_renamed() -> dict[str, dict[str, str]]:
    """Words of recorded results that have been renamed since."""
    return tomllib.loads((HERE / "renamed.toml").read_text("utf-8"))


def renamed(value: Any, keys: Mapping[str, str], values: Mapping[str, str]) -> Any:
    """The value with renamed keys, and with renamed texts where the text is a whole value."""
    if isinstance(value, dict):
        return {keys.get(key, key): renamed(item, keys, values) for key, item in value.items()}
    if isinstance(value, list):
        return [renamed(item, keys, values) for item in value]
    return values.get(value, value) if isinstance(value, str) else value


def differences(
    old: Any, new: Any, prose: Collection[str] = (), path: str = "", in_prose: bool = False, relative: float = RELATIVE
) -> Iterator[str]:
    """One line per JSON path at which `new` differs from `old`. Of texts under a `prose` key only presence counts."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in dict.fromkeys((*old, *new)):
            where = f"{path}.{key}" if path else str(key)
            if key not in new:
                yield f"{where}: gone; it was {_short(old[key])}"
            elif key not in old:
                yield f"{where}: new; it is {_short(new[key])}"
            else:
                allowed = max(relative, UTILISATION) if key == "utilisation" and relative else relative
                yield from differences(old[key], new[key], prose, where, in_prose or key in prose, allowed)
    elif isinstance(old, list) and isinstance(new, list):
        if len(old) != len(new):
            yield f"{path}: {len(old)} entries before, {len(new)} now"
        for number, (before, now) in enumerate(zip(old, new, strict=False)):
            yield from differences(before, now, prose, f"{path}[{number}]", in_prose, relative)
    elif not _same(old, new, in_prose, relative):
        yield f"{path}: {_short(old)} before, {_short(new)} now{_relative_difference(old, new)}"


def _same(old: Any, new: Any, in_prose: bool, relative: float) -> bool:
    if type(old) is not type(new):
        return False
    if isinstance(old, float):
        return math.isclose(old, new, rel_tol=relative, abs_tol=ABSOLUTE if relative else 0.0)
    return bool(old) == bool(new) if in_prose and isinstance(old, str) else old == new


def _relative_difference(old: Any, new: Any) -> str:
    if not (isinstance(old, float) and isinstance(new, float)):
        return ""
    return f" ({abs(new - old) / max(abs(old), abs(new)):.1e} of it)"


def _short(value: Any) -> str:
    text = _text(value)
    return text if len(text) <= 120 else f"{text[:117]}..."
