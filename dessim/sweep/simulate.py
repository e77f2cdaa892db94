"""One case, simulated: its outcome as plain values, the same in every process and on every machine.

Numbers have twelve digits: the last bits of a sum depend on the processor.
"""

from __future__ import annotations

from typing import Any

from dessim.arrays import significant
from dessim.commands.project import Row, run_projection
from dessim.commands.support.projection import Projection
from dessim.errors import CapacityError, DessimError, one_line
from dessim.results.critical_path import PathOp
from dessim.results.step_change import op_label
from dessim.results.tables import TRAFFIC
from dessim.sweep.cases import Case, Resolver
from dessim.sweep.journal import FAILED, MISFIT, OK, Outcome

_SAME_S = 12  # decimals of seconds to which ops count as equally long; of these the first one is named
RESULTS = (
    *("step_time_s", "low_s", "high_s", "samples_per_s", "compute_s", "exposed_comm_s", "idle_s"),
    *("bound_by", "longest_op", "longest_op_s", "bytes_per_worker", "busiest_worker_bytes"),
    *(f"bytes_{traffic}" for traffic in TRAFFIC),
    *("memory_bytes", "host_bytes", "server_count", "lower_bound"),
)
"""The columns of an outcome; `low_s` and `high_s` are the ends of the step's 80 % interval."""


class Simulator:
    """Simulates cases one after the other, and keeps the routes of their cluster for the next one."""

    def __init__(self) -> None:
        self._resolver = Resolver()

    def outcome(self, case: Case) -> Outcome:
        """The outcome of a case. An error becomes one: `status` is then FAILED, and `reason` the line."""
        try:
            request, key = self._resolver.request(case.settings)
            if key != case.key:
                raise DessimError(
                    "its files, or dessim itself, differ from those that the sweep began with; run it again"
                )
            rows: list[Row] = []
            try:
                run_projection(request, on_row=rows.append, routed=self._resolver.routes(case.settings))
            except CapacityError as error:
                memory = {"memory_bytes": _digits(rows[0].memory.total)} if rows else {}
                return {"status": MISFIT, "row": memory, "ops": {}, "reason": one_line(error)}
            (row,) = rows
            assert isinstance(row, Projection)
            ops = {op: _digits(seconds) for op, seconds in _by_op(row.breakdown.critical_path).items()}
            return {"status": OK, "row": _columns(row), "ops": ops, **_beside(row)}
        except Exception as error:
            # Whatever went wrong with one case, the others go on; the line says what it was.
            name = "" if isinstance(error, DessimError) else f"{type(error).__name__}: "
            self._resolver = Resolver()
            return failure(f"{name}{error}")


def failure(line: str) -> Outcome:
    """The outcome of a case that could not be simulated."""
    return {"status": FAILED, "row": {}, "ops": {}, "reason": one_line(line)}


def _columns(row: Projection) -> dict[str, Any]:
    """The columns RESULTS of a simulated step; those that it lacks are left out."""
    split = row.breakdown
    low, high = row.bar.interval(split.step_time_s) if row.bar else (None, None)
    longest = max(split.critical_path, key=lambda op: round(op.time_s, _SAME_S), default=None)
    columns: dict[str, Any] = {
        "step_time_s": split.step_time_s,
        "low_s": low,
        "high_s": high,
        "samples_per_s": row.samples_per_s,
        "compute_s": split.compute_s,
        "exposed_comm_s": split.exposed_comm_s,
        "idle_s": split.idle_s,
        "bound_by": split.bound_by,
        "longest_op": longest.name if longest else None,
        "longest_op_s": longest.time_s if longest else None,
        "bytes_per_worker": row.bytes_per_worker,
        "busiest_worker_bytes": row.busiest_bytes,
        **{f"bytes_{traffic}": row.bytes_by_traffic.get(traffic, 0.0) for traffic in TRAFFIC},
        "memory_bytes": row.memory.total,
        "host_bytes": row.spill.host_bytes if row.spill else None,
        "server_count": row.served.servers.count if row.served else None,
        "lower_bound": row.is_lower_bound,
    }
    assert tuple(columns) == RESULTS
    return {name: _digits(value) for name, value in columns.items() if value is not None}


def _beside(row: Projection) -> dict[str, Any]:
    """The parts of an outcome beside the columns: `causes` of the interval, and `least_step_s`, bounds of the step."""
    parts: dict[str, Any] = {}
    if row.bar is not None:
        parts["causes"] = {cause: _digits(sigma) for cause, sigma in row.bar.causes.items()}
    if row.least is not None:
        parts["least_step_s"] = {"nic": _digits(row.least.nic_s), "gpu": _digits(row.least.gpu_s)}
    return parts


def _by_op(path: tuple[PathOp, ...]) -> dict[str, float]:
    """Seconds on the critical path, by op."""
    seconds: dict[str, float] = {}
    for op in path:
        name = op_label(op.name, op.what)
        seconds[name] = seconds.get(name, 0.0) + op.time_s
    return seconds


def _digits(value: Any) -> Any:
    return significant(value, 12) if isinstance(value, float) else value
