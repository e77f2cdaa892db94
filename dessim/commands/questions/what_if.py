"""What-if analysis: each change of the cluster alone, simulated anew, and the speedup it gives.

    2x:nic_rate,0:latency        NICs at twice the rate; no latency
    2x:nic_rate+2x:uplink_rate   both at once
    all                          the usual changes that apply to the cluster

Nothing is extrapolated: where a change exposes the next bottleneck, the simulated speedup stops there too. Compute
follows the roofline; recorded times are scaled by the ratio of the changed GPU's roofline to the recorded GPU's.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from dessim.cluster import Cluster
from dessim.cluster.parts import Gpu
from dessim.cluster.scaled import KNOBS, has, scaled
from dessim.commands.project import Row, run_projection
from dessim.commands.replay import Replay, ReplayRequest, kept_times, run_replay
from dessim.commands.support.project_request import ProjectRequest
from dessim.commands.support.projection import Misfit
from dessim.errors import CapacityError, UsageError
from dessim.sim.core.device import roofline
from dessim.sim.progress import Progress
from dessim.trace.schema import Op
from dessim.wording import did_you_mean

BATCH = "batch"
NAMES = (*KNOBS, BATCH)
ALL = "all"
JOIN = "+"
_CHANGES_OF_ALL = (
    (2.0, "nic_rate"),
    (2.0, "uplink_rate"),
    (2.0, "nvlink_rate"),
    (2.0, "pcie_rate"),
    (2.0, "gpu_flops"),
    (2.0, "gpu_memory"),
    (0.0, "latency"),
    (0.0, "overhead"),
    (2.0, BATCH),
)
MAY_BE_ZERO = ("latency", "overhead")
_PATTERN = re.compile(r"(\d+(?:\.\d+)?)x?:(\w+)")


@dataclass(frozen=True, slots=True)
class Change:
    """Multiply the quantity `name`, one of NAMES, by `factor`."""

    factor: float
    name: str

    def __str__(self) -> str:
        return f"{self.factor:g}x:{self.name}" if self.factor else f"0:{self.name}"

    @property
    def of_batch(self) -> float:
        """The factor on the batch."""
        return self.factor if self.name == BATCH else 1.0

    def on(self, cluster: Cluster) -> Cluster:
        """Return the changed cluster; a change of the batch leaves it as it is."""
        return cluster if self.name == BATCH else scaled(cluster, self.name, self.factor)


@dataclass(frozen=True, slots=True)
class JointChange:
    """Several changes at once, of different quantities."""

    changes: tuple[Change, ...]

    def __str__(self) -> str:
        return JOIN.join(map(str, self.changes))

    @property
    def of_batch(self) -> float:
        """The factor on the batch."""
        return math.prod(change.of_batch for change in self.changes)

    def on(self, cluster: Cluster) -> Cluster:
        """Return the cluster with all changes."""
        for change in self.changes:
            cluster = change.on(cluster)
        return cluster


AnyChange = Change | JointChange


@dataclass(frozen=True, slots=True)
class WhatIf:
    """The step after a change. `speedup` is the ratio of throughputs, after over before.

    Where the changed job does not fit, there are no times, and `reason` says why.
    """

    change: AnyChange
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


def parse_changes(text: str | None, cluster: Cluster, recorded: bool = False) -> tuple[AnyChange, ...]:
    """Return the changes that `--what-if` names; `all` stands for the usual ones that apply to the cluster.

    `recorded` means that a trace is replayed, whose batch cannot change. Raises UsageError for a named change that does
    not apply.
    """
    if text is None:
        return ()
    if text.strip() == ALL:
        usual = [Change(factor, name) for factor, name in _CHANGES_OF_ALL]
        return tuple(change for change in usual if _problem(change, cluster, recorded) is None)
    return tuple(parse_change(entry.strip(), cluster, recorded) for entry in text.split(","))


def parse_change(text: str, cluster: Cluster, recorded: bool = False) -> AnyChange:
    """The change, or the changes at once, of `2x:nic_rate+0:latency`. Raises UsageError."""
    changes: list[Change] = []
    for part in text.split(JOIN):
        match = _PATTERN.fullmatch(part.strip())
        if match is None:
            raise UsageError(
                f"--what-if {text[:80]!r}: write a factor and a name, such as 2x:nic_rate or 0:latency, "
                "and + between changes at once"
            )
        change = Change(float(match[1]), match[2])
        if any(change.name == other.name for other in changes):
            raise UsageError(f"--what-if {text[:80]!r}: {change.name} is changed twice; write one factor")
        require(change, cluster, recorded)
        changes.append(change)
    return changes[0] if len(changes) == 1 else JointChange(tuple(changes))


def require(change: Change, cluster: Cluster, recorded: bool = False) -> None:
    """Raise UsageError for a change that does not apply to the cluster, or to a recorded trace."""
    problem = _problem(change, cluster, recorded)
    if problem is not None:
        raise UsageError(f"--what-if {change}: {problem}")


def _problem(change: Change, cluster: Cluster, recorded: bool) -> str | None:
    """Why a change does not apply; None where it does."""
    if change.name not in NAMES:
        return f"this cannot be changed; {did_you_mean(change.name, NAMES)}names: {', '.join(NAMES)}"
    if change.factor == math.inf:
        return "the factor is too large"
    if change.factor == 0 and change.name not in MAY_BE_ZERO:
        return f"only {' and '.join(MAY_BE_ZERO)} may be 0; write a factor above 0, such as 0.5x:{change.name}"
    if change.name == BATCH:
        return "a trace keeps its recorded batch; use `dessim project` to change it" if recorded else None
    return None if has(cluster, change.name) else f"{cluster.name} has none ({KNOBS[change.name]})"


def project_rows(
    request: ProjectRequest,
    changes: Sequence[AnyChange] = (),
    progress: Progress | None = None,
    on_row: Callable[[dict[str, Any]], None] | None = None,
) -> tuple[list[Row], list[dict[str, Any]]]:
    """The rows of a projection, and as objects of `--json`, with the effect of each change.

    `on_row` receives each object as soon as it is ready, still without changes. Raises what `run_projection` does.
    """
    objects: list[dict[str, Any]] = []

    def ready(row: Row) -> None:
        objects.append(row.to_json())
        if on_row is not None:
            on_row(objects[-1])

    progress = progress or Progress()
    rows = run_projection(request, progress.within(0, 1 + len(changes)), ready)
    rest = progress.within(1, 1 + len(changes), parts=len(changes))
    if changes:
        for row, what_ifs in zip(objects, what_if_projected(changes, rows, request, rest), strict=True):
            row["what_if"] = [what_if.to_json() for what_if in what_ifs]
    return rows, objects


def replay_object(
    request: ReplayRequest, changes: Sequence[AnyChange] = (), progress: Progress | None = None
) -> tuple[Replay, dict[str, Any]]:
    """The result of a replay, and as an object of `--json`, with the effect of each change.

    Raises what `run_replay` does.
    """
    progress = progress or Progress()
    result = run_replay(request, progress.within(0, 1 + len(changes)))
    rest = progress.within(1, 1 + len(changes), parts=len(changes))
    values = result.to_json()
    if changes:
        values["what_if"] = [change.to_json() for change in what_if_replayed(changes, result, request, rest)]
    if note := kept_times(request.trace.header, request.cluster):
        values["note"] = note
    return result, values


def what_if_projected(
    changes: Sequence[AnyChange],
    rows: Sequence[Row],
    request: ProjectRequest,
    progress: Progress | None = None,
) -> list[list[WhatIf]]:
    """For each of `rows`, which `request` gave, simulate each change. A row that does not fit has an empty list."""
    results: list[list[WhatIf]] = [[] for _ in rows]
    progress = progress or Progress()
    for done, change in enumerate(changes):
        change_progress = progress.within(done, len(changes), "what_ifs")
        batch = request.batch_per_worker
        if change.of_batch != 1:
            batch = max(round(rows[0].batch / rows[0].gpus * change.of_batch), 1)
        changed = replace(request, cluster=change.on(request.cluster), batch_per_worker=batch)
        try:
            changed_rows = run_projection(changed, change_progress)
        except CapacityError as error:  # no row fits any more
            changed_rows = [Misfit(row.gpus, row.strategy, row.batch, row.memory, str(error)) for row in rows]
        for row, changed_row, results_of_row in zip(rows, changed_rows, results, strict=True):
            if not isinstance(row, Misfit):
                results_of_row.append(_compared(change, row.samples_per_s, changed_row))
    return results


def _compared(change: AnyChange, samples_per_s: float, changed: Row) -> WhatIf:
    """A changed row against the throughput before the change."""
    if isinstance(changed, Misfit):
        return WhatIf(change, step_time_s=None, samples_per_s=None, speedup=None, reason=changed.reason)
    return WhatIf(
        change=change,
        step_time_s=changed.breakdown.step_time_s,
        samples_per_s=changed.samples_per_s,
        speedup=changed.samples_per_s / samples_per_s,
    )


def what_if_replayed(
    changes: Sequence[AnyChange],
    base: Replay,
    request: ReplayRequest,
    progress: Progress | None = None,
) -> list[WhatIf]:
    """Simulate each change of a replayed step. `base` is the result of `request`."""
    results = []
    progress = progress or Progress()
    header = request.trace.header
    batch = header.symbols.get("B")
    ranks = range(header.world_size)
    for done, change in enumerate(changes):
        cluster = change.on(request.cluster)
        stretch = _RooflineStretch(
            before=request.cluster.device(ranks, "--what-if of a replay"),
            after=cluster.device(ranks, "--what-if of a replay"),
        )
        changed = replace(request, cluster=cluster, stretch=stretch)
        seconds = run_replay(changed, progress.within(done, len(changes), "what_ifs")).predicted_step_s
        results.append(
            WhatIf(
                change=change,
                step_time_s=seconds,
                samples_per_s=batch / seconds if batch else None,
                speedup=base.predicted_step_s / seconds,
            )
        )
    return results


@dataclass(frozen=True, slots=True)
class _RooflineStretch:
    """The factor by which a recorded op takes longer on GPU `after` than on `before`, by their rooflines.

    It is 1 for ops whose trace states neither FLOPs nor bytes.
    """

    before: Gpu
    after: Gpu

    def __call__(self, op: Op) -> float:
        if not op.flops and not op.mem_bytes:
            return 1.0
        after = roofline(self.after, op.flops, op.mem_bytes, kernels=1.0)
        before = roofline(self.before, op.flops, op.mem_bytes, kernels=1.0)
        return after / before
