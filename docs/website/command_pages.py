"""docs/commands.md on the site: the help of every command, as the programs print it when the site is built."""

from __future__ import annotations

import io
import os
import runpy
import sys
from collections.abc import Iterator
from contextlib import redirect_stdout
from importlib.util import find_spec
from typing import Any
from unittest import mock

from sphinx.application import Sphinx

PAGE = "docs/commands"
MARKER = "<!-- The site shows the help of each command here. -->"
TRAINER = ("train", "certify", "bench_ops", "bench", "steps", "gpu", "from_torchrec", "torchrec_plan")
_COLUMNS = 96


def _dessim() -> Iterator[tuple[str, str]]:
    """Every command of dessim with its help."""
    import typer

    from dessim.cli.app import app

    def walk(words: tuple[str, ...], command: Any) -> Iterator[tuple[str, str]]:
        widths = {"terminal_width": _COLUMNS, "max_content_width": _COLUMNS}
        yield " ".join(words), command.get_help(command.context_class(command, info_name=" ".join(words), **widths))
        for name, part in getattr(command, "commands", {}).items():
            yield from walk((*words, name), part)

    yield from walk(("dessim",), typer.main.get_command(app))


def _trainer() -> Iterator[tuple[str, str]]:
    """The trainer's programs with their help; none where torch is not installed."""
    if find_spec("torch") is None:
        return
    for module in TRAINER:
        printed = io.StringIO()
        argv, environment = [module, "--help"], {"COLUMNS": str(_COLUMNS)}
        with mock.patch.object(sys, "argv", argv), mock.patch.dict(os.environ, environment), redirect_stdout(printed):
            try:
                runpy.run_module(f"des_ref.{module}", run_name="__main__")
            except SystemExit as end:
                if end.code:
                    raise RuntimeError(f"des_ref.{module} --help: exit code {end.code}") from None
        yield f"python -m des_ref.{module}", printed.getvalue()


def help_of_all() -> str:
    """The help of every program, each under a heading."""
    shown = (*_dessim(), *_trainer())
    return "\n".join(f"## {name}\n\n```text\n{text.strip()}\n```\n" for name, text in shown)


def _fill(app: Sphinx, docname: str, source: list[str]) -> None:
    if docname == PAGE:
        source[0] = source[0].replace(MARKER, help_of_all())


def setup(app: Sphinx) -> dict[str, bool]:
    """Register with Sphinx."""
    app.connect("source-read", _fill)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
