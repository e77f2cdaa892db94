"""`dessim lab ...`: builds a topology file on this machine out of network namespaces, to run programs on it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from dessim.cli.groups import Verbs
from dessim.cli.options import ClusterArgument, JsonOption
from dessim.cli.output import guarded, print_json, to_fill

lab = typer.Typer(
    cls=Verbs,
    help="Build a cluster on this machine and run programs on it. Slower than the real one by a scale. Needs root.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

NameOption = Annotated[str, typer.Option("--name", help="Name of the lab; several may be up at once.")]


@lab.command("up")
@guarded
def lab_up(
    cluster: ClusterArgument,
    scale: Annotated[
        float, typer.Option(help="Rates of the lab relative to the file; lab/* files are made for 1.")
    ] = 1e-3,
    queue: Annotated[
        str, typer.Option(help="lossless, as in InfiniBand and RoCE, or shallow, as in plain Ethernet.")
    ] = "lossless",
    name: NameOption = "lab",
    json: JsonOption = False,
) -> None:
    """Build a cluster out of network namespaces.

    Each NIC and each switch gets a namespace, each cable a veth pair with a limited rate.
    """
    from dessim import lab
    from dessim.cluster import load_cluster

    _show(lab.up(load_cluster(cluster), scale=scale, queue=queue, name=name).layout, json)


@lab.command("status")
@guarded
def lab_status(name: NameOption = "lab", json: JsonOption = False) -> None:
    """Show a lab's ports and what each link has carried."""
    from dessim import lab

    bed = lab.find(name)
    _show(bed.layout, json, bed.counters())


@lab.command("run")
@guarded
def lab_run(
    command: Annotated[list[str], typer.Argument(help="The program and its arguments, after --.", show_default=False)],
    ranks: Annotated[
        int | None, typer.Option(help="Number of ranks to run, the first ones; default: all.", min=1)
    ] = None,
    logs: Annotated[
        Path | None,
        typer.Option(
            callback=to_fill, path_type=str, help="Folder for rank<i>.log; default: one that `lab down` removes."
        ),
    ] = None,
    timeout: Annotated[
        float | None, typer.Option(help="Seconds after which the run is stopped, with exit code 124.")
    ] = None,
    name: NameOption = "lab",
) -> None:
    """Run a program on every rank, as torchrun would.

    Sets RANK, WORLD_SIZE, MASTER_ADDR and so on, and prints the output of rank 0. When a rank fails the others are
    stopped, and its code becomes the exit code.
    """
    from dessim import lab

    done = lab.find(name).run(command, ranks, logs=logs, timeout=timeout, echo=True)
    if done.code:
        typer.echo(f"dessim: {_blame(done.rank, done.code, done.logs)}", err=True)
        raise typer.Exit(done.code)


@lab.command("down")
@guarded
def lab_down(
    name: NameOption = "lab",
    all: Annotated[
        bool, typer.Option("--all", help="Remove every lab of this machine and the leftovers of killed ones.")
    ] = False,
) -> None:
    """Stop the programs of a lab and remove it."""
    from dessim import lab

    removed = lab.down_all() if all else [name] if lab.down(name) else []
    print(f"down: {', '.join(removed)}" if removed else "nothing was up")


def _blame(rank: int | None, code: int, logs: tuple[Path, ...]) -> str:
    if rank is None:
        return f"out of time; the output of all ranks is in {logs[0].parent}"
    return f"rank {rank} failed with code {code}; its output is in {logs[rank]}"


def _show(layout: Any, json: bool, carried: Any = None) -> None:
    """Print a lab, with the counters of its links if they are given."""
    from dessim.results.tables import print_table, table_of
    from dessim.units import counted, format_size

    if json:
        print_json(_facts(layout, carried))
        return
    columns = ("from", "link", "Mb/s") if carried is None else ("from", "link", "Mb/s", "carried", "packets", "dropped")
    rows = []
    for port in layout.ports:
        cells = [f"{port.space} {port.device}", port.name, f"{8e-6 * port.rate:.4g}"]
        if carried is not None:
            counters = carried[port.link]
            cells += [format_size(counters.bytes), f"{counters.packets:,}", f"{counters.dropped:,}"]
        rows.append(tuple(cells))
    print_table(table_of(columns, rows, left=("from", "link"), folds={"from": 12, "link": 12}))
    ranks = counted(len(layout.ranks), "rank")
    hosts = counted(len(layout.hosts), "host")
    switches = counted(len(layout.switches), "switch")
    print(f"{layout.name}: {ranks} on {hosts}, {switches}, {layout.queue} queues")
    for line in layout.left_out:
        print(f"not emulated: {line}")


def _facts(layout: Any, carried: Any) -> dict[str, Any]:
    links = [
        {"link": p.link, "name": p.name, "kind": p.kind, "namespace": p.space, "device": p.device, "wire_Bps": p.rate}
        for p in layout.ports
    ]
    if carried is not None:
        for link in links:
            counters = carried[link["link"]]
            link |= {"bytes": counters.bytes, "packets": counters.packets, "dropped": counters.dropped}
    return {
        "name": layout.name,
        "cluster": layout.cluster,
        "scale": layout.scale,
        "queue": layout.queue,
        "hosts": layout.hosts,
        "switches": layout.switches,
        "ranks": [{"namespace": r.space, "address": r.address, "node": r.node, "local": r.local} for r in layout.ranks],
        "links": links,
        "not_emulated": list(layout.left_out),
    }
