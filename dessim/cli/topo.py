"""`dessim topo ...`: lists, shows, checks and draws cluster descriptions."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from dessim.cli.groups import Verbs
from dessim.cli.options import ClusterArgument, JsonOption
from dessim.cli.output import guarded, print_json, report_check, to_draw, to_read, to_write
from dessim.files import write_text
from dessim.units import counted

topo = typer.Typer(
    cls=Verbs,
    help="List, check, import, export, compare and draw clusters.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@topo.command("list")
@guarded
def topo_list(json: JsonOption = False) -> None:
    """List the shipped clusters."""
    from dessim.cluster import Cluster, list_topologies, load_cluster
    from dessim.results.tables import print_table, table_of

    def gpus(cluster: Cluster) -> str:
        return ", ".join(gpu.name for gpu, _ in cluster.devices(range(cluster.n_gpus)))

    clusters = {name: load_cluster(path) for name, path in list_topologies().items()}
    if json:
        rows = [
            {"name": n, "gpus": c.n_gpus, "nodes": c.n_nodes, "kind": c.kind, "gpu": gpus(c), "file": str(c.path)}
            for n, c in clusters.items()
        ]
        print_json({"topologies": rows})
    else:
        cells = [(n, f"{c.n_gpus:,}", c.kind, gpus(c), c.description) for n, c in clusters.items()]
        columns = ("name", "GPUs", "fabric", "GPU", "description")
        left = ("fabric", "GPU", "description")
        print_table(table_of(columns, cells, left=left, folds={"description": 40}, drops=("fabric", "GPU")))


@topo.command("show")
@guarded
def topo_show(cluster: ClusterArgument, json: JsonOption = False) -> None:
    """Show a cluster's counts, rates and bisection."""
    from dessim.cluster import describe, load_cluster
    from dessim.results.show import print_description

    described = describe(load_cluster(cluster))
    if json:
        print_json(described)
    else:
        print_description(described)


@topo.command("check")
@guarded
def topo_check(cluster: ClusterArgument, json: JsonOption = False) -> None:
    """Check the links, rates and routes of a cluster.

    The exit code is 3 if the check fails.
    """
    from dessim.cluster import check, load_cluster

    machine = load_cluster(cluster)
    report_check(machine.name, check(machine), json)


@topo.command("init")
@guarded
def topo_init(
    out: Annotated[
        Path,
        typer.Option("--out", "-o", callback=to_write, help="File to write; must not exist.", show_default=False),
    ],
    start: Annotated[
        str, typer.Argument(help="Shipped cluster to start from: dessim topo list.", metavar="[CLUSTER]")
    ] = "h100-8x_rail_128",
) -> None:
    """Write a topology file of your own, as a copy of a shipped one.

    Change counts, parts and rates in it, then run dessim topo check and dessim topo draw on it.
    """
    from dessim.cluster import load_cluster
    from dessim.errors import FileError
    from dessim.results.show import print_text

    if out.exists():
        raise FileError(out, "", "exists already; name a new file")
    shipped = load_cluster(start)
    text = shipped.path.read_text("utf-8")
    write_text(out, f"# A copy of {shipped.name}. Parts (gpu, nic, ...) are names, or tables of your own.\n{text}")
    print_text(f"{out}: a copy of {shipped.name}; next: dessim topo check {out}")


@topo.command("import")
@guarded
def topo_import(
    out: Annotated[
        Path,
        typer.Option("--out", "-o", callback=to_write, help="File to write; must not exist.", show_default=False),
    ],
    fabric: Annotated[
        Path | None,
        typer.Option("--fabric", callback=to_read, help="ibnetdiscover, SLURM's topology.conf, GraphML or InfraGraph."),
    ] = None,
    node: Annotated[
        Path | None,
        typer.Option("--node", callback=to_read, help="One server: NCCL_TOPO_DUMP_FILE, or `nvidia-smi topo -m`."),
    ] = None,
    compute: Annotated[
        str | None, typer.Option("--compute", help="Regular expression: adapters of the fabric that serve GPUs.")
    ] = None,
    nics: Annotated[
        str | None, typer.Option("--nics", help="Regular expression: adapters of the server that serve GPUs.")
    ] = None,
    gpu: Annotated[str | None, typer.Option("--gpu", help="GPU part; default: the one that a file names.")] = None,
    transport: Annotated[
        str | None, typer.Option("--software", help="Transport part; default: by the network of the files.")
    ] = None,
    nodes: Annotated[int | None, typer.Option("--count", min=1, help="Servers, where no fabric is given.")] = None,
    json: JsonOption = False,
) -> None:
    """Write a topology file from what a cluster's own tools wrote.

    Regular fabrics are recognised. What no file says is assumed, and listed on stderr and in the file.
    """
    from dessim.cluster.importers.compose import Wishes
    from dessim.commands.topo_import import ImportRequest, run_import
    from dessim.results.show import print_text

    request = ImportRequest(
        out, fabric=fabric, node=node, compute=compute, nics=nics, wishes=Wishes(gpu, transport, nodes)
    )
    done = run_import(request)
    for line in done.left_out:
        print(f"left out: {line}", file=sys.stderr)
    for line in done.assumed:
        print(f"assumed: {line}", file=sys.stderr)
    cluster = done.cluster
    files = [str(path) for path in done.files]
    if json:
        size_of = {"kind": cluster.kind, "nodes": cluster.n_nodes, "gpus": cluster.n_gpus}
        print_json({"files": files, **size_of, "assumed": list(done.assumed), "left_out": list(done.left_out)})
    else:
        size = f"{counted(cluster.n_nodes, 'server')}, {counted(cluster.n_gpus, 'GPU')}"
        print_text(f"{' and '.join(files)}: {cluster.kind}, {size}; next: dessim topo check {out}")


@topo.command("export")
@guarded
def topo_export(
    cluster: ClusterArgument,
    form: Annotated[
        str, typer.Option("--format", help="simgrid, astra-sim, infragraph or graphml.", show_default=False)
    ],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", callback=to_write, help="File to write; default: stdout.")
    ] = None,
    gpus: Annotated[int | None, typer.Option("--gpus", min=2, help="SimGrid: only the first GPUs.")] = None,
    latency: Annotated[bool, typer.Option("--latency/--no-latency", help="SimGrid: latencies of links.")] = True,
) -> None:
    """Write a cluster in the format of another simulator.

    What the format cannot express is listed on stderr.
    """
    from dessim.cluster import load_cluster
    from dessim.commands.topo_export import ExportRequest, run_export

    text, lost = run_export(ExportRequest(load_cluster(cluster), form, gpus, latency))
    for line in lost:
        print(f"lost: {line}", file=sys.stderr)
    _write(text, out)


@topo.command("diff")
@guarded
def topo_diff(
    a: ClusterArgument,
    b: ClusterArgument,
    json: JsonOption = False,
) -> None:
    """Compare two clusters: parts, rates and counts.

    The exit code is 1 if they differ.
    """
    from dessim.commands.topo_diff import run_diff, shown
    from dessim.results.tables import print_table, table_of

    differences = run_diff(a, b)
    if json:
        print_json({"differences": [{"key": line.key, "a": line.a, "b": line.b} for line in differences]})
    elif differences:
        print_table(table_of(("key", a, b), map(shown, differences), left=("key", a, b)))
    else:
        print(f"{a} and {b} describe the same cluster")
    if differences:
        raise typer.Exit(1)


@topo.command("draw")
@guarded
def topo_draw(
    cluster: ClusterArgument,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", callback=to_draw, help="File to write; default: stdout.")
    ] = None,
) -> None:
    """Draw a cluster as SVG.

    Shows the layers and link rates, one node in full, and the others folded with their counts.
    """
    from dessim.cluster import load_cluster
    from dessim.cluster.drawing.draw import draw

    _write(draw(load_cluster(cluster)), out)


def _write(text: str, out: Path | None) -> None:
    """Write to a file, or to stdout where none is named."""
    if out is None:
        sys.stdout.write(text)
    else:
        write_text(out, text)
