"""Two results side by side: where they differ, after what renamed.toml says, and how large ones are kept."""

from __future__ import annotations

import json
import math
import tomllib
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
LARGE = 40_000  # characters: a larger result is kept reduced
_LONG, _ENDS = 50, 3
RELATIVE, ABSOLUTE = 1e-12, 1e-15


def dumped(value: Any, margin: str = "\n") -> str:
    """As it is stored: keys in the order in which they were printed, floats to the last bit, lists of plain values on
    one line."""
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
    """Of lists of more than 50 entries: how many, the first and the last three, and sums of all their numbers."""
    if isinstance(value, dict):
        return {key: reduced(item) for key, item in value.items()}
    if not isinstance(value, list):
        return value
    if len(value) <= _LONG:
        return [reduced(item) for item in value]
    first, last = ([reduced(item) for item in part] for part in (value[:_ENDS], value[-_ENDS:]))
    return {"length": len(value), "first": first, "last": last, "sums": _sums(value)}


def _sums(items: Sequence[Any]) -> Any:
    """Shaped as an entry; None where an entry has no numbers."""
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
    """Words of recorded results that go by another name by now."""
    return tomllib.loads((HERE / "renamed.toml").read_text("utf-8"))


def renamed(value: Any, keys: Mapping[str, str], values: Mapping[str, str]) -> Any:
    """With those keys, and those texts where they are a whole value, under their new names."""
    if isinstance(value, dict):
        return {keys.get(key, key): renamed(item, keys, values) for key, item in value.items()}
    if isinstance(value, list):
        return [renamed(item, keys, values) for item in value]
    return values.get(value, value) if isinstance(value, str) else value


def differences(
    old: Any, new: Any, prose: Collection[str] = (), path: str = "", said: bool = False, relative: float = RELATIVE
) -> Iterator[str]:
    """A line for each place where `new` is not `old`; `said`: texts there are prose."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in dict.fromkeys((*old, *new)):
            where = f"{path}.{key}" if path else str(key)
            if key not in new:
                yield f"{where}: gone; it was {_short(old[key])}"
            elif key not in old:
                yield f"{where}: new; it is {_short(new[key])}"
            else:
                yield from differences(old[key], new[key], prose, where, said or key in prose, relative)
    elif isinstance(old, list) and isinstance(new, list):
        if len(old) != len(new):
            yield f"{path}: {len(old)} entries before, {len(new)} now"
        for number, (before, now) in enumerate(zip(old, new, strict=False)):
            yield from differences(before, now, prose, f"{path}[{number}]", said, relative)
    elif not _same(old, new, said, relative):
        yield f"{path}: {_short(old)} before, {_short(new)} now{_off(old, new)}"


def _same(old: Any, new: Any, said: bool, relative: float) -> bool:
    if type(old) is not type(new):
        return False
    if isinstance(old, float):
        return math.isclose(old, new, rel_tol=relative, abs_tol=ABSOLUTE if relative else 0.0)
    return bool(old) == bool(new) if said and isinstance(old, str) else old == new


def _off(old: Any, new: Any) -> str:
    if not (isinstance(old, float) and isinstance(new, float)):
        return ""
    return f" ({abs(new - old) / max(abs(old), abs(new)):.1e} of it)"


def _short(value: Any) -> str:
    text = _text(value)
    return text if len(text) <= 120 else f"{text[:117]}..."
