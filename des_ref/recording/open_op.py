"""An op from its start until it stands in a trace: what the recorder notes meanwhile, and what the plan says of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from dessim.errors import FormulaError
from dessim.trace.schema import Collective, Kind, Op
from dessim.workload.plan import Plan

Symbols = Mapping[str, float]


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


def as_planned(op: Op, plan: Plan | None, variables: Mapping[str, Symbols], notes: Mapping[str, Symbols]) -> Op:
    """The op with the plan's phase and formulas, where the plan names it.

    `variables`: the data-dependent symbols, an op; `notes`: those that became known while values were encoded.
    """
    try:
        planned = plan.op(op.name) if plan is not None else None
    except FormulaError:
        planned = None
    if planned is None:
        return op
    is_compute = op.kind is Kind.COMPUTE
    return replace(
        op,
        phase=planned.phase,
        size=None if is_compute else str(planned.size),
        flops_size=str(planned.flops) if is_compute else None,
        mem_size=str(planned.mem) if is_compute else None,
        vars={**variables.get(planned.part_of or op.name, {}), **notes.get(planned.part_of, {})},
    )


def with_sizes(ops: Sequence[Op], variables: Mapping[str, Symbols]) -> list[Op]:
    """Ops that were taken before their data-dependent symbols were known, with these."""
    return [replace(op, vars=dict(variables.get(op.name, {}))) for op in ops]
