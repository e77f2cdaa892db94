"""`dessim demo`: every part of dessim once, end to end."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dessim.cli.options import JsonOption
from dessim.cli.output import guarded, print_json, to_fill


@guarded
def demo(
    out: Annotated[
        Path,
        typer.Option("--out", "-o", callback=to_fill, path_type=str, help="Folder for the report and its data."),
    ] = Path("demo-out"),
    ranks: Annotated[int, typer.Option(help="Processes to train with.", min=1, max=64)] = 4,
    data: Annotated[str, typer.Option(help="ml-100k, synthetic, or a file in Criteo's format.")] = "ml-100k",
    strategy: Annotated[str, typer.Option(help="Strategy to train with.")] = "des_all_reduce",
    json: JsonOption = False,
) -> None:
    """Train, certify, replay, project, plan and report, end to end."""
    from dessim.commands.demo import DemoRequest, run_demo
    from dessim.plan.answer import planned

    result = run_demo(DemoRequest(out=out, ranks=ranks, data=data, strategy=strategy), planned, quiet=json)
    if json:
        print_json(result)
