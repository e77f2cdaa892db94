"""The end of every verb: a JSON object or a verdict on stdout, an error as one line on stderr."""

from __future__ import annotations

import functools
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import typer

from dessim.errors import CheckFailed, DessimError, UsageError, one_line
from dessim.files import Outputs, dump_json, write_text
from dessim.processes import INTERRUPTED, drop_stdout, refusal
from dessim.units import counted

if TYPE_CHECKING:
    from dessim.cluster import Cluster
    from dessim.sim.core.counters import Load

SCHEMA_VERSION = 1  # of every --json object
_OUTPUTS = ("csv", "draw", "figure", "golden", "html", "json", "out", "timeline")
"""Parameters that say where results go, and not what they are."""

Command = TypeVar("Command", bound=Callable[..., None])


def guarded(command: Command) -> Command:
    """Turn every error a user can cause into one line on stderr and the right exit code, without a traceback."""

    @functools.wraps(command)
    def wrapper(*args: Any, **kwargs: Any) -> None:
        with _one_line():
            command(*args, **kwargs)

    return wrapper  # type: ignore[return-value]


@contextmanager
def _one_line() -> Iterator[None]:
    try:
        yield
        sys.stdout.flush()
    except DessimError as error:
        print(f"dessim: {one_line(error)}", file=sys.stderr)
        raise typer.Exit(error.exit_code) from None
    except KeyboardInterrupt:
        print("dessim: interrupted", file=sys.stderr)
        raise typer.Exit(INTERRUPTED) from None
    except BrokenPipeError as error:
        if error.filename:  # a named pipe
            print(f"dessim: {refusal(error)}", file=sys.stderr)
        drop_stdout()
        raise typer.Exit(1) from None
    except (OSError, MemoryError) as error:
        print(f"dessim: {refusal(error)}", file=sys.stderr)
        if isinstance(error, OSError) and not error.filename:
            drop_stdout()
        raise typer.Exit(1) from None


def to_write(context: typer.Context, parameter: typer.CallbackParam, path: Path | None) -> Path | None:
    """Check the file that an option writes, before the command starts (dessim.files.Outputs)."""
    return _to_write(context, parameter, path)


def to_draw(context: typer.Context, parameter: typer.CallbackParam, path: Path | None) -> Path | None:
    """Check the drawing that an option writes."""
    return _to_write(context, parameter, path, ".svg")


def to_plot(context: typer.Context, parameter: typer.CallbackParam, path: Path | None) -> Path | None:
    """Check the figure that an option writes, with its data beside it."""
    return _to_write(context, parameter, path, ".svg", beside=".csv")


def _to_write(
    context: typer.Context, parameter: typer.CallbackParam, path: Path | None, suffix: str = "", beside: str = ""
) -> Path | None:
    if path is not None and not context.resilient_parsing:
        with _one_line():
            outputs = context.meta.setdefault("dessim.outputs", Outputs())
            outputs.add("/".join(parameter.opts), path, suffix, beside)
    return path


def to_read(context: typer.Context, parameter: typer.CallbackParam, path: Path | None) -> Path | None:
    """Require that the file of an option exists, before the command starts."""
    _require_file(context, parameter, path)
    return path


def to_load(context: typer.Context, parameter: typer.CallbackParam, name: str | Path | None) -> str | Path | None:
    """Require the same of an option that also takes shipped names, which have no suffix."""
    if name is not None and Path(name).suffix:
        _require_file(context, parameter, Path(name))
    return name


def _require_file(context: typer.Context, parameter: typer.CallbackParam, path: Path | None) -> None:
    if path is not None and not context.resilient_parsing:
        with _one_line():
            if not path.exists():
                raise DessimError(f"{parameter.opts[0]} {path}: no such file")


def to_fill(context: typer.Context, parameter: typer.CallbackParam, name: str | None) -> Path | None:
    """Check the folder that an option writes into. Of type str, an empty name is not taken for the current folder."""
    path = Path(name) if name is not None else None
    with _one_line():
        if path is not None and (not name or (path.exists() and not path.is_dir())):
            raise UsageError(f"{'/'.join(parameter.opts)} {name!r}: name a folder")
    return path


def command_line(context: typer.Context) -> str:
    """The command as it was asked, with the options that were given, except those that name outputs."""
    words = [context.command_path.partition(" ")[2] or "dessim"]
    for parameter in context.command.params:
        value = context.params.get(parameter.name or "")
        source = context.get_parameter_source(parameter.name or "")
        if source is None or source.name != "COMMANDLINE" or parameter.name in _OUTPUTS or value is None:
            continue
        flag = parameter.opts[0] if parameter.param_type_name == "option" else ""
        if isinstance(value, bool):
            words.append(flag if value else parameter.secondary_opts[0])
        else:
            for item in value if isinstance(value, list | tuple) else [value]:
                words += [flag, str(item)] if flag else [str(item)]
    return shlex.join(["dessim", *words])


def report_check(what: str, problems: list[str], json: bool) -> None:
    """Print the problems that a check of `what` found. Raises CheckFailed if there are any."""
    count = counted(len(problems), "problem")
    if json:
        print_json({"ok": not problems, "problems": problems})
    else:
        for problem in problems:
            print(problem)
        print(f"{what}: {count}" if problems else f"{what}: ok")
    if problems:
        raise CheckFailed(f"{what}: the check found {count}")


def print_json(value: dict[str, Any]) -> None:
    """Print the object of `--json`, with its schema version."""
    print(dump_json({"schema_version": SCHEMA_VERSION, **value}, sys.stdout.encoding))


def draw_used(file: Path, machine: Cluster, load: Load) -> None:
    """Draw the cluster to `file`, each link coloured by its mean use in a run."""
    from dessim.cluster.drawing.draw import draw

    write_text(file, draw(machine, {kind: load.mean(kind) for kind in load.rate}))
