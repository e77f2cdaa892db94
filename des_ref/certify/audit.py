"""Checks a step against its plan: each collective and copy runs once, with the planned kind and size; no other runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from des_ref.comm import Comm
from dessim.trace.schema import Kind, Op
from dessim.workload.plan import Plan

UNPLANNED = "unplanned"  # name under which ops that the plan does not list are counted


@dataclass(slots=True)
class _Totals:
    """Sums over the audited steps of one op."""

    recorded_bytes: int = 0
    formula_bytes: int = 0
    mismatches: int = 0


class Audit:
    """Recorded and planned bytes of each collective and copy, summed over steps and ranks.

    `symbols` holds the values of the plan's symbols that are the same in every step.
    """

    def __init__(self, plan: Plan, symbols: Mapping[str, float]) -> None:
        self._planned = {op.name: op for op in (*plan.collectives, *plan.copies)}
        self._symbols = symbols
        self._totals = {name: _Totals() for name in (*self._planned, UNPLANNED)}

    def add_step(self, ops: Sequence[Op]) -> None:
        """Compare one step of one rank with the plan. Compute ops are ignored."""
        missing = dict(self._planned)
        for op in ops:
            if op.kind is Kind.COMPUTE:
                continue
            planned = missing.pop(op.name, None)  # a second run of the same op counts as a mismatch
            planned_bytes = planned.bytes({**self._symbols, **op.vars}) if planned is not None else 0
            is_as_planned = (
                planned is not None
                and (op.kind, op.collective) == (planned.kind, planned.collective)
                and op.bytes == planned_bytes
            )
            name = op.name if op.name in self._planned else UNPLANNED
            self._add(name, op.bytes, planned_bytes, is_as_planned)
        for planned in missing.values():
            self._add(planned.name, 0, planned.bytes(self._symbols), is_as_planned=False)

    def _add(self, name: str, recorded_bytes: int, planned_bytes: int, is_as_planned: bool) -> None:
        totals = self._totals[name]
        totals.recorded_bytes += recorded_bytes
        totals.formula_bytes += planned_bytes
        totals.mismatches += not is_as_planned

    def gather(self, comm: Comm) -> list[dict[str, Any]]:
        """Totals over all ranks, one dict per op: `name`, `recorded_bytes`, `formula_bytes`, `mismatches`.

        Every rank calls it. `mismatches` counts single ops, so that errors of opposite sign cannot cancel.
        """
        own = [[t.recorded_bytes, t.formula_bytes, t.mismatches] for t in self._totals.values()]
        totals = torch.tensor(own, dtype=torch.int64, device=comm.device)
        comm.all_reduce("certificate", totals).wait()
        keys = ("recorded_bytes", "formula_bytes", "mismatches")
        return [
            {"name": name, **dict(zip(keys, row, strict=True))}
            for name, row in zip(self._totals, totals.tolist(), strict=True)
        ]
