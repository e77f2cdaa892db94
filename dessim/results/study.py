"""How a study ends: its page, data and figure are written, and its findings held against expected.json.

A study is a folder with a plot.py, a README.md with marks around what plot.py makes of it, and an expected.json.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Mapping
from operator import eq
from pathlib import Path
from typing import Any

from dessim.errors import CheckFailed, DessimError
from dessim.files import write_json, write_text

MARKS = re.compile(r"(<!-- made by plot.py -->\n).*(<!-- end -->)", re.DOTALL)


def study_parser(about: str, here: Path) -> argparse.ArgumentParser:
    """The command line that all studies share; `about`: the docstring of plot.py, `here`: its folder."""
    parser = argparse.ArgumentParser(description=about.splitlines()[0])
    parser.add_argument("--update", action="store_true", help="make what was found the expectation")
    parser.add_argument("--out", type=Path, default=here, help="folder for what is written (default: here)")
    return parser


def page(here: Path, made: str) -> str:
    """The README of the study in `here`, with `made` between its marks."""
    return MARKS.sub(lambda marks: marks[1] + made + marks[2], (here / "README.md").read_text("utf-8"))


def conclude(
    here: Path,
    options: argparse.Namespace,
    made: str,
    files: Mapping[str, str],
    found: Any,
    same: Callable[[Any, Any], bool] = eq,
    wrong: str = "",
) -> int:
    """Write `files`, by name, and the README with `made` between its marks; print `made`; return the exit code.

    That is 3 when something is `wrong`, which is said on stderr and keeps expected.json as it is, or when `found` is
    not the `same` as expected.json.
    """
    for name, text in {"README.md": page(here, made), **files}.items():
        write_text(options.out / name, text)
    print(made, end="")
    expected = here / "expected.json"
    if not wrong and options.update:
        write_json(expected, found)
    elif not wrong and not same(found, json.loads(expected.read_text("utf-8"))):
        wrong = "findings differ from expected.json"
    if wrong:
        print(f"{here.name}: {wrong}", file=sys.stderr)
    return CheckFailed.exit_code if wrong else 0


def run_study(main: Callable[[], int], here: Path) -> int:
    """`main`, with one line on stderr for what a user can cause."""
    try:
        return main()
    except DessimError as error:
        print(f"{here.name}: error: {error}", file=sys.stderr)
        return error.exit_code
