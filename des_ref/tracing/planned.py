"""Recorded ops as the strategy's plan describes them: each planned op gets its phase, size formulas and symbols."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Self

from des_ref.comm import Comm
from des_ref.recording.recorder import Recorder
from dessim.errors import FormulaError
from dessim.trace.schema import Kind, Op
from dessim.workload.plan import Plan

Symbols = Mapping[str, float]


class PlannedRecorder(Recorder):
    """A recorder whose ops carry the formulas of `plan`. Ops that the plan does not name carry none."""

    def __init__(self, comm: Comm, plan: Plan) -> None:
        super().__init__(comm)
        self._plan = plan

    def take_planned(self, variables: Mapping[str, Symbols]) -> list[Op]:
        """The last step's ops with their formulas. `variables` holds the data-dependent symbols of each op, by name."""
        return [_planned(op, self._plan, variables, self.notes) for op in self.take()]

    def _for_thread(self, comm: Comm) -> Self:
        return type(self)(comm, self._plan)


def with_sizes(ops: Sequence[Op], variables: Mapping[str, Symbols]) -> list[Op]:
    """`ops`, taken before their data-dependent symbols were known, with those symbols."""
    return [replace(op, vars=dict(variables.get(op.name, {}))) for op in ops]


def _planned(op: Op, plan: Plan, variables: Mapping[str, Symbols], notes: Mapping[str, Symbols]) -> Op:
    """`op` with the plan's phase, formulas and symbols. `notes` holds symbols that encoding an op revealed."""
    try:
        planned = plan.op(op.name)
    except FormulaError:  # the plan has no such op
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
