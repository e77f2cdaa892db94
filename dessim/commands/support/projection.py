"""Rows of a projection: the simulated step of a strategy at a scale, or the reason why it does not fit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dessim.commands.support.dedicated_servers import ServedStep
from dessim.commands.support.guard import LeastStep
from dessim.results.error_bar import ErrorBar
from dessim.results.metrics import Breakdown
from dessim.sim.core.recorder import Record
from dessim.workload.memory import Memory, Spill


@dataclass(frozen=True, slots=True)
class Projection:
    """A simulated step of one strategy on `gpus` GPUs, with a global batch of `batch` samples.

    `bytes_per_worker` is what a worker sends in the step. `provenance` says where compute times, communication, sizes
    and memory come from, `caveat` what the plan leaves out.
    `memory` is what one GPU needs; `spill` is the part of it in the host's memory, None if everything fits.
    `least` are lower bounds of the step, `busiest_bytes` what the busiest worker sends; None with dedicated servers.
    `bar` is the 80 % interval of the step; None where the spread of a part is not known.
    `is_lower_bound`: the step of ideal parts, such as servers that answer at once.
    `served` describes the dedicated parameter servers, None if there are none.
    """

    gpus: int
    strategy: str
    batch: int
    breakdown: Breakdown
    bytes_per_worker: float
    bytes_by_traffic: Mapping[str, float]
    provenance: Mapping[str, str]
    caveat: str
    error_bar: float | None
    memory: Memory
    spill: Spill | None
    record: Record
    served: ServedStep | None = None
    is_lower_bound: bool = False
    least: LeastStep | None = None
    busiest_bytes: float | None = None
    bar: ErrorBar | None = None

    @property
    def samples_per_s(self) -> float:
        return self.batch / self.breakdown.step_time_s

    def to_json(self) -> dict[str, Any]:
        """A row of `projection` in the JSON result: plain values, units in the keys."""
        breakdown = self.breakdown.to_json()
        return {
            "gpus": self.gpus,
            "strategy": self.strategy,
            "batch": self.batch,
            "step_time_s": breakdown.pop("step_time_s"),
            "samples_per_s": self.samples_per_s,
            "bytes_per_worker": self.bytes_per_worker,
            "busiest_worker_bytes": self.busiest_bytes,
            "least_step_s": {"nic": self.least.nic_s, "gpu": self.least.gpu_s} if self.least else None,
            "bytes_by_traffic": dict(self.bytes_by_traffic),
            **breakdown,
            "error_bar": self.bar.relative if self.error_bar is None and self.bar else self.error_bar,
            "interval": self.bar.to_json(self.breakdown.step_time_s) if self.bar else None,
            "lower_bound": self.is_lower_bound,
            "memory_bytes": self.memory.total,
            "memory": self.memory.to_json(),
            "spill": self.spill.to_json() if self.spill else None,
            "servers": self.served.to_json() if self.served else None,
            "does_not_fit": None,
            "provenance": dict(self.provenance),
            "caveat": self.caveat,
        }


@dataclass(frozen=True, slots=True)
class Misfit:
    """A row without times: a GPU, or a server's host, has too little memory. `reason` says what to change."""

    gpus: int
    strategy: str
    batch: int
    memory: Memory
    reason: str

    def to_json(self) -> dict[str, Any]:
        """A row of `projection` in the JSON result with the memory alone."""
        return {
            "gpus": self.gpus,
            "strategy": self.strategy,
            "batch": self.batch,
            "step_time_s": None,
            "samples_per_s": None,
            "memory_bytes": self.memory.total,
            "memory": self.memory.to_json(),
            "does_not_fit": self.reason,
        }
