"""The command line: parse, call, print. Results go to stdout, progress and errors to stderr.

Exit codes: 0 ok, 1 failure, 2 usage, 3 a check ran and failed, 130 interrupted.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dessim.cli_goodput import goodput
from dessim.cli_options import (
    AlgorithmOption,
    ClusterOption,
    DrawOption,
    FaultsOption,
    Fold,
    FoldOption,
    JitterOption,
    JsonOption,
    Op,
    SeedOption,
    ServerDeviceOption,
    ServersOption,
    ServerThreadsOption,
    StalenessOption,
    TraceArgument,
    WhatIfOption,
    parse_algorithms,
    parse_counts,
    parse_names,
    parse_sides,
    parse_sizes,
)
from dessim.cli_output import guarded, print_json
from dessim.cli_tenants import tenants
from dessim.cli_topo import topo
from dessim.cli_trace import trace
from dessim.cli_watch import TimeBudgetOption, stop_partial, watching
from dessim.errors import OutOfTime, UsageError
from dessim.files import write_text
from dessim.trace.schema import Collective

if TYPE_CHECKING:
    from dessim.cluster import Cluster
    from dessim.sim.counters import Load

app = typer.Typer(
    help="Decide strategy, fabric and scale for training recommenders with huge sparse layers.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(topo, name="topo")
app.add_typer(trace, name="trace")


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(version("dessim"))
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it.")] = False,
) -> None:
    pass


@app.command()
@guarded
def demo(
    out: Annotated[Path, typer.Option(help="Folder for the report and everything behind it.")] = Path("demo-out"),
    ranks: Annotated[int, typer.Option(help="Processes to train with.", min=1, max=64)] = 4,
    data: Annotated[str, typer.Option(help="ml-100k, synthetic, or a Criteo-format file.")] = "ml-100k",
    strategy: Annotated[str, typer.Option(help="How to train, by name.")] = "des_all_reduce",
    json: JsonOption = False,
) -> None:
    """Train, certify, capture, replay, project and report, end to end."""
    from dessim.verbs.demo import run_demo

    result = run_demo(out, ranks, data, strategy, quiet=json)
    if json:
        print_json(result)


@app.command()
@guarded
def replay(
    trace: TraceArgument,
    cluster: ClusterOption,
    algorithm: AlgorithmOption = None,
    fold: FoldOption = Fold.ON,
    time_budget: TimeBudgetOption = None,
    timeline: Annotated[Path | None, typer.Option(help="Also write a timeline that Perfetto opens.")] = None,
    what_if: WhatIfOption = None,
    json: JsonOption = False,
) -> None:
    """Replay a recorded trace on a cluster and hold it against the measured steps."""
    from dessim.cluster import load_cluster
    from dessim.results.show import print_replay
    from dessim.results.timeline import write_timeline
    from dessim.trace.io import load_trace
    from dessim.verbs.replay import counters_of, timeline_of
    from dessim.verbs.replay import replay as run
    from dessim.verbs.what_if import parse_changes, what_if_replayed

    loaded = load_trace(trace)
    for problem in loaded.problems:
        print(f"dessim: warning: {trace}: {problem}", file=sys.stderr)
    machine, algorithms = load_cluster(cluster), parse_algorithms(algorithm)
    changes = parse_changes(what_if, machine, recorded=True)
    try:
        with watching(time_budget) as watch:
            result = run(loaded, machine, algorithms, fold is Fold.ON, watch.within(0, 1 + len(changes)))
            rest = watch.within(1, 1 + len(changes), parts=len(changes))
            asked = what_if_replayed(changes, result, loaded, machine, algorithms, fold is Fold.ON, rest)
    except OutOfTime as cut:
        header = loaded.header
        known = {"cluster": machine.name, "strategy": header.strategy, "ranks": header.world_size}
        stop_partial(cut, known, json, "replay fewer ranks or steps", timeline)
    if timeline is not None:
        write_timeline(timeline, timeline_of(result.record), counters_of(result.record))
    found = result.to_json() | ({"what_if": [change.to_json() for change in asked]} if changes else {})
    if json:
        print_json({**found, "partial": False})
    else:
        print_replay(found)


@app.command()
@guarded
def project(
    strategy: Annotated[str, typer.Option(help="Strategies to compare, separated by commas.")],
    cluster: ClusterOption,
    gpus: Annotated[str, typer.Option(help="Numbers of GPUs, separated by commas.")],
    trace: Annotated[Path | None, typer.Argument(help="Trace folder; or give --model.", show_default=False)] = None,
    model: Annotated[str | None, typer.Option(help="Model file, or a shipped model such as deepfm.")] = None,
    batch_per_worker: Annotated[int | None, typer.Option(help="Samples a GPU a step.", min=1)] = None,
    spill: Annotated[
        bool, typer.Option("--spill", help="Leave rows that do not fit a GPU in its host's memory.")
    ] = False,
    pipeline: Annotated[
        bool, typer.Option(help="Send the next step's ids while a step runs, as the trainer does.")
    ] = True,
    servers: ServersOption = None,
    server_device: ServerDeviceOption = "epyc-9654",
    server_threads: ServerThreadsOption = 1,
    staleness: StalenessOption = None,
    jitter: JitterOption = 0.0,
    seed: SeedOption = 0,
    faults: FaultsOption = None,
    algorithm: AlgorithmOption = None,
    fold: FoldOption = Fold.ON,
    time_budget: TimeBudgetOption = None,
    what_if: WhatIfOption = None,
    csv: Annotated[Path | None, typer.Option(help="Also write the rows as CSV.")] = None,
    figure: Annotated[Path | None, typer.Option(help="Also draw throughput against GPUs, as SVG.")] = None,
    draw: DrawOption = None,
    json: JsonOption = False,
) -> None:
    """Project a step to other strategies and scales, from a trace or a model file."""
    from dessim.cluster import load_cluster
    from dessim.results.figures import throughput
    from dessim.results.rows import fitting
    from dessim.results.show import print_projection
    from dessim.results.tables import write_projection_csv
    from dessim.sim.fault_file import load_faults
    from dessim.trace.io import load_trace
    from dessim.verbs.project import Projection
    from dessim.verbs.project import project as run
    from dessim.verbs.served import parse_servers
    from dessim.verbs.what_if import parse_changes, what_if_projected
    from dessim.workload.model import load_model
    from dessim.workload.scale import Job

    if (trace is None) == (model is None):
        raise UsageError("give either a trace folder or --model, not both")
    job = Job.of_trace(load_trace(trace)) if trace is not None else Job.of_model(load_model(model or ""))
    machine = load_cluster(cluster)
    rows: list[dict[str, Any]] = []
    known = {"cluster": machine.name, "model": job.model.name, "projection": rows}
    changes = parse_changes(what_if, machine)
    asked: dict[str, Any] = {
        "job": job,
        "cluster": machine,
        "strategies": parse_names(strategy, "--strategy"),
        "gpus": parse_counts(gpus),
        "batch_per_worker": batch_per_worker,
        "algorithms": parse_algorithms(algorithm),
        "folding": fold is Fold.ON,
        "spill": spill,
        "pipeline": pipeline,
        "servers": parse_servers(servers, server_device, server_threads, staleness, jitter, seed),
        "scenario": load_faults(faults, machine) if faults is not None else None,
    }
    if draw is not None and servers is not None:
        raise UsageError(
            "--draw and --servers: the use of links is not recorded with servers; leave one of the two out"
        )
    if draw is not None and len(asked["strategies"]) * len(asked["gpus"]) > 1:
        raise UsageError(f"--draw {draw}: it shows one run; name one strategy and one number of GPUs")
    try:
        with watching(time_budget) as watch:
            found = run(**asked, watch=watch.within(0, 1 + len(changes)), each=lambda row: rows.append(row.to_json()))
            rest = watch.within(1, 1 + len(changes), parts=len(changes))
            for row, bought in zip(rows, what_if_projected(changes, found, watch=rest, **asked), strict=True):
                row |= {"what_if": [change.to_json() for change in bought]} if changes else {}
    except OutOfTime as cut:
        if rows and not json:
            print_projection(rows)
        stop_partial(cut, known, json, "name fewer GPUs or strategies", csv, figure, draw)
    if csv is not None:
        write_projection_csv(csv, rows)
    if figure is not None:
        throughput(fitting(rows), figure)
    if draw is not None:
        (drawn,) = found
        assert isinstance(drawn, Projection)  # a misfit alone is an error
        _draw_used(draw, machine, drawn.record.load)
    if json:
        print_json({**known, "partial": False})
    else:
        print_projection(rows)


@app.command()
@guarded
def collective(
    op: Annotated[Op, typer.Argument(help="The operation.", show_default=False)],
    cluster: ClusterOption,
    gpus: Annotated[int, typer.Option(help="Ranks, one a GPU.")],
    size: Annotated[str, typer.Option(help="S as nccl-tests counts it, such as 64MiB; several by commas.")],
    algorithm: Annotated[str, typer.Option(help="A name such as ring or double_tree, or auto.")] = "auto",
    chunks: Annotated[
        int | None, typer.Option(help="Chunks of a pipeline; default: so that messages are 512 KiB.", min=1)
    ] = None,
    root: Annotated[int, typer.Option(help="Root of broadcast, reduce, gather and scatter.", min=0)] = 0,
    dims: Annotated[str, typer.Option(help="Sides of a torus, such as 16x8; default: balanced.")] = "",
    uneven: Annotated[int | None, typer.Option(help="Seed: all_to_all with a random size a pair.", min=0)] = None,
    tolerance: Annotated[
        float, typer.Option(help="Share of its time that a stage of many different flows may be off.", min=0, max=0.1)
    ] = 0.0,
    faults: FaultsOption = None,
    fold: FoldOption = Fold.ON,
    time_budget: TimeBudgetOption = None,
    draw: DrawOption = None,
    json: JsonOption = False,
) -> None:
    """Time one collective on an idle cluster, in nccl-tests' columns."""
    from dessim.cluster import load_cluster
    from dessim.collectives import Options
    from dessim.results.show import print_collectives
    from dessim.sim.fault_file import load_faults
    from dessim.verbs.collective import run_collective

    machine = load_cluster(cluster)
    sizes = parse_sizes(size)
    options, kind = Options(chunks, root, parse_sides(dims)), Collective(op.value)
    scenario = load_faults(faults, machine) if faults is not None else None
    if draw is not None and len(sizes) > 1:
        raise UsageError(f"--draw {draw}: it shows one run; name one size")
    rows: list[dict[str, Any]] = []
    try:
        with watching(time_budget) as watch:
            for one in sizes:
                part = watch.within(len(rows), len(sizes), "sizes")
                measured = run_collective(
                    machine, kind, gpus, one, algorithm, fold is Fold.ON, options, uneven, tolerance, part, scenario
                )
                rows.append(measured.to_json())
    except OutOfTime as cut:
        if rows and not json:
            print_collectives(rows)
        known = {"cluster": machine.name, "op": op.value, "gpus": gpus, "rows": rows}
        less = "allow a larger --tolerance or fewer GPUs" if uneven is not None else "use fewer GPUs"
        stop_partial(cut, known, json, less, draw)
    if draw is not None:
        _draw_used(draw, machine, measured.load)
    if json:
        print_json({"cluster": machine.name, **(rows[0] if len(rows) == 1 else {"rows": rows}), "partial": False})
    else:
        print_collectives(rows)


def _draw_used(file: Path, machine: Cluster, load: Load) -> None:
    """The cluster with its links coloured by what a run made of them."""
    from dessim.cluster.draw import draw

    write_text(file, draw(machine, {kind: load.mean(kind) for kind in load.rate}))


app.command()(tenants)
app.command()(goodput)


def main() -> None:
    """Entry point of the `dessim` program."""
    # The solver's matrices are small: threads of the linear algebra library cost more than they bring. Read at import.
    for library in ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(library, "1")
    app(prog_name="dessim")
