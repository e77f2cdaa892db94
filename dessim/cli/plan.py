"""`dessim plan`: which strategy for which table, on how many GPUs, and at what cost."""

from __future__ import annotations

from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from dessim.cli.options import (
    AgainstOption,
    ClusterOption,
    DeviceOption,
    FigureOption,
    HtmlOption,
    IdsOption,
    JsonOption,
    Launch,
    LaunchOption,
    Network,
    NetworkOption,
    PrecisionOption,
    TransportOption,
    earlier_run,
    named,
    parse_batch,
    parse_counts,
    parse_names,
    parse_quantity,
    parse_scales,
)
from dessim.cli.output import command_line, guarded, print_json, to_load, to_read, to_write
from dessim.cli.progress import TimeBudgetOption, showing_progress, stop_partial
from dessim.errors import OutOfTime, UsageError
from dessim.units import parse_price, parse_throughput


class Format(StrEnum):
    """Formats of plan files."""

    DESSIM = "dessim"
    TORCHREC = "torchrec"


@guarded
def plan(
    context: typer.Context,
    model: Annotated[str, typer.Option(callback=to_load, help="Model file, or a shipped model such as deepfm.")],
    cluster: ClusterOption,
    gpus: Annotated[str, typer.Option(help="Numbers of GPUs, such as 8,64; or a range that doubles, 8..1024.")],
    batch: Annotated[
        str, typer.Option(help="Samples a step of all GPUs, such as 65536; or of each, such as 1024/gpu.")
    ],
    ids: IdsOption = None,
    target: Annotated[
        str | None, typer.Option(help='Choose the fewest GPUs that reach this, such as "20 M samples/s".')
    ] = None,
    budget: Annotated[
        str | None, typer.Option(help='Leave out what costs more, such as "400 $/h"; with --prices.')
    ] = None,
    prices: Annotated[
        Path | None,
        typer.Option(callback=to_read, help="TOML file with the price of a GPU or a node: docs/planner.md."),
    ] = None,
    keep: Annotated[
        Path | None,
        typer.Option(callback=to_read, help="TOML file of tables whose strategy is fixed: docs/planner.md."),
    ] = None,
    without: Annotated[
        str | None,
        typer.Option(help="Strategies that no table may have, such as column_wise; spilt: rows in the host's memory."),
    ] = None,
    codecs: Annotated[
        str | None,
        typer.Option(
            help="Codecs that values may have on the wire, such as fp32,bf16 or fp32,dense=bf16; all but fp32 change "
            "what is trained.  [default: fp32]"
        ),
    ] = None,
    replicas: Annotated[
        str | None,
        typer.Option(
            help="Numbers of replicas of the tables to try, such as 2,4; 1: none.  [default: blocks of whole servers, "
            "up to 64 GPUs]"
        ),
    ] = None,
    precision: PrecisionOption = None,
    device: DeviceOption = None,
    launch: LaunchOption = Launch.EAGER,
    network: NetworkOption = Network.FLUID,
    transport: TransportOption = None,
    from_: Annotated[
        Path | None,
        typer.Option("--from", callback=to_read, help="TorchRec plan (.json) to price beside ours: docs/planner.md."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", callback=to_write, help="Plan file to write, for --plan of project and des_ref.train."
        ),
    ] = None,
    to: Annotated[
        Format, typer.Option("--to", help="Format of the plan file; torchrec leaves out what TorchRec does not have.")
    ] = Format.DESSIM,
    time_budget: TimeBudgetOption = None,
    figure: FigureOption = None,
    html: HtmlOption = None,
    against: AgainstOption = None,
    json: JsonOption = False,
) -> None:
    """Choose a strategy and owners for each table.

    Prices every table by formula, places the tables by load, and simulates the best plans.
    """
    from dessim.commands.support.inputs import cluster_of, model_of
    from dessim.plan.arguments import PlanArguments
    from dessim.plan.scales import run_plan
    from dessim.results.plan_figure import plan_figures
    from dessim.results.show_plan import chosen_scale, print_plan
    from dessim.workload.plan_file import write_plan
    from dessim.workload.scale import Job
    from dessim.workload.torchrec_plan import read_torchrec, write_torchrec

    earlier = earlier_run(against, html, "plan")
    for_torchrec = to is Format.TORCHREC
    if for_torchrec and out is None:
        raise UsageError("--to torchrec: name the file to write with -o, such as -o plan.json")
    samples, per_gpu = parse_batch(batch)
    arguments = PlanArguments(
        gpus=tuple(parse_scales(gpus)),
        batch=samples,
        per_gpu=per_gpu,
        target=parse_quantity("--target", target, parse_throughput) if target is not None else None,
        budget=parse_quantity("--budget", budget, parse_price) if budget is not None else None,
        prices=named(prices),
        keep=named(keep),
        without=tuple(parse_names(without, "--without")) if without is not None else (),
        codecs=codecs,
        replicas=tuple(parse_counts(replicas, "--replicas")) if replicas is not None else None,
        graphs=launch is Launch.GRAPH,
        network=network.value,
        for_torchrec=for_torchrec,
    )
    arguments.check()
    sized = model_of(model, ids, precision)
    machine = cluster_of(cluster, transport, device)
    given = {from_.name: read_torchrec(from_, sized, cluster=machine)} if from_ is not None else {}
    for file, theirs in given.items():
        if theirs.gpus not in arguments.gpus:
            raise UsageError(f"--from {file}: is for {theirs.gpus:,} GPUs; name them with --gpus")
    request = replace(arguments.request(Job.of_model(sized), machine), given=given)
    ready: list[dict[str, Any]] = []
    known = {"cluster": machine.name, "model": sized.name, "scales": ready}
    try:
        with showing_progress(time_budget) as progress:
            planned = run_plan(request, progress, on_scale=lambda scale: ready.append(scale.to_json()))
    except OutOfTime as cut:
        stop_partial(cut, known, json, "name fewer GPUs", None, figure, html)
    result = {"cluster": machine.name, "model": sized.name, **planned.to_json()}
    names = [table.name for table in sized.tables]
    if figure is not None:
        plan_figures(result["scales"], chosen_scale(result), figure)
    if html is not None:
        from dessim.results.pages.plan import plan_page
        from dessim.results.pages.question import asked
        from dessim.results.pages.render import write_page

        question = asked(command_line(context), sized, machine, result["scales"])
        write_page(html, plan_page(result, names, machine, question, earlier))
    notes: list[str] = []
    if out is not None and for_torchrec:
        notes = write_torchrec(out, planned.job_plan(), sized, machine.node_of(range(planned.job_plan().gpus)))
    elif out is not None:
        write_plan(out, planned.job_plan(), sized, machine)
    if json:
        print_json({**result, "out": str(out) if out is not None else None, "notes": notes})
    else:
        print_plan(result, names, out, notes)
