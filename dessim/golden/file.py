"""The golden file: JSON that a person can read in a diff.

{
  "schema_version": 1,
  "dessim": "0.1.0",                      the version that recorded it
  "tolerance": 1e-06,                     relative; edit it at will
  "request": {                            null where Python objects were given, which no file can name
    "job": {"model": "deepfm"},           files are relative to the golden file's folder
    "cluster": {"name": "./mine.toml"},
    "project": {"strategies": ["table_wise"], "gpus": [64]}
  },
  "inputs": {"question": {}, "job": {}, "cluster": {}},      facts by key, to explain a change
  "rows": []                              steps, with the ops of their critical paths
}
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal, TypeVar

import pydantic
from pydantic import BaseModel, ConfigDict, ValidationError

from dessim.commands.questions.arguments import ProjectArguments, ReplayArguments
from dessim.commands.questions.question import Arguments, NamedQuestion, Question
from dessim.commands.support.inputs import NamedCluster, NamedJob
from dessim.commands.support.plain import Plain
from dessim.errors import FileError
from dessim.files import read_json, write_text
from dessim.golden.causes import Inputs
from dessim.golden.changes import kept
from dessim.golden.facts import cluster_facts, job_facts
from dessim.wording import in_words

TOLERANCE = 1e-6
"""Relative. An answer is the same on every machine to more digits than that."""
Part = TypeVar("Part", bound=Plain)
_STUDIES = ("project", "replay")


class _PathOp(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    name: str
    what: str
    time_by_bound_s: dict[str, float]


class _Collective(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    bytes: float
    algorithm: str


class _Step(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    strategy: str
    gpus: int
    does_not_fit: str | None
    step_time_s: float | None
    bytes_per_worker: float | None
    memory_bytes: float | None
    bound_by: str
    critical_path: tuple[_PathOp, ...]
    collectives: dict[str, _Collective]


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    schema_version: Literal[1]
    dessim: str
    tolerance: float = pydantic.Field(ge=0, le=1)
    request: dict[str, dict[str, Any]] | None
    inputs: dict[Literal["question", "job", "cluster"], dict[str, str]]
    rows: tuple[_Step, ...] = pydantic.Field(min_length=1)


@dataclass(frozen=True, slots=True)
class Golden:
    """The content of a golden file. `question`: None where it cannot be asked again."""

    path: Path
    tolerance: float
    question: NamedQuestion | None
    inputs: Inputs
    rows: tuple[dict[str, Any], ...]


def write_golden(path: str | Path, question: Question, answer: Mapping[str, Any], tolerance: float = TOLERANCE) -> None:
    """Write a question and its answer, the object of `--json`."""
    path = Path(path)
    inputs = inputs_of(question)
    content = {
        "schema_version": 1,
        "dessim": inputs.version,
        "tolerance": tolerance,
        "request": None if question.named is None else _request(question.named, path.parent),
        "inputs": {"question": inputs.question, "job": inputs.job, "cluster": inputs.cluster},
        "rows": [kept(row) for row in rows_of(answer)],
    }
    write_text(path, json.dumps(content, indent=1, allow_nan=False) + "\n")


def read_golden(path: str | Path) -> Golden:
    """Read a golden file. Raises FileError, which names the key that is wrong."""
    path = Path(path)
    try:
        file = _File.model_validate(read_json(path))
    except ValidationError as error:
        raise _wrong(path, error) from None
    inputs = Inputs(file.dessim, *(file.inputs.get(name, {}) for name in ("question", "job", "cluster")))
    rows = tuple(row.model_dump() for row in file.rows)
    return Golden(path, file.tolerance, _question(path, file.request), inputs, rows)


def rows_of(answer: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    """The steps of an answer: the rows of a projection, or the one of a replay."""
    rows: Sequence[Mapping[str, Any]] = answer.get("projection", [answer])
    return rows


def inputs_of(question: Question) -> Inputs:
    """The inputs of a question as they are now."""
    arguments = question.arguments.to_json().items()
    values = {key: str(value) for key, value in arguments if key not in ("strategies", "gpus")}
    return Inputs(installed_version(), values, job_facts(question.job), cluster_facts(question.cluster))


def installed_version() -> str:
    """The version of dessim; "unknown" where it runs from sources that are not installed."""
    try:
        return version("dessim")
    except PackageNotFoundError:
        return "unknown"


def _request(question: NamedQuestion, folder: Path) -> dict[str, Any]:
    """The question as JSON values, with files relative to `folder`."""

    def relative(name: str) -> str:
        if not Path(name).exists():
            return name
        path = os.path.relpath(name, folder)
        return path if path.startswith("..") else f"./{path}"

    study = "project" if isinstance(question.arguments, ProjectArguments) else "replay"
    return {
        "job": question.job.moved(relative).to_json(),
        "cluster": question.cluster.moved(relative).to_json(),
        study: question.arguments.moved(relative).to_json(),
    }


def _question(path: Path, request: Mapping[str, Mapping[str, Any]] | None) -> NamedQuestion | None:
    """The question, with files relative to the current folder. Raises FileError."""
    if request is None:
        return None
    studies = [key for key in request if key in _STUDIES]
    if len(studies) != 1 or set(request) != {"job", "cluster", studies[0]}:
        raise FileError(path, "request", f"needs job, cluster, and one of {' and '.join(_STUDIES)}")

    def from_here(name: str) -> str:
        is_file = name.startswith((".", "/")) or Path(name).suffix  # shipped names have none
        return str(path.parent / name) if is_file else name

    def part(kind: type[Part], key: str, values: Mapping[str, Any]) -> Part:
        try:
            return kind.from_json(values).moved(from_here)
        except KeyError as unknown:
            raise FileError(path, f"request.{key}", f"unknown key {unknown}") from None
        except ValidationError as error:
            raise _wrong(path, error, f"request.{key}") from None

    study = studies[0]
    arguments: Arguments = (
        part(ProjectArguments, study, request[study])
        if study == "project"
        else part(ReplayArguments, study, request[study])
    )
    job = part(NamedJob, "job", request["job"])
    cluster = part(NamedCluster, "cluster", request["cluster"])
    return NamedQuestion(job, cluster, arguments)


def _wrong(path: Path, error: ValidationError, within: str = "") -> FileError:
    """The first mistake, with its key."""
    first = error.errors(include_url=False)[0]
    where = ".".join([*([within] if within else []), *(str(key) for key in first["loc"])])
    if not where or (where, first["type"]) == ("schema_version", "missing"):
        where = ""
        what = "is no golden file of dessim"
    else:
        what = in_words(first)
    return FileError(path, where, f"{what}; record it anew with --golden")
