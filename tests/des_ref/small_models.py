"""Small model files, and parts of them, that several tests train."""

from __future__ import annotations

from pathlib import Path
from typing import Any

THREE_TABLES = """
[[tables]]
rows = 3000
ids = 3.0
[[tables]]
rows = 40
skew = 0.5
[[tables]]
rows = 500
ids = 1.5
offset = 2.0
"""

WIDTHS = (8, 4, 16, 4)
"""The widths of the tables of `different_widths`."""

_DIFFERENT_WIDTHS = """
schema_version = 2
name = "different widths"
[input]
batch_per_worker = 64
[embedding]
width = 8
{embedding}
[[tables]]
rows = 3000
ids = 3.0
[[tables]]
rows = 40
skew = 0.5
width = 4
[[tables]]
rows = 500
ids = 1.5
offset = 2.0
width = 16
[[tables]]
rows = 90
ids = 0.8
width = 4
"""


def different_widths(folder: Path, operators: str, embedding: str = "") -> str:
    """The path of a model file of four tables of different widths, with `operators` and more keys of `[embedding]`."""
    path = folder / "widths.toml"
    path.write_text(_DIFFERENT_WIDTHS.format(embedding=embedding) + operators)
    return str(path)


DENSE = """
[dense]
features = 3
widths = [6, 5]
[[operators]]
kind = "mlp"
widths = [10]
strategy = "mesh"
"""
"""An mlp over a bottom mlp and the pooled tables, for `different_widths`."""

NAMED_TABLES: dict[str, Any] = {
    "schema_version": 2,
    "name": "towers",
    "embedding": {"width": 8},
    "tables": [
        {"name": "user", "rows": 3000, "ids": 3.0},
        {"name": "age", "rows": 40, "width": 4},
        {"name": "item", "rows": 500, "width": 16},
        {"name": "hour", "rows": 24, "width": 4},
    ],
}
"""A model file that lacks the operators `DOT` or `CONCAT`, the second with `BOTTOM` as `[dense]`."""
_USER = {"name": "user", "tables": ["age", "user"], "widths": [10, 6]}
_ITEM = {"name": "item", "tables": ["item"], "widths": [7, 6]}
_CONTEXT = {"name": "context", "tables": ["hour"], "widths": [5], "dense": True}
DOT: dict[str, Any] = {"kind": "towers", "join": "dot", "towers": [_USER, {**_ITEM, "tables": ["item", "hour"]}]}
CONCAT: dict[str, Any] = {"kind": "towers", "join": "concat", "widths": [9], "towers": [_USER, _ITEM, _CONTEXT]}
BOTTOM = {"features": 3, "widths": [2]}
