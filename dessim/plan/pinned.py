"""Tables whose strategy the user fixes: a TOML file with the name, or number, and strategy of each.

[[tables]]
name = "C1"                # or table = 0, its number
strategy = "row_wise"      # data_parallel, table_wise, column_wise, table_row_wise, row_wise, row_all_to_all
parts = 4                  # column_wise: the number of owners
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dessim.errors import FileError
from dessim.files import read_toml
from dessim.plan.loads import Choice
from dessim.workload.composed import COLUMN_WISE
from dessim.workload.model import Model
from dessim.workload.plan_file import TABLE_STRATEGIES
from dessim.workload.strategies.sharded import TABLE_WISE

_KEYS = ("name", "table", "strategy", "parts")


def load_pinned(path: Path, model: Model) -> dict[int, Choice]:
    """The choice of each pinned table, by its number. Raises FileError."""
    tables = read_toml(path).get("tables")
    if not isinstance(tables, list) or not tables:
        raise FileError(path, "", 'no [[tables]]; write one for each table, with name = "..." and strategy = "..."')
    names = {table.name: number for number, table in reversed([*enumerate(model.tables)])}
    pinned: dict[int, Choice] = {}
    for position, entry in enumerate(tables):
        where = f"tables.{position}"
        if not isinstance(entry, dict) or (unknown := [key for key in entry if key not in _KEYS]):
            what = f"unknown key {unknown[0]!r}" if isinstance(entry, dict) else "must be a table"
            raise FileError(path, where, f"{what}; the keys are {', '.join(_KEYS)}")
        number = _number(path, where, entry, names, model)
        if number in pinned:
            raise FileError(path, where, "this table is pinned twice")
        pinned[number] = _choice(path, where, entry)
    return pinned


def _number(path: Path, where: str, entry: dict[str, Any], names: dict[str, int], model: Model) -> int:
    if isinstance(name := entry.get("name"), str) and name in names:
        return names[name]
    number = entry.get("table")
    if "name" not in entry and isinstance(number, int) and 0 <= number < model.input.fields:
        return number
    raise FileError(path, where, f"{entry.get('name', number)!r} is no table of {model.name}; give its name or number")


def _choice(path: Path, where: str, entry: dict[str, Any]) -> Choice:
    strategy = entry.get("strategy")
    parts = entry.get("parts", 1)
    if strategy not in TABLE_STRATEGIES:
        raise FileError(path, where, f"strategy {strategy!r} is none of {', '.join(TABLE_STRATEGIES)}")
    splits_columns = strategy == COLUMN_WISE
    if splits_columns != (parts != 1) or not isinstance(parts, int) or parts < 1 or parts & (parts - 1):
        raise FileError(path, where, "parts is for column_wise, a power of two above 1, such as parts = 4")
    return Choice(TABLE_WISE.name if splits_columns else strategy, parts)
