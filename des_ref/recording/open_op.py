"""An op that is being recorded: its fields are filled in between its start and the end of the step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from dessim.trace.schema import Collective, Kind, Op


@dataclass(slots=True)
class OpenOp:
    """An op whose end is not known yet."""

    op: Op
    call: tuple[str, Sequence[Any]] | None = None  # c10d operator and its arguments
    made: Collective | None = None  # of messages, of which `call` is the first
    sent: int = 0  # bytes of those of them that this rank sends
    flops: int = 0
    mem_bytes: int = 0
    end_us: float | None = None
    cpu_us: float = 0.0  # of its thread: from its start until now
    done_us: list[float] = field(default_factory=list)  # filled by the backend's thread

    def finished(self, on_cpu: bool) -> Op:
        """The op as it was seen. `on_cpu`: that is where its device's work is done."""
        assert self.end_us is not None, f"{self.op.name} was never waited for"
        dur_us = max(self.end_us - self.op.start_us, 0.0)
        cpu_us = min(self.cpu_us, dur_us) if on_cpu and self.op.kind is Kind.COMPUTE else 0.0
        return replace(self.op, dur_us=dur_us, cpu_us=cpu_us, flops=self.flops, mem_bytes=self.mem_bytes)
