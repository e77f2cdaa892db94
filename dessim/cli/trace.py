"""`dessim trace ...`: describes and checks recorded traces, and imports profiles of other tools."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dessim.cli.groups import Verbs
from dessim.cli.options import ClusterOption, JsonOption, TraceArgument, TransportOption, parse_quantity
from dessim.cli.output import guarded, print_json, report_check
from dessim.units import counted

trace = typer.Typer(
    cls=Verbs, help="Describe, check and import recorded traces.", no_args_is_help=True, rich_markup_mode=None
)


@trace.command("info")
@guarded
def trace_info(trace: TraceArgument, json: JsonOption = False) -> None:
    """Show a trace's ranks, steps, and time and bytes per op.

    For collectives, time waiting for other ranks is separate from the transfer.
    """
    from dessim.results.show import print_trace
    from dessim.trace.describe import describe_trace
    from dessim.trace.io import load_trace

    described = describe_trace(load_trace(trace))
    if json:
        print_json(described)
    else:
        print_trace(described)


@trace.command("check")
@guarded
def trace_check(trace: TraceArgument, json: JsonOption = False) -> None:
    """Check that a trace is complete and consistent.

    Collectives must match across ranks, bytes must equal their formulas, and FLOPs and memory must be near theirs. The
    exit code is 3 if the check fails.
    """
    from dessim.trace.check import check_trace
    from dessim.trace.io import load_trace
    from dessim.workload.formula import evaluate

    report_check(str(trace), check_trace(load_trace(trace), evaluate), json)


@trace.command("collectives")
@guarded
def trace_collectives(
    trace: TraceArgument,
    cluster: ClusterOption,
    bound: Annotated[str, typer.Option(help="Largest median error allowed; above it the exit code is 3.")] = "15 %",
    transport: TransportOption = None,
    json: JsonOption = False,
) -> None:
    """Predict each recorded collective, and print how far off it is.

    With an NCCL transport nothing is fitted to the trace. With another one, rates are those of the cluster; the cost of
    a call and a factor on latencies are fitted to all other collectives.
    """
    from dessim.calibrate.profile import with_profile
    from dessim.cluster import load_cluster
    from dessim.commands.trace_collectives import predict_collectives
    from dessim.errors import CheckFailed
    from dessim.results.show import print_predicted_trace
    from dessim.trace.io import load_trace
    from dessim.units import parse_share, percent

    most = parse_quantity("--bound", bound, parse_share)
    predicted = predict_collectives(load_trace(trace), with_profile(load_cluster(cluster), transport))
    if json:
        print_json({**predicted.to_json(), "bound": most})
    else:
        print_predicted_trace(predicted.to_json())
    if predicted.median_error > most:
        raise CheckFailed(f"{trace}: median error {percent(predicted.median_error)} is more than {percent(most)}")


@trace.command("import")
@guarded
def trace_import(
    profiles: Annotated[
        list[Path],
        typer.Argument(
            help="PyTorch profiles (prof.export_chrome_trace, .json or .json.gz), one per rank, or folders of them.",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Trace folder to write, NAME.trace.")],
    json: JsonOption = False,
) -> None:
    """Import PyTorch profiles of all ranks as a trace.

    The job may use NCCL or gloo. Prints what the profiles lack for a complete trace.
    """
    from dessim.errors import UsageError
    from dessim.results.show import print_text
    from dessim.trace.importers.kineto import import_kineto
    from dessim.trace.io import check_free, write_trace

    name = out.name.removesuffix(".trace")
    if not name or not out.name.endswith(".trace"):
        raise UsageError(f"--out {out}: name the folder NAME.trace")
    check_free(out)
    imported = import_kineto(profiles, name)
    write_trace(out, imported.header, imported.ranks)
    header = imported.header
    summary = {
        "trace": str(out),
        "ranks": header.world_size,
        "backend": header.backend,
        "device": header.device,
        "steps": list(header.recorded_steps),
        "ops": sum(len(ops) for ops in imported.ranks),
        "lacking": list(imported.lacking),
    }
    if json:
        print_json(summary)
        return
    where = f"{counted(header.world_size, 'rank')} ({header.backend} on {header.device})"
    ops = counted(sum(map(len, imported.ranks)), "op")
    print_text(f"{out}: {where}, {counted(len(header.recorded_steps), 'step')}, {ops}")
    for sentence in imported.lacking:
        print_text(f"lacking: {sentence}")
