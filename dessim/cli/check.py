"""`dessim check`: golden files of projected and replayed steps."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dessim.cli.options import JsonOption, parse_quantity
from dessim.cli.output import guarded, print_json
from dessim.cli.progress import TimeBudgetOption, showing_progress, stop_partial
from dessim.errors import CheckFailed, OutOfTime
from dessim.units import parse_share


@guarded
def check(
    golden: Annotated[list[Path], typer.Argument(help="Files of --golden of project or replay.", show_default=False)],
    within: Annotated[
        str | None, typer.Option(help="Relative change allowed, such as 1%; default: the tolerance of each file.")
    ] = None,
    record: Annotated[
        bool, typer.Option("--record", help="Record what changed as intended, instead of failing.")
    ] = False,
    time_budget: TimeBudgetOption = None,
    json: JsonOption = False,
) -> None:
    """Compare today's answers with golden files.

    Says which steps changed, by which op, and the likely cause; exit code 3 if one did.
    """
    from dessim.golden.check import CheckResult, ask_again, compared, read_askable
    from dessim.golden.file import write_golden
    from dessim.results.show import print_text

    allowed = parse_quantity("--within", within, parse_share) if within is not None else None
    files = [read_askable(path) for path in golden]  # all of them before the first question
    results: list[CheckResult] = []
    answers = []
    try:
        with showing_progress(time_budget) as progress:
            for file in files:
                answers.append(ask_again(file, progress.within(len(results), len(golden), "files")))
                results.append(compared(file, *answers[-1], allowed))
    except OutOfTime as cut:
        stop_partial(cut, {"files": [result.to_json() for result in results]}, json, "check fewer files")
    if record:
        for file, result, (question, answer) in zip(files, results, answers, strict=True):
            if not result.is_unchanged:
                write_golden(file.path, question, answer, file.tolerance)
    failed = [result for result in results if not result.is_unchanged]
    if json:
        shown = [result.to_json() for result in results]
        print_json({"ok": not failed, "recorded": record and bool(failed), "files": shown, "partial": False})
    else:
        for line in (line for result in results for line in str(result).splitlines()):
            print_text(line)
    if failed and not record:
        raise CheckFailed(f"{len(failed)} of {len(results)} golden files differ; --record accepts what was intended")
