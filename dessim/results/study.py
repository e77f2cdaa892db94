"""The last steps of every study: write its page, data and figure, and compare its findings with expected.json.

A study is a folder with a plot.py, an expected.json, and a README.md with marks around the part that plot.py generates.
Studies of measurements on the lab have no expected.json: they report broken bounds.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from operator import eq
from pathlib import Path
from typing import Any

from dessim.errors import CheckFailed, DessimError
from dessim.files import write_json, write_text
from dessim.results.rows import Row
from dessim.results.scatter import predicted_against_measured

MARKS = re.compile(r"(<!-- made by plot.py -->\n).*(<!-- end -->)", re.DOTALL)


def study_parser(about: str, here: Path, quick: str = "", jobs: bool = False) -> argparse.ArgumentParser:
    """The command line that all studies share. `about` is the docstring of plot.py, `here` its folder.

    `quick` is the help of --quick, in studies that have it (`conclude_quick`). `jobs` adds --jobs.
    """
    parser = argparse.ArgumentParser(description=about.splitlines()[0])
    parser.add_argument("--update", action="store_true", help="write the findings to expected.json")
    parser.add_argument("--out", type=_folder, default=here, help="folder for the output (default: the study itself)")
    if jobs:
        cores = os.cpu_count()
        parser.add_argument("--jobs", type=int, default=cores, help="number of processes (default: one per core)")
    if quick:
        parser.add_argument("--quick", action="store_true", help=quick)
    return parser


def _folder(text: str) -> Path:
    if not text or (Path(text).exists() and not Path(text).is_dir()):
        raise argparse.ArgumentTypeError(f"{text!r} is no folder")
    return Path(text)


def page(here: Path, generated: str) -> str:
    """The README of the study in `here`, with `generated` between its marks."""
    return MARKS.sub(lambda marks: marks[1] + generated + marks[2], (here / "README.md").read_text("utf-8"))


def run_lab_study(
    about: str,
    here: Path,
    arguments: Sequence[str] | None,
    compared: Callable[[], tuple[str, Sequence[Row], Sequence[str]]],
) -> int:
    """The program of a study in `here` that predicts stored measurements: parse `arguments`, write, and return 0.

    `compared` returns the generated part of the README, the rows of the figure, and sentences on broken bounds, which
    are printed on stderr. `about` is the docstring of plot.py.
    """
    parser = argparse.ArgumentParser(description=about.splitlines()[0])
    parser.add_argument("--out", type=Path, default=here, help="output folder (default: this study)")
    out = parser.parse_args(arguments).out
    generated, rows, broken = compared()
    write_text(out / "README.md", page(here, generated))
    predicted_against_measured(rows, out / f"{here.name}.svg")
    print(generated, end="")
    for sentence in broken:
        print(sentence, file=sys.stderr)
    return 0


def conclude(
    here: Path,
    options: argparse.Namespace,
    generated: str,
    files: Mapping[str, str],
    found: Any,
    same: Callable[[Any, Any], bool] = eq,
    wrong: str = "",
) -> int:
    """Write `files` (by name) and the README with its `generated` part, print that part, and return the exit code.

    The code is 3 if `wrong` names an error, or if the findings `found` are not the `same` as expected.json; the reason
    is printed on stderr. With --update the findings become the expectation, unless something is wrong.
    """
    for name, text in {"README.md": page(here, generated), **files}.items():
        write_text(options.out / name, text)
    print(generated, end="")
    expected = here / "expected.json"
    if not wrong and options.update:
        write_json(expected, found)
    elif not wrong and not same(found, json.loads(expected.read_text("utf-8"))):
        wrong = "findings differ from expected.json"
    if wrong:
        print(f"{here.name}: {wrong}", file=sys.stderr)
    return CheckFailed.exit_code if wrong else 0


def conclude_quick(here: Path, found: Sequence[Row], is_part: Callable[[Row], bool]) -> int:
    """Compare the rows of a --quick run with its part of expected.json; return 0, or 3 if they differ."""
    if list(found) == [row for row in json.loads((here / "expected.json").read_text("utf-8")) if is_part(row)]:
        print("as recorded")
        return 0
    print(f"{here.name}: findings differ from expected.json", file=sys.stderr)
    return CheckFailed.exit_code


def run_study(main: Callable[[], int], here: Path) -> int:
    """Run `main` and return its exit code; an error that a user can cause becomes one line on stderr."""
    try:
        return main()
    except DessimError as error:
        print(f"{here.name}: error: {error}", file=sys.stderr)
        return error.exit_code
