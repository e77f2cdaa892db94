"""`dessim goodput`: the useful share of the time of a job whose nodes fail."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from dessim.cli.options import JsonOption, parse_quantity
from dessim.cli.output import guarded, print_json
from dessim.cli.progress import TimeBudgetOption, showing_progress, stop_partial
from dessim.errors import OutOfTime
from dessim.units import format_duration, parse_time


@guarded
def goodput(
    nodes: Annotated[int, typer.Option(help="Nodes of the job; a failure of any of them stops it.", min=1)],
    mtbf: Annotated[str, typer.Option(help="Mean time between failures of one node, such as '264 d'.")],
    checkpoint: Annotated[str, typer.Option(help="Time a checkpoint takes, such as '60 s'.")],
    restart: Annotated[str, typer.Option(help="Time from a failure until the job works again, such as '10 min'.")],
    every: Annotated[
        str | None, typer.Option(help="Also evaluate this work between two checkpoints, such as '30 min'.")
    ] = None,
    days: Annotated[int, typer.Option(help="Length of a run, in days.", min=1, max=3650)] = 30,
    runs: Annotated[int, typer.Option(help="Runs to average over.", min=2, max=10_000)] = 20,
    seed: Annotated[int, typer.Option(help="Seed of the failures.", min=0)] = 0,
    time_budget: TimeBudgetOption = None,
    json: JsonOption = False,
) -> None:
    """Find the checkpoint interval that loses least to failures.

    Simulates failures, checkpoints and restarts, and compares the useful share of the time with Daly's model.
    """
    from dessim.commands.goodput import goodput as run
    from dessim.results.show import print_text
    from dessim.results.tables import print_table, table_of
    from dessim.sim.faults.goodput import Machine

    machine = Machine(
        nodes,
        parse_quantity("--mtbf", mtbf, parse_time),
        parse_quantity("--checkpoint", checkpoint, parse_time),
        parse_quantity("--restart", restart, parse_time),
    )
    every_s = parse_quantity("--every", every, parse_time) if every is not None else None
    try:
        with showing_progress(time_budget) as progress:
            result = run(machine, days, runs, seed=seed, every=every_s, progress=progress).to_json()
    except OutOfTime as cut:
        stop_partial(cut, {"nodes": nodes, "days": days, "runs": runs}, json, "lower --days or --runs")
    if json:
        print_json({**result, "partial": False})
        return
    columns = ("choice of interval", "interval", "goodput", "Daly's model", "checkpoints", "lost work", "restarts")
    print_table(table_of(columns, [_line(row) for row in result["rows"]], drops=("Daly's model", "restarts")))
    print_text(
        f"{nodes:,} nodes: a failure every {format_duration(result['between_failures_s'])} on average, "
        f"{result['rows'][0]['failures']:.1f} in {days} days; means of {runs} runs, ± is the 95 % confidence interval"
    )


def _line(row: dict[str, Any]) -> tuple[str, ...]:
    goodput = f"{_share(row['goodput'])} ± {_share(row['goodput_margin_95'])}"
    shares = [_share(row[key]) for key in ("goodput_daly", "checkpoint_share", "lost_share", "restart_share")]
    return row["interval"], format_duration(row["interval_s"]), goodput, *shares


def _share(share: float) -> str:
    return f"{100 * share:.2f} %"
