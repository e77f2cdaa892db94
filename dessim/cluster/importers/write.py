"""Writes the tables of an imported cluster as the text of a topology file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from dessim.cluster.importers.compose import Composed
from dessim.cluster.importers.parts import Choice

_WIDTH = 124


def topology_text(composed: Composed, description: str, comments: list[str]) -> str:
    """Return the topology file, which begins with `comments` and the list of assumptions."""
    lines = [_comment(comment) for comment in comments]
    lines += ["# Assumed, because no file says it:", *(_comment(f"- {line}") for line in composed.assumed)]
    lines.append(f"description = {_string(description)}")
    tables = composed.tables
    lines += [f"{key} = {_value(tables[key])}" for key in ("gpu", "transport")]
    for name in ("node", "fabric"):
        lines += ["", f"[{name}]", *_pairs(tables[name])]
    for override in tables["override"]:
        lines += ["", "[[override]]", *_pairs(override)]
    return "\n".join([*lines, ""])


def _comment(text: str) -> str:
    printable = "".join(letter if letter.isprintable() else " " for letter in text)
    return f"# {printable}"[: 2 * _WIDTH]


def _pairs(table: Mapping[str, Any]) -> list[str]:
    return [f"{key} = {_value(value)}" for key, value in table.items()]


def _value(value: Any) -> str:
    if isinstance(value, Choice):
        return _part(value)
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_key(name)} = {_value(item)}" for name, item in value.items()) + "}"
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return "[\n" + "".join(f"    {_value(item)},\n" for item in value) + "]"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_value(item) for item in value) + "]"
    return _string(value) if isinstance(value, str) else str(value)


def _part(choice: Choice) -> str:
    """The name of the part, or an inline table with what differs; `assumed` says that the part itself is assumed."""
    changes = choice.changes | ({"assumed": choice.assumed} if choice.assumed else {})
    if not changes:
        return _string(choice.part)
    pairs = ", ".join(f"{name} = {_value(value)}" for name, value in changes.items())
    return f"{{part = {_string(choice.part)}, {pairs}}}"


def _key(name: str) -> str:
    return name if name.replace("_", "").replace("-", "").isalnum() and name.isascii() else _string(name)


def _string(text: str) -> str:
    """A TOML basic string; JSON's escapes are a subset of TOML's, except DEL and lone surrogates."""
    return json.dumps(text.encode("utf-8", "replace").decode(), ensure_ascii=False).replace("\x7f", "\\u007F")
