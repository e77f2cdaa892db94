"""An earlier run to compare with: the JSON of `project`, `plan` or `replay`, which may be any file, as plain steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dessim.errors import FileError
from dessim.files import read_json
from dessim.results.rows import Row
from dessim.results.step_change import TimedStep, seconds_of, text_of

PARTS = {"compute_s": "compute", "exposed_comm_s": "exposed communication", "idle_s": "idle"}
_WRITTEN = "write it with --json of `dessim project`, `plan` or `replay`"


@dataclass(frozen=True, slots=True)
class Earlier:
    """The steps of an earlier run: `name` of its file, `facts` (model, cluster), and rows of `steps_of`."""

    name: str
    facts: Mapping[str, str]
    rows: Sequence[Row]


def load_earlier(path: Path, command: str) -> Earlier:
    """Read the JSON of an earlier run of `command`. Raises FileError for anything else."""
    result = read_json(path)
    if not isinstance(result, dict) or result.get("schema_version") != 1:
        raise FileError(path, "", f"is no result of dessim: {_WRITTEN}")
    kind = next((name for name, key in _KEYS.items() if key in result), None)
    if kind != command:
        what = f"is a result of `dessim {kind}`" if kind else "holds no steps"
        raise FileError(path, "", f"{what}; compare with one of `dessim {command} --json`")
    if result.get("partial"):
        raise FileError(path, "", "is a partial result: the run ended early; run it again with a larger --time-budget")
    try:
        rows = steps_of(result)
        facts = facts_of(result)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, StopIteration) as error:
        raise FileError(path, "", f"is damaged ({type(error).__name__}: {error}); {_WRITTEN}") from None
    return Earlier(path.name, facts, rows)


_KEYS = {"project": "projection", "plan": "scales", "replay": "predicted_step_s"}


def facts_of(result: Mapping[str, Any]) -> dict[str, str]:
    """The `model` and the `cluster` of a result, as far as it names them."""
    return {key: text_of(result[key]) for key in ("model", "cluster") if key in result}


def steps_of(result: Mapping[str, Any]) -> list[Row]:
    """The steps of a result: `gpus`, `case`, `strategy`, `batch`, a `step` (TimedStep), and its PARTS. Misfits are left
    out.
    """
    if "projection" in result:
        return [_row(row, row["gpus"], row["strategy"]) for row in result["projection"] if not row["does_not_fit"]]
    if "scales" in result:
        return [_row(scale["plans"][0], scale["gpus"], "best plan") for scale in result["scales"]]
    return [_row(result, result["ranks"], result["strategy"], "predicted_step_s")]


def _row(row: Row, gpus: Any, case: Any, time_s: str = "step_time_s") -> Row:
    """A step; `case` names what is compared, as the strategy of the best plan may change."""
    return {
        "gpus": _count(gpus),
        "case": text_of(case),
        "strategy": text_of(row["strategy"]),
        "batch": _count(row["batch"]) if "batch" in row else None,
        "step": TimedStep.from_json(row, time_s),
        **{part: seconds_of(row[part]) for part in PARTS},
    }


def _count(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise TypeError("a number of GPUs or samples is no whole number")
    return value
