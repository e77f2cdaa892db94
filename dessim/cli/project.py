"""`dessim project`: predicts a step at other strategies and scales."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from dessim.cli.options import (
    AgainstOption,
    AlgorithmOption,
    ClusterOption,
    CsvOption,
    DeviceOption,
    DrawOption,
    FaultsOption,
    FigureOption,
    Fold,
    FoldOption,
    HtmlOption,
    IdsOption,
    JitterOption,
    JsonOption,
    Launch,
    LaunchOption,
    Network,
    NetworkOption,
    PrecisionOption,
    SeedOption,
    ServerDeviceOption,
    ServersOption,
    ServerThreadsOption,
    StalenessOption,
    TransportOption,
    WhatIfOption,
    check_against,
    parse_algorithms,
    parse_counts,
    parse_names,
)
from dessim.cli.output import command_line, draw_used, guarded, print_json
from dessim.cli.progress import TimeBudgetOption, showing_progress, stop_partial
from dessim.commands.support.server_defaults import AUTO, SERVER_DEVICE
from dessim.errors import OutOfTime, UsageError


@guarded
def project(
    context: typer.Context,
    cluster: ClusterOption,
    strategy: Annotated[
        str | None,
        typer.Option(help="Strategies to compare, separated by commas; with options: ps_sync+hot_rows=1000."),
    ] = None,
    gpus: Annotated[str | None, typer.Option(help="Numbers of GPUs, separated by commas.")] = None,
    trace: Annotated[
        Path | None, typer.Argument(help="Trace folder, NAME.trace; or give --model.", show_default=False)
    ] = None,
    model: Annotated[str | None, typer.Option(help="Model file, or a shipped model such as deepfm.")] = None,
    ids: IdsOption = None,
    plan: Annotated[
        Path | None,
        typer.Option(help="Plan file of `dessim plan`, or of TorchRec (.json), in place of, or beside, strategies."),
    ] = None,
    batch_per_worker: Annotated[int | None, typer.Option(help="Samples per GPU and step.", min=1)] = None,
    spill: Annotated[
        bool, typer.Option("--spill", help="Keep rows that do not fit a GPU in the memory of its host.")
    ] = False,
    pipeline: Annotated[bool, typer.Option(help="Prefetch the ids of the next step, as the trainer does.")] = True,
    codec: Annotated[
        str | None,
        typer.Option(
            help="Codec of values on the wire, such as bf16 or activations=top_k:0.25,dense=fp6: docs/codecs.md."
        ),
    ] = None,
    precision: PrecisionOption = None,
    device: DeviceOption = None,
    launch: LaunchOption = Launch.EAGER,
    servers: ServersOption = AUTO,
    server_device: ServerDeviceOption = SERVER_DEVICE,
    server_threads: ServerThreadsOption = 1,
    staleness: StalenessOption = None,
    jitter: JitterOption = 0.0,
    seed: SeedOption = 0,
    faults: FaultsOption = None,
    algorithm: AlgorithmOption = None,
    transport: TransportOption = None,
    network: NetworkOption = Network.FLUID,
    fold: FoldOption = Fold.ON,
    time_budget: TimeBudgetOption = None,
    what_if: WhatIfOption = None,
    csv: CsvOption = None,
    figure: FigureOption = None,
    draw: DrawOption = None,
    html: HtmlOption = None,
    against: AgainstOption = None,
    json: JsonOption = False,
) -> None:
    """Predict a step at other strategies and scales.

    The job is taken from a recorded trace or from a model file.
    """
    from dessim.commands.project import run_projection
    from dessim.commands.support.dedicated_servers import parse_servers
    from dessim.commands.support.inputs import at_precision, cluster_of, model_of
    from dessim.commands.support.project_request import ProjectRequest
    from dessim.commands.support.projection import Projection
    from dessim.commands.what_if import parse_changes, what_if_projected
    from dessim.results.figures import throughput
    from dessim.results.pages.earlier import load_earlier
    from dessim.results.pages.projection import projection_page
    from dessim.results.pages.question import asked
    from dessim.results.pages.render import write_page
    from dessim.results.rows import fitting
    from dessim.results.show import print_projection
    from dessim.results.tables import write_projection_csv
    from dessim.sim.faults.fault_file import load_faults
    from dessim.trace.io import load_trace
    from dessim.workload.codecs import parse_codecs
    from dessim.workload.plan_file import read_plan
    from dessim.workload.scale import Job
    from dessim.workload.strategies import spec_of
    from dessim.workload.torchrec_plan import SUFFIX as TORCHREC
    from dessim.workload.torchrec_plan import read_torchrec

    if (trace is None) == (model is None):
        raise UsageError("give either a trace folder or --model, not both")
    if plan is None and (strategy is None or gpus is None):
        raise UsageError("name strategies and numbers of GPUs with --strategy and --gpus, or give a --plan")
    check_against(against, html)
    if ids is not None and model is None:
        raise UsageError("--ids needs --model: a trace has counted its ids")
    if trace is not None:
        recorded = Job.of_trace(load_trace(trace))
        job = replace(recorded, model=at_precision(recorded.model, precision))
    else:
        job = Job.of_model(model_of(model or "", ids, precision))
    machine = cluster_of(cluster, transport, device)
    earlier = load_earlier(against, "project") if against is not None else None
    planned = None
    if plan is not None and plan.suffix == TORCHREC:
        planned = read_torchrec(plan, job.model, batch_per_worker, machine)
    elif plan is not None:
        planned = read_plan(plan, job.model, machine)
    if planned is not None:
        planned.require(str(plan), parse_counts(gpus) if gpus is not None else [], batch_per_worker)
    if planned is not None and planned.codecs and codec is not None:
        raise UsageError(f"--codec {codec}: {plan} names codecs {planned.codecs}; leave --codec out, or plan again")
    rows: list[dict[str, Any]] = []
    known = {"cluster": machine.name, "model": job.model.name, "projection": rows}
    changes = parse_changes(what_if, machine)
    request = ProjectRequest(
        job=job,
        cluster=machine,
        strategies=[
            *(parse_names(strategy, "--strategy") if strategy is not None else ()),
            *(planned.strategies if planned is not None else ()),
        ],
        gpus=[planned.gpus] if planned is not None else parse_counts(gpus or ""),
        batch_per_worker=planned.batch_per_worker if planned is not None else batch_per_worker,
        composed=planned.composed(job.model) if planned is not None else (),
        algorithms=parse_algorithms(algorithm),
        folding=fold is Fold.ON,
        network=network.value,
        spill=spill,
        pipeline=pipeline,
        graphs=launch is Launch.GRAPH,
        servers=parse_servers(servers, server_device, server_threads, staleness, jitter, seed),
        codecs=parse_codecs(codec) if codec is not None else None,
        scenario=load_faults(faults, machine) if faults is not None else None,
    )
    if draw is not None and request.servers is not None and any(spec_of(n).has_servers for n in request.strategies):
        raise UsageError(f"--draw {draw}: the use of links is not recorded with dedicated servers; add --servers ideal")
    if draw is not None and (len(request.strategies) + len(request.composed)) * len(request.gpus) > 1:
        raise UsageError(f"--draw {draw}: it shows one run; name one strategy and one number of GPUs")
    try:
        with showing_progress(time_budget) as progress:
            base_progress = progress.within(0, 1 + len(changes))
            found = run_projection(request, base_progress, on_row=lambda row: rows.append(row.to_json()))
            rest = progress.within(1, 1 + len(changes), parts=len(changes))
            for row, what_ifs in zip(rows, what_if_projected(changes, found, request, rest), strict=True):
                row |= {"what_if": [what_if.to_json() for what_if in what_ifs]} if changes else {}
    except OutOfTime as cut:
        if rows and not json:
            print_projection(rows)
        stop_partial(cut, known, json, "name fewer GPUs or strategies", csv, figure, draw, html)
    if csv is not None:
        write_projection_csv(csv, rows)
    if figure is not None:
        throughput(fitting(rows), figure)
    if draw is not None:
        (drawn,) = found
        assert isinstance(drawn, Projection)  # a misfit alone is an error
        draw_used(draw, machine, drawn.record.load)
    if html is not None:
        question = asked(command_line(context), job.model, machine, rows)
        write_page(html, projection_page(known, machine, question, earlier))
    if json:
        print_json({**known, "partial": False})
    else:
        print_projection(rows)
