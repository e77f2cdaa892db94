"""An op while it is being recorded. Its fields are filled in between its start and the end of the step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from dessim.trace.schema import Collective, Kind, Op


@dataclass(slots=True)
class OpenOp:
    """An op that may not have ended yet.

    call      the c10d operator and its arguments
    built_as  for a collective built from point-to-point messages: that collective; `call` is its first message
    sent      bytes that this rank sends in those messages
    end_us    when it ended, on this rank's clock
    cpu_us    CPU time of its thread [us]: up to its start while it is open, of the op itself once it has ended
    done_us   when the backend reported it as done; the backend's thread appends to it
    """

    op: Op
    call: tuple[str, Sequence[Any]] | None = None
    built_as: Collective | None = None
    sent: int = 0
    flops: int = 0
    mem_bytes: int = 0
    end_us: float | None = None
    cpu_us: float = 0.0
    done_us: list[float] = field(default_factory=list)

    def finished(self, on_cpu: bool) -> Op:
        """The op with its measured duration and counts. `on_cpu`: whether the device is the CPU."""
        assert self.end_us is not None, f"{self.op.name} was never waited for"
        dur_us = max(self.end_us - self.op.start_us, 0.0)
        cpu_us = min(self.cpu_us, dur_us) if on_cpu and self.op.kind is Kind.COMPUTE else 0.0
        return replace(self.op, dur_us=dur_us, cpu_us=cpu_us, flops=self.flops, mem_bytes=self.mem_bytes)
