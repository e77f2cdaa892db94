"""What if: each change to the cluster alone, simulated anew, and what it would buy.

    2x:nic_rate,0:latency        twice the NICs' rate; no latency
    all                          what is worth asking of most clusters

Nothing is extrapolated: a change that meets the next bottleneck buys as little here as it would there. Compute follows
the roofline; times that were recorded are scaled by the ratio of the changed device's roofline to the recorded one's.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dessim.cluster import Cluster
from dessim.cluster.parts import Gpu
from dessim.cluster.scaled import KNOBS, has, scaled
from dessim.commands.project import project
from dessim.commands.replay import Replay, replay
from dessim.commands.support.projection import Misfit, Projection
from dessim.errors import CapacityError, UsageError
from dessim.sim.core.device import roofline
from dessim.sim.progress import Progress
from dessim.trace.io import Trace
from dessim.trace.schema import Collective, Op
from dessim.workload.scale import Job

BATCH = "batch"
NAMES = (*KNOBS, BATCH)
EVERYTHING = "all"
_ALL = (
    *((2.0, name) for name in ("nic_rate", "uplink_rate", "nvlink_rate", "pcie_rate", "gpu_flops", "gpu_memory")),
    *((0.0, name) for name in ("latency", "overhead")),
    (2.0, BATCH),
)
_MAY_VANISH = ("latency", "overhead")
_PATTERN = re.compile(r"(\d+(?:\.\d+)?)x?:(\w+)")


@dataclass(frozen=True, slots=True)
class Change:
    """`what` (one of NAMES) times `factor`."""

    factor: float
    what: str

    def __str__(self) -> str:
        return f"{self.factor:g}x:{self.what}" if self.factor else f"0:{self.what}"

    def on(self, cluster: Cluster) -> Cluster:
        """The cluster with the change."""
        return cluster if self.what == BATCH else scaled(cluster, self.what, self.factor)


@dataclass(frozen=True, slots=True)
class WhatIf:
    """What a change makes of a step; `speedup` is of the throughput. `reason` says why there are no times."""

    change: Change
    step_time_s: float | None
    samples_per_s: float | None
    speedup: float | None
    reason: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain values, units in the keys."""
        return {
            "change": str(self.change),
            "step_time_s": self.step_time_s,
            "samples_per_s": self.samples_per_s,
            "speedup": self.speedup,
            "does_not_fit": self.reason,
        }


def parse_changes(text: str | None, cluster: Cluster, recorded: bool = False) -> tuple[Change, ...]:
    """The changes of `--what-if`; of `all` those that mean something on the cluster. A `recorded` step has its batch.

    Raises UsageError for one that is asked for by name and means nothing.
    """
    if text is None:
        return ()
    if text.strip() == EVERYTHING:
        asked = [Change(factor, what) for factor, what in _ALL]
        return tuple(c for c in asked if not _problem(c, cluster, recorded))
    changes = []
    for part in text.split(","):
        found = _PATTERN.fullmatch(part.strip())
        if found is None:
            raise UsageError(f"--what-if {part.strip()!r}: write a factor and a name, such as 2x:nic_rate or 0:latency")
        change = Change(float(found[1]), found[2])
        problem = _problem(change, cluster, recorded)
        if problem:
            raise UsageError(f"--what-if {change}: {problem}")
        changes.append(change)
    return tuple(changes)


def _problem(change: Change, cluster: Cluster, recorded: bool) -> str | None:
    if change.what not in NAMES:
        close = difflib.get_close_matches(change.what, NAMES, n=1)
        hint = f"did you mean {close[0]}? " if close else ""
        return f"no such thing to change; {hint}names: {', '.join(NAMES)}"
    if change.factor == 0 and change.what not in _MAY_VANISH:
        return f"only {' and '.join(_MAY_VANISH)} may be 0; write a factor above 0, such as 0.5x:{change.what}"
    if change.what == BATCH:
        return "a trace has the batch it was recorded with; ask `dessim project`" if recorded else None
    return None if has(cluster, change.what) else f"{cluster.name} has none ({KNOBS[change.what]})"


def what_if_projected(
    changes: Sequence[Change],
    rows: Sequence[Projection | Misfit],
    job: Job,
    cluster: Cluster,
    strategies: Sequence[str],
    gpus: Sequence[int],
    batch_per_worker: int | None = None,
    progress: Progress | None = None,
    **settings: Any,
) -> list[list[WhatIf]]:
    """For each row of `project`, what each change would make of it; nothing of one that does not fit as it is.

    The other arguments are those that `rows` were projected with.
    """
    found: list[list[WhatIf]] = [[] for _ in rows]
    progress = progress or Progress()
    for done, change in enumerate(changes):
        part = progress.within(done, len(changes), "what_ifs")
        batch = batch_per_worker
        if change.what == BATCH:
            batch = max(round(rows[0].batch / rows[0].gpus * change.factor), 1)
        try:
            changed = project(job, change.on(cluster), strategies, gpus, batch, progress=part, **settings)
        except CapacityError as error:  # of all of them
            changed = [Misfit(row.gpus, row.strategy, row.batch, row.memory, str(error)) for row in rows]
        for row, new, of_row in zip(rows, changed, found, strict=True):
            if isinstance(row, Misfit):
                continue
            if isinstance(new, Misfit):
                of_row.append(WhatIf(change, None, None, None, new.reason))
                continue
            speedup = new.samples_per_s / row.samples_per_s
            of_row.append(WhatIf(change, new.breakdown.step_time_s, new.samples_per_s, speedup))
    return found


def what_if_replayed(
    changes: Sequence[Change],
    base: Replay,
    trace: Trace,
    cluster: Cluster,
    algorithms: Mapping[Collective, str] | None = None,
    folding: bool = True,
    progress: Progress | None = None,
) -> list[WhatIf]:
    """What each change would make of a replayed step."""
    found, progress = [], progress or Progress()
    batch = trace.header.symbols.get("B")
    ranks = range(trace.header.world_size)
    for done, change in enumerate(changes):
        changed = change.on(cluster)
        part = progress.within(done, len(changes), "what_ifs")
        stretch = _Stretch(*(of.device(ranks, "--what-if of a replay") for of in (cluster, changed)))
        new = replay(trace, changed, algorithms, folding, part, stretch=stretch)
        seconds = new.predicted_step_s
        throughput = batch / seconds if batch else None
        found.append(WhatIf(change, seconds, throughput, base.predicted_step_s / seconds))
    return found


@dataclass(frozen=True, slots=True)
class _Stretch:
    """How much longer a recorded op takes on another device, by their rooflines; as long where it states no sizes."""

    before: Gpu
    after: Gpu

    def __call__(self, op: Op) -> float:
        if not op.flops and not op.mem_bytes:
            return 1.0
        after, before = (roofline(gpu, op.flops, op.mem_bytes, 1.0) for gpu in (self.after, self.before))
        return after / before
