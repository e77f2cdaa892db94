"""`dessim goodput`: nodes that fail, checkpoints, restarts."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from dessim.cli.options import JsonOption
from dessim.cli.output import guarded, print_json
from dessim.errors import UnitError, UsageError
from dessim.units import format_time, parse_time


@guarded
def goodput(
    nodes: Annotated[int, typer.Option(help="Nodes of the job; a failure of any stops it.", min=1)],
    mtbf: Annotated[str, typer.Option(help="Mean time between failures of one node, such as '264 d'.")],
    checkpoint: Annotated[str, typer.Option(help="Time a checkpoint takes, such as '60 s'.")],
    restart: Annotated[str, typer.Option(help="Time from a failure to work again, such as '10 min'.")],
    every: Annotated[
        str | None, typer.Option(help="Work between two checkpoints, such as '30 min'; the best is found either way.")
    ] = None,
    days: Annotated[int, typer.Option(help="Length of a run.", min=1, max=3650)] = 30,
    runs: Annotated[int, typer.Option(help="Runs to average over.", min=2, max=10_000)] = 20,
    seed: Annotated[int, typer.Option(help="Of the failures.", min=0)] = 0,
    json: JsonOption = False,
) -> None:
    """Simulate failures, checkpoints and restarts: what share of the time becomes work, at which interval most."""
    from dessim.commands.goodput import goodput as run
    from dessim.results.tables import print_table, table_of
    from dessim.sim.faults.goodput import Machine

    machine = Machine(nodes, _time(mtbf, "--mtbf"), _time(checkpoint, "--checkpoint"), _time(restart, "--restart"))
    every_s = _time(every, "--every") if every is not None else None
    found = run(machine, days=days, runs=runs, seed=seed, every=every_s).to_json()
    if json:
        print_json(found)
        return
    columns = ("checkpoint", "every", "goodput", "Daly's model", "checkpoints", "lost", "restarts")
    print_table(table_of(columns, [_line(row) for row in found["rows"]], left=("checkpoint",)))
    print(
        f"{nodes:,} nodes: a failure every {format_time(found['between_failures_s'])} on average, "
        f"{found['rows'][0]['failures']:.1f} in {days} days; means of {runs} runs, ± at 95 % confidence"
    )


def _line(row: dict[str, Any]) -> tuple[str, ...]:
    goodput = f"{_share(row['goodput'])} ± {_share(row['goodput_margin_95'])}"
    shares = [_share(row[key]) for key in ("goodput_daly", "checkpoint_share", "lost_share", "restart_share")]
    return row["interval"], format_time(row["interval_s"]), goodput, *shares


def _share(share: float) -> str:
    return f"{100 * share:.2f} %"


def _time(text: str, flag: str) -> float:
    try:
        return parse_time(text)
    except UnitError as error:
        raise UsageError(f"{flag}: {error}") from None
