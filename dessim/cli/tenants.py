"""`dessim tenants`: several jobs on one fabric."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dessim.cli.options import AlgorithmOption, Fold, FoldOption, JsonOption, TransportOption
from dessim.cli.output import guarded, print_json
from dessim.cli.progress import TimeBudgetOption, showing_progress, stop_partial
from dessim.errors import OutOfTime
from dessim.units import format_time


@guarded
def tenants(
    jobs: Annotated[Path, typer.Argument(help="TOML file of jobs. Format: docs/tenants.md.", show_default=False)],
    algorithm: AlgorithmOption = None,
    transport: TransportOption = None,
    fold: FoldOption = Fold.ON,
    time_budget: TimeBudgetOption = None,
    json: JsonOption = False,
) -> None:
    """Run several jobs on one cluster, and compare with each alone.

    Prints how long each job waits and how much the others slow it down, and how busy the fabric is.
    """
    from dessim.calibrate.profile import with_profile
    from dessim.cluster import load_cluster
    from dessim.commands.questions.arguments import named_algorithms, parse_algorithms
    from dessim.commands.support.tenants_file import load_tenants_file
    from dessim.commands.tenants import TenantsRequest, run_tenants
    from dessim.results.show import print_caveats, print_intervals, print_text
    from dessim.results.tables import console, print_table
    from dessim.results.tenants_tables import jobs_table, utilisation_table

    tenants_file = load_tenants_file(jobs)
    machine = with_profile(load_cluster(tenants_file.cluster), transport)
    request = TenantsRequest(
        tenants=tenants_file,
        cluster=machine,
        algorithms=named_algorithms(parse_algorithms(algorithm or ())),
        folding=fold is Fold.ON,
    )
    try:
        with showing_progress(time_budget) as progress:
            result = run_tenants(request, progress).to_json()
    except OutOfTime as cut:
        stop_partial(cut, {"cluster": machine.name}, json, "give the jobs fewer steps")
    if json:
        print_json({**result, "partial": False})
        return
    table = jobs_table(result["jobs"])
    print_table(table)
    print_table(utilisation_table(result["utilisation"]))
    end = format_time(result["end_s"])
    is_shown = "step alone" not in table.omitted_at(console().width)
    alone = "; step alone: the same job on the same GPUs, no others" if is_shown else ""
    print_text(f"the last job ends after {end} on {machine.name}{alone}")
    print_intervals(result["jobs"])
    print_caveats(result["jobs"])
