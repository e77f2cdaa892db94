"""`dessim replay`: a recorded trace on a cluster."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from dessim.cli.options import (
    AgainstOption,
    AlgorithmOption,
    ClusterOption,
    Fold,
    FoldOption,
    HtmlOption,
    JsonOption,
    Network,
    NetworkOption,
    TraceArgument,
    TransportOption,
    WhatIfOption,
    check_against,
    parse_algorithms,
)
from dessim.cli.output import command_line, guarded, print_json, to_write
from dessim.cli.progress import TimeBudgetOption, showing_progress, stop_partial
from dessim.errors import OutOfTime


@guarded
def replay(
    context: typer.Context,
    trace: TraceArgument,
    cluster: ClusterOption,
    algorithm: AlgorithmOption = None,
    transport: TransportOption = None,
    network: NetworkOption = Network.FLUID,
    fold: FoldOption = Fold.ON,
    time_budget: TimeBudgetOption = None,
    timeline: Annotated[
        Path | None, typer.Option(callback=to_write, help="Also write a timeline for Perfetto, NAME.json.gz.")
    ] = None,
    what_if: WhatIfOption = None,
    html: HtmlOption = None,
    against: AgainstOption = None,
    json: JsonOption = False,
) -> None:
    """Replay a recorded trace on a cluster.

    Compares the predicted step times with the measured ones.
    """
    from dessim.calibrate.profile import with_profile
    from dessim.cluster import load_cluster
    from dessim.commands.replay import ReplayRequest, counters_of, kept_times, run_replay, timeline_of
    from dessim.commands.what_if import parse_changes, what_if_replayed
    from dessim.results.pages.earlier import load_earlier
    from dessim.results.pages.question import cluster_line
    from dessim.results.pages.render import write_page
    from dessim.results.pages.replay import batch_of, replay_page, trace_line
    from dessim.results.show import print_replay
    from dessim.results.timeline import write_timeline
    from dessim.trace.io import load_trace

    check_against(against, html)
    earlier = load_earlier(against, "replay") if against is not None else None
    loaded = load_trace(trace)
    for problem in loaded.problems:
        print(f"dessim: warning: {trace}: {problem}", file=sys.stderr)
    machine = with_profile(load_cluster(cluster), transport)
    request = ReplayRequest(
        trace=loaded,
        cluster=machine,
        algorithms=parse_algorithms(algorithm),
        folding=fold is Fold.ON,
        network=network.value,
    )
    changes = parse_changes(what_if, machine, recorded=True)
    try:
        with showing_progress(time_budget) as progress:
            result = run_replay(request, progress.within(0, 1 + len(changes)))
            rest = progress.within(1, 1 + len(changes), parts=len(changes))
            what_ifs = what_if_replayed(changes, result, request, rest)
    except OutOfTime as cut:
        header = loaded.header
        known = {"cluster": machine.name, "strategy": header.strategy, "ranks": header.world_size}
        stop_partial(cut, known, json, "replay fewer ranks or steps", timeline, html)
    if timeline is not None:
        write_timeline(timeline, timeline_of(result.record), counters_of(result.record))
    found = result.to_json() | ({"what_if": [change.to_json() for change in what_ifs]} if changes else {})
    if note := kept_times(loaded.header, machine):
        found["note"] = note
    if html is not None:
        question = [
            ("command", command_line(context)),
            ("trace", trace_line(loaded.header)),
            ("cluster", cluster_line(machine)),
            ("batch", batch_of(loaded.header)),
        ]
        write_page(html, replay_page(found, loaded.header.name, result.step_rows(), machine, question, earlier))
    if json:
        print_json({**found, "partial": False})
    else:
        print_replay(found)
