"""`dessim collective`: one collective on an idle cluster."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any

import typer

from dessim.cli.options import (
    ClusterOption,
    DrawOption,
    FaultsOption,
    Fold,
    FoldOption,
    JsonOption,
    Network,
    NetworkOption,
    OpArgument,
    TransportOption,
    named,
    parse_sides,
    parse_sizes,
)
from dessim.cli.output import draw_used, guarded, print_json
from dessim.cli.progress import TimeBudgetOption, showing_progress, stop_partial
from dessim.errors import OutOfTime, UsageError


@guarded
def collective(
    op: OpArgument,
    cluster: ClusterOption,
    gpus: Annotated[int, typer.Option(help="Number of GPUs, one rank each.")],
    size: Annotated[
        str, typer.Option(help="Size as nccl-tests counts it, such as 64MiB; several separated by commas.")
    ],
    algorithm: Annotated[
        str, typer.Option(help="Name of an algorithm, such as ring or double_tree, or auto.")
    ] = "auto",
    protocol: Annotated[
        str, typer.Option(help="Protocol of NCCL's algorithms: ll, ll128 or simple; default: NCCL chooses.")
    ] = "",
    channels: Annotated[
        int | None,
        typer.Option(help="Maximum channels of NCCL's rings and trees; default: NCCL chooses.", min=1, max=64),
    ] = None,
    gpus_per_process: Annotated[
        int, typer.Option(help="GPUs that one process drives, nccl-tests' -g; for NCCL transports.", min=1)
    ] = 1,
    chunks: Annotated[
        int | None, typer.Option(help="Chunks of a pipelined algorithm; default: the fastest number.", min=1)
    ] = None,
    root: Annotated[int, typer.Option(help="Root of broadcast, reduce, gather and scatter.", min=0)] = 0,
    dims: Annotated[str, typer.Option(help="Sides of a torus, such as 16x8; default: balanced.")] = "",
    uneven: Annotated[
        int | None, typer.Option(help="all_to_all with random sizes per pair, drawn with this seed.", min=0)
    ] = None,
    tolerance: Annotated[
        float, typer.Option(help="Relative error allowed for a stage of many different flows.", min=0, max=0.1)
    ] = 0.0,
    faults: FaultsOption = None,
    transport: TransportOption = None,
    network: NetworkOption = Network.FLUID,
    fold: FoldOption = Fold.ON,
    time_budget: TimeBudgetOption = None,
    draw: DrawOption = None,
    json: JsonOption = False,
) -> None:
    """Time one collective on an idle cluster.

    Prints the columns of nccl-tests. With an NCCL transport, the names ring, tree, nvls, nvls_tree, collnet and pat are
    NCCL's own where --protocol or --channels is given, or no textbook algorithm has the name.
    """
    from dessim.commands.collective import time_collective
    from dessim.commands.questions.arguments import CollectiveArguments
    from dessim.commands.support.inputs import cluster_of
    from dessim.results.show import print_collectives

    machine = cluster_of(cluster, transport)
    sizes = parse_sizes(size)
    request = CollectiveArguments(
        op=op,
        gpus=gpus,
        size=sizes[0],
        algorithm=algorithm,
        protocol=protocol,
        channels=channels,
        gpus_per_process=gpus_per_process,
        chunks=chunks,
        root=root,
        dims=parse_sides(dims),
        uneven=uneven,
        tolerance=tolerance,
        faults=named(faults),
        network=network.value,
        folding=fold is Fold.ON,
    ).request(machine)
    if draw is not None and len(sizes) > 1:
        raise UsageError(f"--draw {draw}: it shows one run; name one size")
    rows: list[dict[str, Any]] = []
    try:
        with showing_progress(time_budget) as progress:
            for one_size in sizes:
                size_progress = progress.within(len(rows), len(sizes), "sizes")
                measured = time_collective(replace(request, size=one_size), size_progress)
                rows.append(measured.to_json())
    except OutOfTime as cut:
        if rows and not json:
            print_collectives(rows)
        known = {"cluster": machine.name, "op": op, "gpus": gpus, "rows": rows}
        less = "allow a larger --tolerance or fewer GPUs" if uneven is not None else "use fewer GPUs"
        stop_partial(cut, known, json, less, draw)
    if draw is not None:
        draw_used(draw, machine, measured.load)
    if json:
        print_json({"cluster": machine.name, **(rows[0] if len(rows) == 1 else {"rows": rows}), "partial": False})
    else:
        print_collectives(rows)
