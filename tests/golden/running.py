"""Runs the commands of commands.toml and returns their output without anything that depends on place or time."""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
import re
import runpy
import shlex
import sys
import tomllib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

from typer.testing import CliRunner

from dessim.cli.app import app
from tests.forked import forked_from_everything

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
RESULTS = HERE / "results"
PAGE = tomllib.loads((HERE / "commands.toml").read_text("utf-8"))
PROSE = frozenset(PAGE["prose"])
_NOISE = 1e-12
_IGNORED = "ignored"


@dataclass(frozen=True, slots=True)
class Command:
    """An entry of commands.toml."""

    name: str
    run: str
    each: str = ""
    ignore: tuple[str, ...] = ()
    noise: tuple[str, ...] = ()
    slow: bool = False

    @property
    def trains(self) -> bool:
        """Whether it needs torch."""
        return "des_ref" in self.run


COMMANDS = tuple(
    Command(**{key: tuple(value) if isinstance(value, list) else value for key, value in entry.items()})
    for entry in PAGE["command"]
)


def outcome(command: Command) -> Any:
    """Exit code and output of the command; with `each`, of every entry of its list."""
    if not command.each:
        return _one(command, command.run)
    return {entry: _one(command, command.run.replace("{}", entry)) for entry in PAGE["lists"][command.each]}


def _one(command: Command, run: str) -> dict[str, Any]:
    with TemporaryDirectory() as folder, contextlib.chdir(ROOT):
        for name, make in INPUTS.items():
            if f"{{work}}/{name}" in run:
                Path(folder, name).write_text(json.dumps(make()), "utf-8")
        argv = shlex.split(run.replace("{work}", folder))
        code, text = _trained(argv) if command.trains else _simulated(argv)
    printed = _parsed(text.replace(folder, "{work}").replace(str(ROOT), "{root}"))
    return {"exit": code, "printed": _reproducible(command, printed)}


def _simulated(argv: list[str]) -> tuple[int, str]:
    """Run in this process, which has imported everything already."""
    found = CliRunner().invoke(app, argv)
    if found.exception is not None and not isinstance(found.exception, SystemExit):
        raise found.exception
    return found.exit_code, found.stdout


def _trained(argv: list[str]) -> tuple[int, str]:
    """Run `python -m MODULE ...` in this process, and its ranks in processes that are forked with torch imported.

    A rank has one thread, and there is no launcher's environment.
    """
    launcher = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    forked_from_everything()
    shown, code = io.StringIO(), 0
    with patch.dict(os.environ, {"OMP_NUM_THREADS": "1"}), patch.object(sys, "argv", argv[2:]):
        for name in launcher:
            os.environ.pop(name, None)
        with contextlib.redirect_stdout(shown):
            try:
                runpy.run_module(argv[2], run_name="__main__", alter_sys=True)
            except SystemExit as end:
                code = end.code
    if not shown.getvalue():
        raise RuntimeError(f"{shlex.join(argv)} printed nothing")
    return code, shown.getvalue()


def _measured(path: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((ROOT / path).read_text("utf-8"))
    return found


def _collectives(first: int) -> dict[str, Any]:
    """Every third of the measured collectives. tests/test_validation_page.py reads the results of all three parts."""
    measured = _measured("docs/validation.json")
    seconds = measured["collectives"]["seconds"]
    measured["collectives"]["seconds"] = {name: seconds[name] for name in list(seconds)[first::3]}
    return measured


def _steps(first: int, every: int) -> dict[str, Any]:
    """Every n-th measured job (`every`): predicting a step takes a second or two."""
    measured = _measured("studies/lab_steps/measured.json")
    trained = measured["steps"]["trained"]
    measured["steps"]["trained"] = {name: trained[name] for name in list(trained)[first::every]}
    return measured


INPUTS: dict[str, Callable[[], Any]] = {
    "bench.json": lambda: _measured("docs/validation.json")["calibration"]["bench"],
    "collectives.json": partial(_collectives, 0),
    "collectives-2.json": partial(_collectives, 1),
    "collectives-3.json": partial(_collectives, 2),
    "steps.json": partial(_steps, 0, 20),
}
"""Input files in {work}: parts of the measurements in the repository."""


def _parsed(text: str) -> Any:
    """JSON as it is; a help page as its commands and options; a drawing as its elements; None for no output."""
    if text.startswith("Usage:"):
        return _help(text)
    if text.startswith("<svg"):
        return _drawing(text)
    return json.loads(text) if text else None


def _help(text: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        if re.fullmatch(r"\w+:", line):
            found[line[:-1]] = []
        elif found and (entry := re.match(r"  (\S.*?)(?:  |$)", line)):
            found[list(found)[-1]].append(_without_type(entry[1]))
    return found


def _without_type(entry: str) -> str:
    """`-o, --output`, `--spill / --no-spill` or `cluster`, without the type, whose form depends on typer's version."""
    flags = re.findall(r"(?<!\S)--?[\w-]+", entry)
    return " ".join(flags) or entry.split()[0].lower()


def _drawing(text: str) -> dict[str, Any]:
    numbers = re.findall(r"-?\d+\.?\d*", text)
    return {
        "elements": dict(sorted(Counter(re.findall(r"<(\w+)", text)).items())),
        "numbers": len(numbers),
        "sum": math.fsum(map(float, numbers)),
        "labels": re.findall(r"<text[^>]*>([^<]*)", text),
    }


def _reproducible(command: Command, value: Any, path: str = "") -> Any:
    """The value without anything that changes from run to run."""
    if any(fnmatchcase(path, pattern) for pattern in (*PAGE["ignore"], *command.ignore)):
        return _IGNORED
    if any(fnmatchcase(path, pattern) for pattern in command.noise):
        return f"at most {_NOISE:g}" if abs(value) <= _NOISE else f"above {_NOISE:g}"
    if isinstance(value, dict | list):
        kept = {key: _reproducible(command, item, f"{path}.{key}") for key, item in _items(value)}
        return kept if isinstance(value, dict) else list(kept.values())
    return value


def _items(value: dict[str, Any] | list[Any]) -> Iterator[tuple[Any, Any]]:
    yield from value.items() if isinstance(value, dict) else enumerate(value)
