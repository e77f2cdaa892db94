"""`dessim plan`: which strategy for which table, on how many GPUs, and at what cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
    check_against,
    parse_batch,
    parse_counts,
    parse_names,
    parse_quantity,
    parse_scales,
)
from dessim.cli.output import command_line, guarded, print_json, to_write
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
    model: Annotated[str, typer.Option(help="Model file, or a shipped model such as deepfm.")],
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
        Path | None, typer.Option(help="TOML file with the price of a GPU or a node: docs/planner.md.")
    ] = None,
    keep: Annotated[
        Path | None, typer.Option(help="TOML file of tables whose strategy is fixed: docs/planner.md.")
    ] = None,
    without: Annotated[str | None, typer.Option(help="Strategies that no table may have, such as column_wise.")] = None,
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
        Path | None, typer.Option("--from", help="TorchRec plan (.json) to price beside ours: docs/planner.md.")
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
    from dessim.plan.coded import NONE, parse_allowed
    from dessim.plan.pinned import load_pinned
    from dessim.plan.prices import load_prices
    from dessim.plan.scales import PlanRequest, run_plan
    from dessim.results.pages.earlier import load_earlier
    from dessim.results.pages.plan import plan_page
    from dessim.results.pages.question import asked
    from dessim.results.pages.render import write_page
    from dessim.results.plan_figure import plan_figures
    from dessim.results.show_plan import chosen_scale, print_plan
    from dessim.workload.plan_file import write_plan
    from dessim.workload.scale import Job
    from dessim.workload.torchrec_plan import EXPRESSIBLE, read_torchrec, write_torchrec

    check_against(against, html)
    earlier = load_earlier(against, "plan") if against is not None else None
    for_torchrec = to is Format.TORCHREC
    if for_torchrec and out is None:
        raise UsageError("--to torchrec: name the file to write with -o, such as -o plan.json")
    allowed = parse_allowed(codecs) if codecs is not None else NONE
    if for_torchrec and allowed != NONE:
        raise UsageError("--codecs: TorchRec's plans name no codecs; leave --codecs or --to out")
    counts = parse_counts(replicas, "--replicas") if replicas is not None else None
    if for_torchrec and counts not in (None, [1]):
        raise UsageError("--replicas: TorchRec's plans name no replicas; leave --replicas or --to out")
    scales = parse_scales(gpus)
    if counts is not None:
        _check_replicas(counts, scales, allowed)
    samples, per_gpu = parse_batch(batch)
    aimed = parse_quantity("--target", target, parse_throughput) if target is not None else None
    limit = parse_quantity("--budget", budget, parse_price) if budget is not None else None
    sized = model_of(model, ids, precision)
    machine = cluster_of(cluster, transport, device)
    given = {from_.name: read_torchrec(from_, sized, cluster=machine)} if from_ is not None else {}
    for file, theirs in given.items():
        if theirs.gpus not in scales:
            raise UsageError(f"--from {file}: is for {theirs.gpus:,} GPUs; name them with --gpus")
    strategies = _strategies(without)
    request = PlanRequest(
        job=Job.of_model(sized),
        cluster=machine,
        gpus=scales,
        batch=samples,
        per_gpu=per_gpu,
        target=aimed,
        budget=limit,
        prices=load_prices(prices) if prices is not None else None,
        pinned=load_pinned(keep, sized) if keep is not None else {},
        graphs=launch is Launch.GRAPH,
        network=network.value,
        strategies=[name for name in strategies if name in EXPRESSIBLE] if for_torchrec else strategies,
        by_table=for_torchrec,
        given=given,
        codecs=allowed,
        replicas=counts,
    )
    ready: list[dict[str, Any]] = []
    known = {"cluster": machine.name, "model": sized.name, "scales": ready}
    try:
        with showing_progress(time_budget) as progress:
            found = run_plan(request, progress, on_scale=lambda scale: ready.append(scale.to_json()))
    except OutOfTime as cut:
        stop_partial(cut, known, json, "name fewer GPUs", None, figure, html)
    result = {"cluster": machine.name, "model": sized.name, **found.to_json()}
    names = [table.name for table in sized.tables]
    if figure is not None:
        plan_figures(result["scales"], chosen_scale(result), figure)
    if html is not None:
        question = asked(command_line(context), sized, machine, result["scales"])
        write_page(html, plan_page(result, names, machine, question, earlier))
    notes: list[str] = []
    if out is not None and for_torchrec:
        notes = write_torchrec(out, found.job_plan(), sized, machine.node_of(range(found.job_plan().gpus)))
    elif out is not None:
        write_plan(out, found.job_plan(), sized, machine)
    if json:
        print_json({**result, "out": str(out) if out is not None else None, "notes": notes})
    else:
        print_plan(result, names, out, notes)


def _strategies(without: str | None) -> tuple[str, ...]:
    """The strategies that are left. Raises UsageError for an unknown one, and if none is left."""
    from dessim.workload.plan_file import TABLE_STRATEGIES

    left_out = parse_names(without, "--without") if without is not None else []
    for name in left_out:
        if name not in TABLE_STRATEGIES:
            raise UsageError(f"--without {name}: choose from {', '.join(TABLE_STRATEGIES)}")
    left = tuple(name for name in TABLE_STRATEGIES if name not in left_out)
    if not left:
        raise UsageError(f"--without {without}: leaves no strategy for tables")
    return left


def _check_replicas(counts: Sequence[int], scales: Sequence[int], allowed: Mapping[Any, Sequence[str]]) -> None:
    """Raises UsageError for numbers of replicas that no plan can have. `allowed`: codecs of each kind of values."""
    from dessim.plan.coded import EXACT

    for count in counts:
        if all(gpus % count for gpus in scales):
            raise UsageError(f"--replicas {count}: no number of --gpus divides evenly into {count} blocks")
    if max(counts) > 1 and any(EXACT not in codecs for codecs in allowed.values()):
        raise UsageError(f"--replicas: plans with replicas are tried without codecs; add {EXACT} to --codecs")
