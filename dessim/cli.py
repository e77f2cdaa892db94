"""The command line: parse, call, print. Results go to stdout, progress and errors to stderr.

Exit codes: 0 ok, 1 failure, 2 usage, 3 a check ran and failed, 130 interrupted.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from dessim.errors import CheckFailed, DessimError, UnitError, UsageError
from dessim.files import dump_json, write_text
from dessim.trace.schema import Collective
from dessim.units import parse_size

SCHEMA_VERSION = 1  # of every --json object

app = typer.Typer(
    help="Decide strategy, fabric and scale for training recommenders with huge sparse layers.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
topo = typer.Typer(help="Cluster descriptions.", no_args_is_help=True, rich_markup_mode=None)
trace = typer.Typer(help="Recorded traces.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(topo, name="topo")
app.add_typer(trace, name="trace")

Command = TypeVar("Command", bound=Callable[..., None])


class Fold(StrEnum):
    """Whether identical flows are simulated once; the answer is the same."""

    ON = "on"
    OFF = "off"


class Op(StrEnum):
    """Collectives that can be run on their own."""

    ALL_REDUCE = "all_reduce"
    REDUCE_SCATTER = "reduce_scatter"
    ALL_GATHER = "all_gather"
    ALL_TO_ALL = "all_to_all"
    BROADCAST = "broadcast"
    REDUCE = "reduce"
    GATHER = "gather"
    SCATTER = "scatter"
    SEND_RECV = "send_recv"


ClusterOption = Annotated[str, typer.Option("--cluster", help="Topology file, or a name from `dessim topo list`.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
FoldOption = Annotated[Fold, typer.Option("--fold", help="Simulate identical flows once (same answer either way).")]
AlgorithmOption = Annotated[
    list[str] | None, typer.Option("--algorithm", help="OP=NAME fixes a collective's algorithm; may be repeated.")
]
TraceArgument = Annotated[Path, typer.Argument(help="Trace folder, NAME.trace.", show_default=False)]


def _guarded(command: Command) -> Command:
    """One clear line and the right exit code instead of a traceback for everything a user can cause."""

    @functools.wraps(command)
    def wrapper(*args: Any, **kwargs: Any) -> None:
        try:
            command(*args, **kwargs)
        except DessimError as error:
            print(f"dessim: {error}", file=sys.stderr)
            raise typer.Exit(error.exit_code) from None
        except KeyboardInterrupt:
            print("dessim: interrupted", file=sys.stderr)
            raise typer.Exit(130) from None
        except BrokenPipeError:
            # The reader has seen enough; keep Python from complaining when it flushes at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(1) from None
        except OSError as error:
            where = f"{error.filename}: " if error.filename else ""
            print(f"dessim: {where}{error.strerror or error}", file=sys.stderr)
            raise typer.Exit(1) from None

    return wrapper  # type: ignore[return-value]


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
@_guarded
def demo(
    out: Annotated[Path, typer.Option(help="Folder for the report and everything behind it.")] = Path("demo-out"),
    ranks: Annotated[int, typer.Option(help="Processes to train with.", min=1, max=64)] = 4,
    data: Annotated[str, typer.Option(help="ml-100k, synthetic, or a Criteo-format file.")] = "ml-100k",
    json: JsonOption = False,
) -> None:
    """Train, certify, capture, replay, project and report, end to end."""
    from dessim.verbs.demo import run_demo

    result = run_demo(out, ranks, data, quiet=json)
    if json:
        _print_json(result)


@app.command()
@_guarded
def replay(
    trace: TraceArgument,
    cluster: ClusterOption,
    algorithm: AlgorithmOption = None,
    fold: FoldOption = Fold.ON,
    timeline: Annotated[Path | None, typer.Option(help="Also write a timeline that Perfetto opens.")] = None,
    json: JsonOption = False,
) -> None:
    """Replay a recorded trace on a cluster and hold it against the measured steps."""
    from dessim.cluster import load_cluster
    from dessim.results.show import print_replay
    from dessim.results.timeline import write_timeline
    from dessim.trace.io import load_trace
    from dessim.verbs.replay import replay as run
    from dessim.verbs.replay import timeline_of

    loaded = load_trace(trace)
    for problem in loaded.problems:
        print(f"dessim: warning: {trace}: {problem}", file=sys.stderr)
    result = run(loaded, load_cluster(cluster), _algorithms(algorithm), fold is Fold.ON)
    if timeline is not None:
        write_timeline(timeline, timeline_of(result.record))
    if json:
        _print_json(result.to_json())
    else:
        print_replay(result.to_json())


@app.command()
@_guarded
def project(
    strategy: Annotated[str, typer.Option(help="Strategies to compare, separated by commas.")],
    cluster: ClusterOption,
    gpus: Annotated[str, typer.Option(help="Numbers of GPUs, separated by commas.")],
    trace: Annotated[Path | None, typer.Argument(help="Trace folder; or give --model.", show_default=False)] = None,
    model: Annotated[str | None, typer.Option(help="Model file, or a shipped model such as deepfm.")] = None,
    batch_per_worker: Annotated[int | None, typer.Option(help="Samples a GPU a step.", min=1)] = None,
    algorithm: AlgorithmOption = None,
    fold: FoldOption = Fold.ON,
    csv: Annotated[Path | None, typer.Option(help="Also write the rows as CSV.")] = None,
    figure: Annotated[Path | None, typer.Option(help="Also draw throughput against GPUs, as SVG.")] = None,
    json: JsonOption = False,
) -> None:
    """Project a step to other strategies and scales, from a trace or a model file."""
    from dessim.cluster import load_cluster
    from dessim.results.figures import throughput
    from dessim.results.show import print_projection
    from dessim.results.tables import write_projection_csv
    from dessim.trace.io import load_trace
    from dessim.verbs.project import project as run
    from dessim.workload.model import load_model
    from dessim.workload.scale import Job

    if (trace is None) == (model is None):
        raise UsageError("give either a trace folder or --model, not both")
    job = Job.of_trace(load_trace(trace)) if trace is not None else Job.of_model(load_model(model or ""))
    machine = load_cluster(cluster)
    rows = [
        row.to_json()
        for row in run(
            job,
            machine,
            _names(strategy, "--strategy"),
            _counts(gpus),
            batch_per_worker,
            _algorithms(algorithm),
            folding=fold is Fold.ON,
        )
    ]
    if csv is not None:
        write_projection_csv(csv, rows)
    if figure is not None:
        throughput(rows, figure)
    if json:
        _print_json({"cluster": machine.name, "model": job.model.name, "projection": rows})
    else:
        print_projection(rows)


@app.command()
@_guarded
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
    fold: FoldOption = Fold.ON,
    json: JsonOption = False,
) -> None:
    """Time one collective on an idle cluster, in nccl-tests' columns."""
    from dessim.cluster import load_cluster
    from dessim.collectives import Options
    from dessim.results.tables import collective_table, print_table
    from dessim.verbs.collective import run_collective

    machine = load_cluster(cluster)
    sizes = [_size(text) for text in _names(size, "--size")]
    options, kind = Options(chunks, root, _sides(dims)), Collective(op.value)
    rows = [
        run_collective(machine, kind, gpus, one, algorithm, fold is Fold.ON, options, uneven, tolerance).to_json()
        for one in sizes
    ]
    if json:
        _print_json({"cluster": machine.name, **rows[0]} if len(rows) == 1 else {"cluster": machine.name, "rows": rows})
    else:
        print_table(collective_table(rows))
        for row in rows:
            print(
                f"{row['size_bytes']} B: {row['algorithm']}, bound by {row['bound_by']}; {row['events']} events, "
                f"{row['flow_colours']} flow and {row['link_colours']} link colours, {row['wall_s']:.2f} s wall, "
                f"{row['peak_rss_MiB']:.0f} MiB"
            )


@topo.command("list")
@_guarded
def topo_list(json: JsonOption = False) -> None:
    """Shipped cluster descriptions."""
    from dessim.cluster import list_topologies, load_cluster
    from dessim.results.tables import print_table, table_of

    clusters = {name: load_cluster(path) for name, path in list_topologies().items()}
    if json:
        rows = [
            {"name": n, "gpus": c.n_gpus, "nodes": c.n_nodes, "kind": c.kind, "gpu": c.gpu.name, "file": str(c.path)}
            for n, c in clusters.items()
        ]
        _print_json({"topologies": rows})
    else:
        cells = [(n, f"{c.n_gpus:,}", c.kind, c.gpu.name, c.description) for n, c in clusters.items()]
        print_table(table_of(("name", "GPUs", "kind", "GPU", "what"), cells, left=("kind", "GPU", "what")))


@topo.command("show")
@_guarded
def topo_show(cluster: Annotated[str, typer.Argument(show_default=False)], json: JsonOption = False) -> None:
    """What a cluster has: counts, rates, oversubscription, bisection."""
    from dessim.cluster import describe, load_cluster
    from dessim.results.show import print_description

    found = describe(load_cluster(cluster))
    if json:
        _print_json(found)
    else:
        print_description(found)


@topo.command("check")
@_guarded
def topo_check(cluster: Annotated[str, typer.Argument(show_default=False)], json: JsonOption = False) -> None:
    """Check a description: connected, sane rates, routes that are real paths. Exits 3 when it is wrong."""
    from dessim.cluster import check, load_cluster

    machine = load_cluster(cluster)
    _report(machine.name, check(machine), json)


@topo.command("draw")
@_guarded
def topo_draw(
    cluster: Annotated[str, typer.Argument(show_default=False)],
    out: Annotated[Path | None, typer.Option(help="SVG file to write; without it the SVG goes to stdout.")] = None,
) -> None:
    """Draw a cluster as SVG: layers, link rates, one node in full, the rest folded with counts."""
    from dessim.cluster import load_cluster
    from dessim.cluster.draw import draw

    svg = draw(load_cluster(cluster))
    if out is None:
        sys.stdout.write(svg)
    else:
        write_text(out, svg)


@trace.command("info")
@_guarded
def trace_info(trace: TraceArgument, json: JsonOption = False) -> None:
    """What a trace holds: ranks, steps, and time and bytes by op."""
    from dessim.results.show import print_trace
    from dessim.trace.check import describe_trace
    from dessim.trace.io import load_trace

    found = describe_trace(load_trace(trace))
    if json:
        _print_json(found)
    else:
        print_trace(found)


@trace.command("check")
@_guarded
def trace_check(trace: TraceArgument, json: JsonOption = False) -> None:
    """Check a trace: nothing missing, collectives match, bytes equal their formulas. Exits 3 when it is wrong."""
    from dessim.trace.check import check_trace
    from dessim.trace.io import load_trace
    from dessim.workload.formula import evaluate

    _report(str(trace), check_trace(load_trace(trace), evaluate), json)


def _report(what: str, problems: list[str], json: bool) -> None:
    if json:
        _print_json({"ok": not problems, "problems": problems})
    else:
        for problem in problems:
            print(problem)
        print(f"{what}: {len(problems)} problems" if problems else f"{what}: ok")
    if problems:
        raise CheckFailed(f"{what}: the check found {len(problems)} problems")


def _print_json(value: dict[str, Any]) -> None:
    print(dump_json({"schema_version": SCHEMA_VERSION, **value}))


def _names(text: str, flag: str) -> list[str]:
    names = [part.strip() for part in text.split(",")]
    if not all(names):
        raise UsageError(f"{flag} {text!r}: an empty entry; separate entries by single commas")
    return names


def _counts(text: str) -> list[int]:
    counts = []
    for part in _names(text, "--gpus"):
        if not part.isdecimal() or int(part) < 1:
            raise UsageError(f"--gpus {part!r}: write whole numbers of at least 1, such as 8,64,512")
        counts.append(int(part))
    return counts


def _sides(text: str) -> tuple[int, ...]:
    sides = text.split("x") if text else []
    if not all(side.isdecimal() and int(side) > 0 for side in sides):
        raise UsageError(f"--dims {text!r}: write the sides of a torus, such as 16x8 or 4x4x4")
    return tuple(int(side) for side in sides)


def _size(text: str) -> float:
    try:
        return parse_size(text)
    except UnitError as error:
        raise UsageError(f"--size: {error}") from None


def _algorithms(texts: list[str] | None) -> dict[Collective, str]:
    chosen = {}
    for text in texts or ():
        op, equals, name = text.partition("=")
        if not equals or op not in list(Op):
            raise UsageError(f"--algorithm {text!r}: write OP=NAME, such as all_reduce=ring")
        chosen[Collective(op)] = name
    return chosen


def main() -> None:
    """Entry point of the `dessim` program."""
    # The solver's matrices are small: threads of the linear algebra library cost more than they bring. Read at import.
    for library in ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(library, "1")
    app(prog_name="dessim")
