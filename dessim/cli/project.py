"""`dessim project`: predicts a step at other strategies and scales."""

from __future__ import annotations

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
    GoldenOption,
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
    earlier_run,
    named,
    parse_counts,
    parse_names,
)
from dessim.cli.output import command_line, draw_used, guarded, print_json, to_load, to_read
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
    model: Annotated[
        str | None, typer.Option(callback=to_load, help="Model file, or a shipped model such as deepfm.")
    ] = None,
    ids: IdsOption = None,
    plan: Annotated[
        Path | None,
        typer.Option(
            callback=to_read,
            help="Plan file of `dessim plan`, or of TorchRec (.json), in place of, or beside, strategies.",
        ),
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
    golden: GoldenOption = None,
    html: HtmlOption = None,
    against: AgainstOption = None,
    json: JsonOption = False,
) -> None:
    """Predict a step at other strategies and scales.

    The job is taken from a recorded trace or from a model file.
    """
    from dessim.commands.questions.arguments import ProjectArguments, parse_algorithms
    from dessim.commands.questions.question import NamedQuestion, Question
    from dessim.commands.questions.what_if import project_rows
    from dessim.commands.support.inputs import NamedCluster, NamedJob
    from dessim.commands.support.projection import Projection
    from dessim.golden.file import write_golden
    from dessim.results.figures import throughput
    from dessim.results.rows import fitting
    from dessim.results.show import print_projection
    from dessim.results.tables import write_projection_csv
    from dessim.workload.strategies import spec_of

    arguments = ProjectArguments(
        strategies=tuple(parse_names(strategy, "--strategy")) if strategy is not None else (),
        gpus=tuple(parse_counts(gpus)) if gpus is not None else (),
        batch_per_worker=batch_per_worker,
        plan=named(plan),
        what_if=what_if,
        codecs=codec,
        servers=servers,
        server_device=server_device,
        server_threads=server_threads,
        staleness=staleness,
        jitter=jitter,
        seed=seed,
        faults=named(faults),
        algorithms=parse_algorithms(algorithm or ()),
        spill=spill,
        pipeline=pipeline,
        graphs=launch is Launch.GRAPH,
        network=network.value,
        folding=fold is Fold.ON,
    )
    arguments.check()
    earlier = earlier_run(against, html, "project")
    named_job = NamedJob(model=model, trace=named(trace), ids=named(ids), precision=precision)
    named_cluster = NamedCluster(name=cluster, transport=named(transport), device=device)
    job = named_job.load()
    machine = named_cluster.load()
    request = arguments.request(job, machine)
    changes = arguments.changes(machine)
    rows: list[dict[str, Any]] = []
    known = {"cluster": machine.name, "model": job.model.name, "projection": rows}
    if draw is not None and request.servers is not None and any(spec_of(n).has_servers for n in request.strategies):
        raise UsageError(f"--draw {draw}: the use of links is not recorded with dedicated servers; add --servers ideal")
    if draw is not None and (len(request.strategies) + len(request.composed)) * len(request.gpus) > 1:
        raise UsageError(f"--draw {draw}: it shows one run; name one strategy and one number of GPUs")
    try:
        with showing_progress(time_budget) as progress:
            found, _ = project_rows(request, changes, progress, on_row=rows.append)
    except OutOfTime as cut:
        if rows and not json:
            print_projection(rows)
        stop_partial(cut, known, json, "name fewer GPUs or strategies", csv, figure, draw, golden, html)
    if golden is not None:
        named_question = NamedQuestion(named_job, named_cluster, arguments)
        write_golden(golden, Question(job, machine, arguments, named_question), known)
    if csv is not None:
        write_projection_csv(csv, rows)
    if figure is not None:
        throughput(fitting(rows), figure)
    if draw is not None:
        (drawn,) = found
        assert isinstance(drawn, Projection)  # a misfit alone is an error
        draw_used(draw, machine, drawn.record.load)
    if html is not None:
        from dessim.results.pages.projection import projection_page
        from dessim.results.pages.question import asked
        from dessim.results.pages.render import write_page

        question = asked(command_line(context), job.model, machine, rows)
        write_page(html, projection_page(known, machine, question, earlier))
    if json:
        print_json({**known, "partial": False})
    else:
        print_projection(rows)
