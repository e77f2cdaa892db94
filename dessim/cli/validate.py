"""`dessim validate`: compares predictions with measurements on the lab."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dessim.cli.options import CsvOption, FigureOption, JsonOption, parse_names
from dessim.cli.output import guarded, print_json, to_read, to_write
from dessim.errors import CheckFailed, FileError, UsageError
from dessim.files import read_json


@guarded
def validate(
    lab: Annotated[
        bool, typer.Option("--lab", help="Measure on emulated clusters, built on this machine. Needs root.")
    ] = False,
    published: Annotated[
        bool, typer.Option("--published", help="Predict the published nccl-tests readings of studies/published.")
    ] = False,
    quick: Annotated[
        bool, typer.Option("--quick", help="Only a few cases on a few clusters, in about 3 minutes.")
    ] = False,
    kinds: Annotated[str, typer.Option(help="Kinds of cases, separated by commas; default: all.")] = "",
    splits: Annotated[
        str,
        typer.Option(
            help="calibration, development, held_out, separated by commas; default: calibration and held_out, "
            "or every split in the file of --measured."
        ),
    ] = "",
    only: Annotated[str, typer.Option(help="Only cases whose names contain this text.")] = "",
    measured: Annotated[
        Path | None,
        typer.Option(callback=to_read, help="In place of --lab: predict the measurements that --save wrote."),
    ] = None,
    save: Annotated[
        Path | None, typer.Option(callback=to_write, help="Also write the measurements to this file.")
    ] = None,
    csv: CsvOption = None,
    figure: FigureOption = None,
    json: JsonOption = False,
) -> None:
    """Compare predictions with collectives and steps run for real.

    The exit code is 3 if errors exceed the bounds.
    """
    if published:
        if lab or quick or kinds or splits or measured or save:
            raise UsageError("--published takes --csv, --figure and --json only")
        _published(csv, figure, json)
        return
    from dessim.results.scatter import predicted_against_measured
    from dessim.results.tables import print_table
    from dessim.validate.outcome import DEFAULT_SPLITS, SPLITS, broken_bounds
    from dessim.validate.plan_cases import read_plans
    from dessim.validate.plans import broken_by, choices
    from dessim.validate.report import case_table, choice_table, summary_table, to_json, write_csv
    from dessim.validate.request import bounds_of, read_cases
    from dessim.validate.run import KINDS, ValidationRequest
    from dessim.validate.run import validate as run

    if not lab and measured is None:
        raise UsageError(
            "say what to validate against: --lab runs the cases for real on this machine, --measured FILE predicts "
            "what --save wrote, --published predicts published readings of GPU clusters"
        )
    request = ValidationRequest(
        kinds=parse_names(kinds, "--kinds") if kinds else tuple(KINDS),
        splits=parse_names(splits, "--splits") if splits else SPLITS if measured else DEFAULT_SPLITS,
        quick=quick,
        only=only,
        measured=read_measured(measured) if measured else None,
        save=save,
    )
    try:
        outcomes = run(request, on_status=lambda line: typer.echo(line, err=True))
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        if measured is None:
            raise
        raise FileError(measured, "", f"not measurements that --save wrote: {type(error).__name__}: {error}") from None
    chosen = choices(outcomes)
    problems = broken_bounds(outcomes, bounds_of(read_cases())) + broken_by(chosen, read_plans()["bounds"])
    if csv:
        write_csv(csv, outcomes)
    if figure:
        held_out = [outcome.to_json() for outcome in outcomes if outcome.split == "held_out"]
        if not held_out:
            raise UsageError(f"--figure {figure}: it shows held-out cases, and none were requested")
        predicted_against_measured(held_out, figure)
    if json:
        print_json(to_json(outcomes, chosen, problems))
    else:
        print_table(case_table(outcomes))
        print_table(summary_table(outcomes))
        if chosen:
            print_table(choice_table(chosen))
    if problems:
        raise CheckFailed("; ".join(problems))


def _published(csv: Path | None, figure: Path | None, json: bool) -> None:
    from dessim.files import write_text
    from dessim.results.nccl_residuals import error_table
    from dessim.results.rows import data_csv
    from dessim.results.scatter import predicted_against_measured
    from dessim.results.show import print_text
    from dessim.results.tables import print_table
    from dessim.units import percent
    from dessim.validate.published import broken, default_folder, errors_by, predict_readings, summaries_by_band

    folder = default_folder()
    readings = predict_readings(folder)
    rows = [one.to_json() for one in readings]
    problems = broken(readings, folder)
    if csv:
        write_text(csv, data_csv(rows, tuple(rows[0])))
    if figure:
        predicted_against_measured(rows, figure)
    if json:
        bands = {name: summary.to_json() for name, summary in summaries_by_band(readings).items()}
        print_json({"bands": bands, "cases": rows, "broken": problems})
    else:
        print_table(error_table(errors_by(readings, lambda one: one.cluster), "cluster"))
        print_table(error_table(errors_by(readings, lambda one: one.op)))
        print_table(error_table(errors_by(readings, lambda one: "all")))
        inside = ", ".join(
            f"{name}: {percent(summary.covered)}"
            for name, summary in summaries_by_band(readings).items()
            if summary.covered is not None
        )
        print_text(f"within their 80 % intervals: {inside}")
    if problems:
        raise CheckFailed("; ".join(problems))


def read_measured(path: Path) -> dict[str, object]:
    """The measurements in a file that `--save` wrote. Raises FileError."""
    measured = read_json(path)
    if not isinstance(measured, dict) or "calibration" not in measured:
        raise FileError(path, "", "not measurements that --save wrote: it has no calibration")
    return measured
