"""The command line: parse, call, print. Results go to stdout, progress and errors to stderr.

Exit codes: 0 ok, 1 failure, 2 usage, 3 a check ran and failed, 130 interrupted.
"""

from __future__ import annotations

from typing import Annotated

import typer

from dessim.cli.calibrate import calibrate
from dessim.cli.check import check
from dessim.cli.collective import collective
from dessim.cli.demo import demo
from dessim.cli.goodput import goodput
from dessim.cli.groups import RootVerbs
from dessim.cli.ids import ids
from dessim.cli.lab import lab
from dessim.cli.model import model
from dessim.cli.plan import plan
from dessim.cli.project import project
from dessim.cli.replay import replay
from dessim.cli.report import report
from dessim.cli.sweep import sweep
from dessim.cli.tenants import tenants
from dessim.cli.topo import topo
from dessim.cli.trace import trace
from dessim.cli.validate import validate

app = typer.Typer(
    cls=RootVerbs,
    help="Decide strategy, fabric and scale for training recommenders with huge sparse layers.",
    epilog="Tab completion in your shell: dessim --install-completion",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(topo, name="topo")
app.add_typer(model, name="model")
app.add_typer(trace, name="trace")
app.add_typer(lab, name="lab")


def _print_version(requested: bool) -> None:
    if requested:
        from importlib.metadata import version

        print(version("dessim"))
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


for command in (
    demo,
    replay,
    project,
    check,
    plan,
    sweep,
    report,
    collective,
    tenants,
    goodput,
    ids,
    calibrate,
    validate,
):
    app.command()(command)


def main() -> None:
    """Run the command line. `dessim.__main__` has prepared the streams and the signals."""
    app(prog_name="dessim")
