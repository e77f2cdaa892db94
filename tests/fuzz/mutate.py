"""Mutations of a file: of its bytes, of its lines, or of the values in its TOML, JSON or lines of JSON.

`rng` may be the Random of a fuzzer or of Hypothesis, which then can shrink what it has found.
"""

from __future__ import annotations

import json
import marshal
import math
import random
import re
import tomllib
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Any

Mutation = Callable[[bytes, random.Random, Sequence[bytes]], bytes]

NUMBERS: tuple[float, ...] = (
    *(0, 1, -1, 2, 3, 7, 255, 256, 65_535, 65_536, 10**6, 10**9, 10**12, 2**31, 2**32, 2**53, 2**63 - 1, -(2**63)),
    *(2**63, 10**30, 0.0, -0.0, 0.5, 1.5, -0.5, 1e-9, 1e-300, 5e-324, 1e9, 1e30, 1e300, 1.7e308, -1e300),
    *(math.inf, -math.inf, math.nan),
)
UNITS = ("", "B", "KiB", "GiB", "MB/s", "Gb/s", "GB/s", "us", "ns", "s", "d", "TFLOP/s", "W", "%", "x")
TEXTS = (
    *("", " ", "a", "A" * 300, "0", "-1", "1e999", "nan", "inf", "None", "true", "../../etc/passwd", "/", ".", "a/b"),
    *("\x00", "\x1b[31m", "\u202e", "\u2028", "é", "中文", "😀", "\ud800", "\n", "\t", "'", '"', "\\", "{", "%s", "*"),
    *(
        "a,b",
        "a.b",
        "a[0]",
        "a[0-3]",
        "a[0-999999999]",
        "[",
        "]",
        "=",
        "<",
        "&lol;",
        "#",
        ";",
        "N",
        "B*K",
        "1/0",
        "2**9",
    ),
    *("9" * 40, "9" * 5000, "(" * 150),
)
_HUGE = "a" * 70_000
_MANY_DIGITS = "9" * 5000
"""Python refuses to read whole numbers of more than 4,300 digits."""
_DEPTHS = (1, 2, 50, 99, 101, 3000)
_MOST_VALUES = 50_000
"""Values of a file that is mutated further."""
_LONG = (*(2, 3, 17) * 10, 1000, 20_000)


# -- values ------------------------------------------------------------------------------------------------------


def _places(tree: Any) -> list[tuple[Any, Any]]:
    """Each container with each of its keys."""
    found: list[tuple[Any, Any]] = []
    level = [tree]
    while level:
        below = []
        for box in level:
            keys = list(box) if isinstance(box, dict) else range(len(box)) if isinstance(box, list) else ()
            for key in keys:
                found.append((box, key))
                below.append(box[key])
        level = below
    return found


def _edit(tree: Any, rng: random.Random, others: Sequence[Any]) -> Any:
    """The tree after one random change; the tree itself is changed."""
    places = _places(tree)
    if len(places) > _MOST_VALUES:
        return tree
    if not places or rng.random() < 0.01:
        return _other_value(tree, rng)
    box, key = rng.choice(places)
    value = box[key]
    change = rng.randrange(12)
    if change < 5:
        box[key] = _other_value(value, rng)
    elif change == 5:
        del box[key]
    elif change == 6:
        foreign, at = rng.choice(places) if not others or rng.random() < 0.5 else _place_of(rng.choice(others), rng)
        box[key] = _copy(foreign[at]) if foreign is not None else value
    elif change == 7 and isinstance(box, dict):
        box[_name(rng, places)] = box.pop(key)
    elif change == 8 and isinstance(box, dict):
        box[_name(rng, places)] = _copy(value)
    elif change == 8:
        copies = min(rng.choice(_LONG), _MOST_VALUES // (1 + len(_places(value))))
        box[key:key] = [_copy(value) for _ in range(copies - 1)]
    elif change == 9:
        for _ in range(rng.choice(_DEPTHS)):
            value = [value] if rng.random() < 0.5 else {"a": value}
        box[key] = value
    elif change == 10:
        box[key] = rng.choice([[], {}, "", None, 0, True])
    else:
        box[key] = _number(rng) if rng.random() < 0.5 else rng.choice(TEXTS)
    return tree


def _place_of(tree: Any, rng: random.Random) -> tuple[Any, Any]:
    places = _places(tree)
    return rng.choice(places) if places else (None, None)


def _name(rng: random.Random, places: Sequence[tuple[Any, Any]]) -> str:
    """A key: one that is elsewhere in the file, or junk."""
    names = [key for _, key in places if isinstance(key, str)]
    return rng.choice(names) if names and rng.random() < 0.6 else rng.choice(TEXTS)


def _other_value(value: Any, rng: random.Random) -> Any:
    """A value like `value`, of the same type in most cases."""
    if isinstance(value, bool):
        return rng.choice([not value, 0, 1, 2, "true", None])
    if isinstance(value, (int, float)):
        near = (value + 1, value - 1, -value, value * 2, value / 2, value * 1000, value * 1e6, float(value), str(value))
        return _number(rng) if rng.random() < 0.6 else rng.choice(near)
    if isinstance(value, str):
        return _other_text(value, rng)
    if isinstance(value, list) and value:
        more = min(rng.choice(_LONG), 1 + _MOST_VALUES // (1 + len(_places(value))))
        return rng.choice([value[:-1], value * 2, value[::-1], value[:1], value[0], value * more])
    if isinstance(value, dict) and value:
        return rng.choice([{}, list(value.values()), list(value), next(iter(value.values())), [value], [value, value]])
    return rng.choice([None, [], {}, "", 0, 1.5, [[]], [{}], {"": {}}, _number(rng)])


def _number(rng: random.Random) -> float:
    return rng.choice(NUMBERS)


def _digits(rng: random.Random) -> str:
    return f"{_number(rng):g}" if rng.random() < 0.98 else _MANY_DIGITS


def _other_text(text: str, rng: random.Random) -> Any:
    number = re.search(r"-?\d+(\.\d+)?(e-?\d+)?", text)
    change = rng.randrange(6)
    if change < 3 and number:
        return f"{text[: number.start()]}{_digits(rng)}{text[number.end() :]}"
    if change == 3 and number:
        return f"{number[0]} {rng.choice(UNITS)}"
    if change == 4 and text:
        at = rng.randrange(len(text))
        return text[:at] + rng.choice(TEXTS) + text[at + rng.randrange(2) :]
    return rng.choice(TEXTS) if rng.random() < 0.998 else _HUGE


def _copy(value: Any) -> Any:
    """A deep copy; marshal is ten times as fast as copy.deepcopy. Raises ValueError for a value nested too deeply."""
    return marshal.loads(marshal.dumps(value))


def mutated_tree(
    load: Callable[[bytes], Any], dump: Callable[[Any], bytes], data: bytes, rng: random.Random, seeds: Sequence[bytes]
) -> bytes:
    """The file after one to four changes of its values; of its bytes where it cannot be loaded."""
    if rng.random() < 0.1 or (tree := load(data)) is None:
        return mutated_lines(data, rng, seeds)
    others = [other for other in map(load, seeds) if other is not None]
    try:
        tree = _copy(tree)
        for _ in range(rng.choice((1, 1, 1, 2, 3, 4))):
            tree = _edit(tree, rng, others)
        return dump(tree)
    except (ValueError, RecursionError, OverflowError):
        return mutated_lines(data, rng, seeds)


# -- TOML, JSON, lines of JSON -------------------------------------------------------------------------------------


@lru_cache(maxsize=256)
def _toml(data: bytes) -> Any:
    try:
        return tomllib.loads(data.decode())
    except (ValueError, RecursionError):
        return None


@lru_cache(maxsize=256)
def _json(data: bytes) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return None


@lru_cache(maxsize=256)
def _json_lines(data: bytes) -> Any:
    lines = [_json(line) for line in data.splitlines()]
    return None if any(line is None for line in lines) else lines


def toml_text(tree: Any) -> str:
    """A tree as TOML: one line for each key at the top, tables below it inline."""
    if not isinstance(tree, dict):
        return _inline(tree)
    return "".join(f"{_key(key)} = {_inline(value)}\n" for key, value in tree.items())


def _inline(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_key(key)} = {_inline(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_inline, value)) + "]"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return repr(value)
    return json.dumps("" if value is None else str(value), ensure_ascii=False).replace("\x7f", "\\u007f")


def _key(key: Any) -> str:
    return json.dumps(str(key), ensure_ascii=False)


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def mutated_toml(data: bytes, rng: random.Random, seeds: Sequence[bytes]) -> bytes:
    return mutated_tree(_toml, lambda tree: _encoded(toml_text(tree)), data, rng, seeds)


def mutated_json(data: bytes, rng: random.Random, seeds: Sequence[bytes]) -> bytes:
    return mutated_tree(_json, lambda tree: json.dumps(tree).encode(), data, rng, seeds)


def mutated_json_lines(data: bytes, rng: random.Random, seeds: Sequence[bytes]) -> bytes:
    """Lines of JSON: their values, and their order."""

    def dump(lines: Any) -> bytes:
        return b"".join(json.dumps(line).encode() + b"\n" for line in (lines if isinstance(lines, list) else [lines]))

    return mutated_tree(_json_lines, dump, data, rng, seeds)


# -- lines, words and bytes ----------------------------------------------------------------------------------------


def mutated_lines(data: bytes, rng: random.Random, seeds: Sequence[bytes]) -> bytes:
    """The text after one to four changes of its lines, words, numbers, attributes and bytes."""
    for _ in range(rng.randrange(1, 5)):
        data = _changes(data, rng, seeds)
    return data


def _changes(data: bytes, rng: random.Random, seeds: Sequence[bytes]) -> bytes:
    change = rng.randrange(11)
    start = rng.randrange(len(data) + 1)
    end = min(len(data), start + rng.randrange(20))
    if change == 0:
        return data[:start] + data[end:]
    if change == 1:
        return data[:start] + _junk(rng) + data[start if rng.random() < 0.5 else end :]
    if change == 2:
        return data[:start]
    if change in (3, 4):
        lines = data.split(b"\n")
        line = rng.randrange(len(lines))
        if change == 3:
            del lines[line]
        else:
            foreign = lines if not seeds or rng.random() < 0.5 else rng.choice(seeds).split(b"\n")
            lines[line:line] = [rng.choice(foreign)] * rng.choice((1, 1, 1, 2, 500))
        return b"\n".join(lines)
    pattern = (rb"[^\s]+", rb"-?\d+(?:\.\d+)?", rb'="([^"\n]*)"')[change % 3]
    found = list(_some(re.finditer(pattern, data)))
    if not found:
        return _with_flip(data, rng)
    first, last = rng.choice(found)
    other = data[slice(*rng.choice(found))]
    kind = rng.randrange(3)
    word = other if kind == 0 else _digits(rng).encode() if kind == 1 else _junk(rng)
    return data[:first] + (re.sub(rb'[<>&"\x00\n]', b"", word) if change % 3 == 2 else word) + data[last:]


def _some(matches: Iterator[re.Match[bytes]]) -> Iterator[tuple[int, int]]:
    for _, match in zip(range(4000), matches, strict=False):
        yield match.span(len(match.groups()))


def _junk(rng: random.Random) -> bytes:
    return _encoded(rng.choice(TEXTS))


def mutated_bytes(data: bytes, rng: random.Random, seeds: Sequence[bytes]) -> bytes:
    """A binary file after one to four changes."""
    for _ in range(rng.randrange(1, 5)):
        change = rng.randrange(5)
        start = rng.randrange(len(data) + 1)
        if change == 0:
            data = data[:start]
        elif change == 1:
            data = data[:start] + data[start + rng.randrange(1, 64) :]
        elif change == 2:
            data = data[:start] + bytes(rng.randrange(256) for _ in range(rng.randrange(1, 9))) + data[start:]
        else:
            data = _with_flip(data, rng)
    return data


def _with_flip(data: bytes, rng: random.Random) -> bytes:
    if not data:
        return b"\x00"
    at = rng.randrange(len(data))
    return data[:at] + bytes([data[at] ^ (1 << rng.randrange(8))]) + data[at + 1 :]
