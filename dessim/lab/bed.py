"""A lab that is up: brought up from a cluster, used, taken down."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from dessim.cluster import Cluster
from dessim.lab import build, counters, iproute, launch, state
from dessim.lab.layout import Layout, lay_out, prefix


@dataclass(frozen=True, slots=True)
class Bed:
    """A lab on this machine. As a context manager it is taken down at the end, whatever happens inside."""

    layout: Layout

    def run(
        self,
        command: Sequence[str],
        ranks: int | None = None,
        *,
        logs: Path | None = None,
        env: Mapping[str, str] | None = None,
        timeout: float | None = None,
        echo: bool = False,
    ) -> launch.Finished:
        """`dessim.lab.launch.launch`; logs go into the lab's own folder, which `down` removes, unless given."""
        logs = logs or state.root() / self.layout.name / "logs"
        return launch.launch(self.layout, command, logs, ranks, env, timeout, echo)

    def counters(self) -> dict[int, counters.Counter]:
        """What every link has carried since the lab is up, by the cluster's link id."""
        return counters.read(self.layout)

    def down(self) -> None:
        """End what runs in it and remove it."""
        down(self.layout.name)

    def __enter__(self) -> Bed:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.down()


def up(cluster: Cluster, *, scale: float = 1e-3, queue: str = "lossless", name: str = "lab") -> Bed:
    """Build a cluster on this machine, every link at its payload rate times `scale`.

    Interrupted or failed, it leaves nothing. Raises LabError (machine or privileges), UsageError (cluster or name).
    """
    iproute.require()
    layout = lay_out(cluster, name, scale, queue)
    state.claim(name)
    try:
        iproute.delete(iproute.spaces(prefix(name)))  # of a lab whose folder is gone
        build.build(layout)
        state.save(layout)
    except BaseException:
        down(name)
        raise
    return Bed(layout)


def find(name: str = "lab") -> Bed:
    """The lab of that name, brought up by another process. Raises UsageError if there is none."""
    return Bed(state.load(name))


def down(name: str) -> bool:
    """Remove a lab, or what is left of one; False: there was nothing."""
    iproute.require()
    spaces, known = iproute.spaces(prefix(name)), name in state.names()
    iproute.delete(spaces)
    state.forget(name)
    return bool(spaces) or known


def down_all() -> list[str]:
    """Remove every lab of this machine, whole or not; returns their names."""
    iproute.require()
    names = {space.split("-")[1] for space in iproute.spaces("dl-")} | set(state.names())
    return [name for name in sorted(names) if down(name)]
