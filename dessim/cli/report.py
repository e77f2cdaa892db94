"""`dessim report`: what became slower or faster between two runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dessim.cli.options import CsvOption, HtmlOption, JsonOption, parse_quantity
from dessim.cli.output import command_line, guarded, print_json

if TYPE_CHECKING:
    from dessim.sweep.axes import Plain
    from dessim.sweep.compare import Comparison, Difference

_CSV = ("before_s", "after_s", "change", "mostly", "bound_by_before", "bound_by_after")
"""Columns beside the axes."""
_RUN = "Folder of a sweep, or a file of `dessim project --json`"


@guarded
def report(
    context: typer.Context,
    before: Annotated[Path, typer.Argument(help=f"{_RUN}.", show_default=False)],
    after: Annotated[Path, typer.Argument(help=f"{_RUN}.", show_default=False)],
    beyond: Annotated[str, typer.Option(help="Show steps that changed by more than this.")] = "1%",
    most: Annotated[int, typer.Option(help="Rows to print of each kind; --csv and --json have all.", min=1)] = 20,
    csv: CsvOption = None,
    html: HtmlOption = None,
    json: JsonOption = False,
) -> None:
    """Show what became slower or faster between two runs, and why.

    The exit code is 0 whatever is found.
    """
    from dessim.files import write_text
    from dessim.results.pages.compare import differences_page
    from dessim.results.pages.render import write_page
    from dessim.results.rows import data_csv
    from dessim.sweep.compare import compare
    from dessim.units import parse_share

    share = parse_quantity("--beyond", beyond, parse_share)
    comparison = compare(before, after, share)
    if csv is not None:
        both = [*comparison.slower, *comparison.faster]
        rows = [{**d.case, **{key: value for key, value in d.to_json().items() if key != "case"}} for d in both]
        axes = list(both[0].case) if both else []
        write_text(csv, data_csv(rows, (*axes, *_CSV)))
    result = {"before": str(before), "after": str(after), "beyond": share, **comparison.to_json()}
    if html is not None:
        write_page(html, differences_page(result, before.name, after.name, [("command", command_line(context))]))
    if json:
        print_json(result)
        return
    _print(comparison, most)


def _print(comparison: Comparison, most: int) -> None:
    from dessim.results.show import print_text
    from dessim.units import format_count

    for axis, (one, other) in comparison.changed.items():
        print_text(f"{axis}: {one} -> {other}")
    for title, differences in (("slower", comparison.slower), ("faster", comparison.faster)):
        if differences:
            _table(title, differences, most)
    for case, one, other in comparison.fits[:most]:
        print_text(f"{_text(case)}: {one.replace('_', ' ')} -> {other.replace('_', ' ')}")
    runs = (("only in the first run", comparison.only_before), ("only in the second run", comparison.only_after))
    for title, cases in runs:
        if cases:
            print_text(f"{title}: {len(cases):,}, such as {_text(cases[0])}")
    compared = len(comparison.slower) + len(comparison.faster) + len(comparison.fits) + comparison.same
    print_text(
        f"{format_count(compared)} cases compared: {len(comparison.slower):,} slower, "
        f"{len(comparison.faster):,} faster, {comparison.same:,} the same, {len(comparison.fits):,} with another status"
    )


def _table(title: str, differences: Sequence[Difference], most: int) -> None:
    from dessim.results.fitted_table import FittedTable, Layout
    from dessim.results.show import print_text
    from dessim.results.tables import print_table
    from dessim.units import format_time, percent

    # An axis with one value would only widen the table.
    axes = [axis for axis in differences[0].case if len({d.case[axis] for d in differences}) > 1]
    axes = axes or list(differences[0].case)
    layout = Layout((*axes, "mostly"), {"mostly": 16}, drops=("before", "after"), full_version="--csv or --json")
    table = FittedTable((*axes, "before", "after", "change", "mostly"), layout)
    for d in differences[:most]:
        step = d.step
        times = [format_time(step.before.time_s), format_time(step.now.time_s), percent(step.share, signed=True)]
        seconds = step.by_op_s.get(step.mostly, 0.0)
        grown = f"{step.mostly}, {'+' if seconds > 0 else '−'}{format_time(abs(seconds), 3)}" if step.mostly else ""
        table.add_texts([*(d.case[axis] for axis in axes), *times, grown])
    print_text(f"{title}: {len(differences):,}" + (f", the first {most} of them" if len(differences) > most else ""))
    print_table(table)


def _text(case: Mapping[str, Plain]) -> str:
    return ", ".join(f"{axis} = {value}" for axis, value in case.items())
