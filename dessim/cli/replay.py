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
    GoldenOption,
    HtmlOption,
    JsonOption,
    Network,
    NetworkOption,
    TraceArgument,
    TransportOption,
    WhatIfOption,
    earlier_run,
    named,
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
    golden: GoldenOption = None,
    html: HtmlOption = None,
    against: AgainstOption = None,
    json: JsonOption = False,
) -> None:
    """Replay a recorded trace on a cluster.

    Compares the predicted step times with the measured ones.
    """
    from dessim.commands.questions.arguments import ReplayArguments, parse_algorithms
    from dessim.commands.questions.question import NamedQuestion, Question
    from dessim.commands.questions.what_if import replay_object
    from dessim.commands.replay import counters_of, timeline_of
    from dessim.commands.support.inputs import NamedCluster, NamedJob
    from dessim.golden.file import write_golden
    from dessim.results.show import print_replay
    from dessim.results.timeline import write_timeline

    arguments = ReplayArguments(
        what_if=what_if,
        algorithms=parse_algorithms(algorithm or ()),
        network=network.value,
        folding=fold is Fold.ON,
    )
    earlier = earlier_run(against, html, "replay")
    named_job = NamedJob(trace=named(trace))
    named_cluster = NamedCluster(name=cluster, transport=named(transport))
    loaded = named_job.load_trace()
    for problem in loaded.problems:
        print(f"dessim: warning: {trace}: {problem}", file=sys.stderr)
    machine = named_cluster.load()
    request = arguments.request(loaded, machine)
    changes = arguments.changes(machine)
    try:
        with showing_progress(time_budget) as progress:
            result, values = replay_object(request, changes, progress)
    except OutOfTime as cut:
        header = loaded.header
        known = {"cluster": machine.name, "strategy": header.strategy, "ranks": header.world_size}
        stop_partial(cut, known, json, "replay fewer ranks or steps", timeline, golden, html)
    if golden is not None:
        named_question = NamedQuestion(named_job, named_cluster, arguments)
        write_golden(golden, Question(loaded, machine, arguments, named_question), values)
    if timeline is not None:
        write_timeline(timeline, timeline_of(result.record), counters_of(result.record))
    if html is not None:
        from dessim.results.pages.question import cluster_line
        from dessim.results.pages.render import write_page
        from dessim.results.pages.replay import batch_of, replay_page, trace_line

        question = [
            ("command", command_line(context)),
            ("trace", trace_line(loaded.header)),
            ("cluster", cluster_line(machine)),
            ("batch", batch_of(loaded.header)),
        ]
        write_page(
            html,
            replay_page(
                values, loaded.header.name, result.step_rows(), cluster=machine, asked=question, earlier=earlier
            ),
        )
    if json:
        print_json({**values, "partial": False})
    else:
        print_replay(values)
