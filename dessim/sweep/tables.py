"""The results of a sweep as files: one row for each point, in the order of the grid, whatever simulated it.

    results.csv, results.parquet     axes, status and times of each point
    ops.csv                          seconds on the critical path of each point, by op
    sweep.json                       the study's name, its axes, and the columns' meaning

The same outcomes give the same bytes. The Parquet file needs pyarrow.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from dessim.errors import FileError
from dessim.files import atomic_path, read_json, write_json, write_text
from dessim.results.rows import data_csv
from dessim.sweep.axes import AXES, REQUIRED, Plain
from dessim.sweep.cases import Row
from dessim.sweep.grid import Study
from dessim.sweep.journal import OK, Outcome
from dessim.sweep.simulate import RESULTS

RESULTS_CSV = "results.csv"
RESULTS_PARQUET = "results.parquet"
OPS_CSV = "ops.csv"
SWEEP_JSON = "sweep.json"
_SCHEMA_VERSION = 1
BATCH = "batch"  # samples of all GPUs; the axis has its samples of each
_NUMBER = re.compile(r"-?\d+(\.\d+)?(e[+-]?\d+)?")


def axis_columns(study: Study) -> dict[str, str]:
    """The column of each axis that the study names, and of those that every study has."""
    return {name: axis.column for name, axis in AXES.items() if name in study.axes or name in (*REQUIRED, BATCH)}


def columns_of(study: Study) -> tuple[str, ...]:
    """The columns of the results of a study."""
    return (*axis_columns(study).values(), BATCH, "status", *RESULTS, "reason")


def write_results(folder: Path, study: Study, rows: Sequence[Row], outcomes: Mapping[str, Outcome]) -> tuple[Path, ...]:
    """Write all tables of complete outcomes, by key; return their paths."""
    axes = axis_columns(study)
    listed = list(listed_rows(study, rows, outcomes))
    columns = columns_of(study)
    write_text(folder / RESULTS_CSV, data_csv([_csv(row) for row in listed], columns))
    ops = [
        _csv({**{column: row[column] for column in axes.values()}, "op": op, "critical_path_s": seconds})
        for row in listed
        for op, seconds in row["ops"].items()
    ]
    write_text(folder / OPS_CSV, data_csv(ops, (*axes.values(), "op", "critical_path_s")))
    about = {
        "schema_version": _SCHEMA_VERSION,
        "study": study.name,
        "points": len(rows),
        "cases": len(outcomes),
        "axes": list(axes.values()),
    }
    write_json(folder / SWEEP_JSON, about)
    files = [folder / name for name in (RESULTS_CSV, OPS_CSV, SWEEP_JSON)]
    if _write_parquet(folder / RESULTS_PARQUET, listed, columns):
        files.insert(1, folder / RESULTS_PARQUET)
    return tuple(files)


def listed_rows(study: Study, rows: Sequence[Row], outcomes: Mapping[str, Outcome]) -> Iterator[dict[str, Any]]:
    """The rows of the results, in order; values that a row lacks are left out.

    Beside the columns: `ops`; `least_step_s` as {nic, gpu}, None with dedicated servers; and `interval` with the
    `causes` that `is_tie` compares, None if the error bar is not known.
    """
    axes = axis_columns(study)
    for row in rows:
        outcome = outcomes[row.key]
        gpus = int(row.point.settings["gpus"])
        yield {
            **labels_of(row, axes),
            BATCH: row.batch_per_gpu * gpus,
            "status": outcome["status"],
            **outcome["row"],
            "reason": outcome.get("reason", ""),
            "ops": outcome["ops"],
            "least_step_s": outcome.get("least_step_s"),
            "interval": {"causes": outcome["causes"]} if "causes" in outcome else None,
        }


def labels_of(row: Row, axes: Mapping[str, str]) -> dict[str, Plain | None]:
    """The labels of a row by the columns of its `axes`."""
    point = row.point
    labels = {axes[name]: point.labels.get(name, point.settings.get(name)) for name in axes}
    return labels | {AXES[BATCH].column: row.batch_per_gpu}


def _csv(row: Mapping[str, Any]) -> dict[str, Any]:
    """The row with true and false as TOML and JSON write them."""
    return {key: _written(value) if isinstance(value, bool) else value for key, value in row.items()}


def _write_parquet(path: Path, rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> bool:
    """Write the rows as Parquet; False, and no file, without pyarrow."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        path.unlink(missing_ok=True)  # one of earlier results
        return False
    arrays = {}
    for column in columns:
        values = [row.get(column) for row in rows]
        kinds = {type(value) for value in values if value is not None}
        if kinds == {int, float}:
            values = [None if value is None else float(value) for value in values]
        elif len(kinds) > 1:
            values = [None if value is None else _written(value) for value in values]
        arrays[column] = pa.array(values, type=None if kinds else pa.float64())
    with atomic_path(path) as temporary:
        pq.write_table(pa.table(arrays), temporary)
    return True


def _written(value: Plain) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def read_results(folder: Path) -> tuple[list[str], list[dict[str, Plain]], dict[tuple[Plain, ...], dict[str, float]]]:
    """The columns of the axes of a finished sweep, its rows, and by the axes of each row seconds by op.

    Raises FileError for a folder without results.
    """
    about = read_json(folder / SWEEP_JSON) if (folder / SWEEP_JSON).is_file() else None
    if not isinstance(about, dict) or not isinstance(about.get("axes"), list):
        raise FileError(folder, "", "has no results of a sweep; run: dessim sweep STUDY.toml -o FOLDER")
    axes = [str(column) for column in about["axes"]]
    rows = _read_csv(folder / RESULTS_CSV, (*axes, "status"))
    ops: dict[tuple[Plain, ...], dict[str, float]] = {}
    for row in _read_csv(folder / OPS_CSV, (*axes, "op", "critical_path_s")):
        at = tuple(row[column] for column in axes)
        ops.setdefault(at, {})[str(row["op"])] = float(row["critical_path_s"])
    return axes, rows, ops


def _read_csv(path: Path, required: Sequence[str]) -> list[dict[str, Plain]]:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            missing = [column for column in required if column not in (reader.fieldnames or ())]
            if missing:
                raise FileError(path, "", f"has no column {missing[0]}; it was not written by dessim sweep")
            return [{key: _plain(value) for key, value in row.items() if value} for row in reader]
    except OSError as error:
        raise FileError(path, "", f"cannot be read: {error.strerror}") from None
    except (csv.Error, UnicodeDecodeError) as error:
        raise FileError(path, "", f"is no CSV: {error}") from None


def _plain(text: str) -> Plain:
    """A number where the text is one, as Python writes it."""
    if not _NUMBER.fullmatch(text):
        return text
    return float(text) if set(text) & set(".e") else int(text)


def is_ok(row: Mapping[str, Plain]) -> bool:
    """Whether the row has times."""
    return row.get("status") == OK
