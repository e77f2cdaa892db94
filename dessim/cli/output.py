"""The end of every verb: a JSON object or a verdict on stdout, an error as one line on stderr."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import typer

from dessim.errors import CheckFailed, DessimError
from dessim.files import dump_json, write_text

if TYPE_CHECKING:
    from dessim.cluster import Cluster
    from dessim.sim.core.counters import Load

SCHEMA_VERSION = 1  # of every --json object

Command = TypeVar("Command", bound=Callable[..., None])


def guarded(command: Command) -> Command:
    """Turn every error a user can cause into one line on stderr and the right exit code, without a traceback."""

    @functools.wraps(command)
    def wrapper(*args: Any, **kwargs: Any) -> None:
        try:
            command(*args, **kwargs)
        except DessimError as error:
            print(f"dessim: {error}", file=sys.stderr)
            raise typer.Exit(error.exit_code) from None
        except KeyboardInterrupt:
            print("dessim: interrupted", file=sys.stderr)
            raise typer.Exit(130) from None
        except BrokenPipeError:
            # The reader closed the pipe. Without this, Python would report the error again when it flushes at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(1) from None
        except OSError as error:
            where = f"{error.filename}: " if error.filename else ""
            print(f"dessim: {where}{error.strerror or error}", file=sys.stderr)
            raise typer.Exit(1) from None

    return wrapper  # type: ignore[return-value]


def report_check(what: str, problems: list[str], json: bool) -> None:
    """Print the problems that a check of `what` found. Raises CheckFailed if there are any."""
    if json:
        print_json({"ok": not problems, "problems": problems})
    else:
        for problem in problems:
            print(problem)
        print(f"{what}: {_count(problems)}" if problems else f"{what}: ok")
    if problems:
        raise CheckFailed(f"{what}: the check found {_count(problems)}")


def _count(problems: list[str]) -> str:
    return "1 problem" if len(problems) == 1 else f"{len(problems)} problems"


def print_json(value: dict[str, Any]) -> None:
    """Print the object of `--json`, with its schema version."""
    print(dump_json({"schema_version": SCHEMA_VERSION, **value}))


def draw_used(file: Path, machine: Cluster, load: Load) -> None:
    """Draw the cluster to `file`, each link coloured by its mean use in a run."""
    from dessim.cluster.drawing.draw import draw

    write_text(file, draw(machine, {kind: load.mean(kind) for kind in load.rate}))
