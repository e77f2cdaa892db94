"""Bring up a lab from a cluster, use it, and take it down."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from dessim.cluster import Cluster
from dessim.lab import build, counters, iproute, launch, state
from dessim.lab.forking import Program
from dessim.lab.layout import Layout, lay_out, prefix


@dataclass(frozen=True, slots=True)
class Bed:
    """A lab on this machine. As a context manager it is taken down at the end, also after an exception."""

    layout: Layout

    def run(
        self,
        command: Sequence[str] | Program,
        ranks: int | None = None,
        *,
        logs: Path | None = None,
        env: Mapping[str, str] | None = None,
        timeout: float | None = None,
        echo: bool = False,
    ) -> launch.Finished:
        """Run a program on the lab; see `dessim.lab.launch.launch`.

        Without `logs` the output is kept in the lab's own folder, which `down` removes.
        """
        logs = logs or state.root() / self.layout.name / "logs"
        return launch.launch(self.layout, command, logs, ranks=ranks, env=env, timeout=timeout, echo=echo)

    def counters(self) -> dict[int, counters.Counter]:
        """The traffic on every link since the lab came up, by the cluster's link id. Raises LabError."""
        return counters.read(self.layout)

    def down(self) -> None:
        """End all processes in the lab and remove it."""
        down(self.layout.name)

    def __enter__(self) -> Bed:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.down()


def up(cluster: Cluster, *, scale: float = 1e-3, queue: str = "lossless", name: str = "lab") -> Bed:
    """Build a cluster on this machine, with every link at its payload rate times `scale`.

    `queue` is one of `QUEUES`. An interrupted or failed call leaves nothing behind. Raises LabError (machine or
    privileges) and UsageError (cluster or name).
    """
    iproute.require()
    layout = lay_out(cluster, name, scale, queue)
    state.claim(name)
    try:
        iproute.delete(iproute.spaces(prefix(name)))  # left by a lab whose folder was removed
        build.build(layout)
        state.save(layout)
    except BaseException:
        down(name)
        raise
    return Bed(layout)


def find(name: str = "lab") -> Bed:
    """The lab called `name`, which another process may have brought up. Raises UsageError if none is up."""
    return Bed(state.load(name))


def down(name: str) -> bool:
    """Remove a lab, or the remains of one. Returns False if there were none."""
    iproute.require()
    spaces = iproute.spaces(prefix(name))
    has_folder = name in state.names()
    iproute.delete(spaces)
    state.forget(name)
    return bool(spaces) or has_folder


def down_all() -> list[str]:
    """Remove every lab of this machine, complete or not. Returns their names."""
    iproute.require()
    names = {space.split("-")[1] for space in iproute.spaces("dl-")} | set(state.names())
    return [name for name in sorted(names) if down(name)]
