"""`dessim ids`: the tables of a model file from the user's own click log."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dessim.cli.options import JsonOption
from dessim.cli.output import guarded, print_json, to_write

LogsArgument = Annotated[
    list[Path],
    typer.Argument(
        help="Criteo's tab-separated lines, also .gz, or .parquet; several files are one log.",
        show_default=False,
        metavar="LOG",
    ),
]
OutOption = Annotated[Path, typer.Option("--out", "-o", callback=to_write, help="TOML file of tables to write.")]


@guarded
def ids(logs: LogsArgument, out: OutOption, json: JsonOption = False) -> None:
    """Measure the tables of a model in your click log.

    Finds rows, ids a sample and law of each table. Reads the log once.
    Fits one half of it, and checks the fit on the other half.
    """
    from dessim.commands.ids import IdsRequest, run_ids
    from dessim.results.show_ids import print_ids

    measured = run_ids(IdsRequest(tuple(logs), out)).to_json()
    if json:
        print_json({**measured, "out": str(out)})
    else:
        print_ids(measured, str(out))
