"""`dessim trace ...`: recorded traces described and checked."""

from __future__ import annotations

import typer

from dessim.cli.options import JsonOption, TraceArgument
from dessim.cli.output import guarded, print_json, report_check

trace = typer.Typer(help="Recorded traces.", no_args_is_help=True, rich_markup_mode=None)


@trace.command("info")
@guarded
def trace_info(trace: TraceArgument, json: JsonOption = False) -> None:
    """What a trace holds: ranks, steps, and time and bytes by op."""
    from dessim.results.show import print_trace
    from dessim.trace.check import describe_trace
    from dessim.trace.io import load_trace

    found = describe_trace(load_trace(trace))
    if json:
        print_json(found)
    else:
        print_trace(found)


@trace.command("check")
@guarded
def trace_check(trace: TraceArgument, json: JsonOption = False) -> None:
    """Check a trace: nothing missing, collectives match, bytes equal their formulas. Exits 3 when it is wrong."""
    from dessim.trace.check import check_trace
    from dessim.trace.io import load_trace
    from dessim.workload.formula import evaluate

    report_check(str(trace), check_trace(load_trace(trace), evaluate), json)
