"""A model with rows and laws from `dessim ids`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dessim.errors import ModelError
from dessim.files import read_toml
from dessim.workload.model import Model, load_model, parse_model

MEASURED = ("rows", "ids", "skew", "offset", "shares")

_FOLLOWS = {"fields", "ids_per_sample", "vocabulary", "skew"}  # keys of `input` that follow from the tables


def model_with_ids(name: str, ids: str | Path | None) -> Model:
    """The model `name`, a file or a shipped model, with the ids of a file of `dessim ids`; None: with its own.

    Raises ModelError, FileError.
    """
    model = load_model(name)
    return model if ids is None else with_measured_ids(model, Path(ids))


def with_measured_ids(model: Model, path: Path) -> Model:
    """The model, with rows, ids, skew and offset of the tables that the file names; other tables stay as they are.

    Raises ModelError for a model of equal tables, for a file without tables, and for a table that the model lacks.
    """
    measured = _measured(path)
    names = [table.name for table in model.tables]
    if not names:
        raise ModelError(path, "", f"{model.name} has equal tables; measured ids need a model of schema_version = 2")
    if lacking := [name for name in measured if name not in names]:
        listed = ", ".join(name or "(no name)" for name in names)
        raise ModelError(path, "tables", f"{model.name} has no table {lacking[0]!r}; its tables: {listed}")
    raw = model.model_dump(exclude={"input": _FOLLOWS})
    raw["tables"] = [_with(table, measured.get(table["name"], {})) for table in raw["tables"]]
    return parse_model(raw, path)


def _with(table: dict[str, Any], measured: dict[str, Any]) -> dict[str, Any]:
    """The table with what was measured of it; shares of other rows do not stay."""
    return table | {"shares": ()} | measured if measured else table


def _measured(path: Path) -> dict[str, dict[str, Any]]:
    """The measured keys of each table of a file, by its name."""
    tables = read_toml(path).get("tables")
    if not isinstance(tables, list) or not tables:
        raise ModelError(path, "", "no [[tables]]; write the file with `dessim ids`")
    measured: dict[str, dict[str, Any]] = {}
    for number, table in enumerate(tables):
        if not isinstance(table, dict) or not isinstance(table.get("name"), str):
            raise ModelError(path, f"tables.{number}", "each table needs a name")
        if table["name"] in measured:
            raise ModelError(path, f"tables.{number}", f"a second table {table['name']!r}")
        measured[table["name"]] = {key: table[key] for key in MEASURED if key in table}
    return measured
