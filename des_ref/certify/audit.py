"""Whether a step's collectives and copies are its plan's: each once, of its kind, of its formula's bytes; no others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from des_ref.comm import Comm
from dessim.trace.schema import Kind, Op
from dessim.workload.plan import Plan

UNPLANNED = "unplanned"  # what the plan does not name


class Audit:
    """Bytes of each collective and copy, as recorded and by formula, over steps and ranks."""

    def __init__(self, plan: Plan, symbols: Mapping[str, float]) -> None:
        self._planned = {op.name: op for op in (*plan.collectives, *plan.copies)}
        self._symbols = symbols
        self._names = [*self._planned, UNPLANNED]
        self._sums = {name: [0, 0, 0] for name in self._names}

    def add_step(self, ops: Sequence[Op]) -> None:
        """One rank's step: each planned op once, of its kind and its bytes, and nothing else that moves any."""
        missing = dict(self._planned)
        for op in ops:
            if op.kind is Kind.COMPUTE:
                continue
            planned = missing.pop(op.name, None)
            due = planned.bytes({**self._symbols, **op.vars}) if planned is not None else 0
            is_right = (
                planned is not None
                and (op.kind, op.collective) == (planned.kind, planned.collective)
                and op.bytes == due
            )
            self._add(op.name if op.name in self._planned else UNPLANNED, op.bytes, due, is_right)
        for planned in missing.values():
            self._add(planned.name, 0, planned.bytes(self._symbols), False)

    def _add(self, name: str, recorded: int, by_formula: int, is_right: bool) -> None:
        sums = self._sums[name]
        sums[0] += recorded
        sums[1] += by_formula
        sums[2] += not is_right

    def gather(self, comm: Comm) -> list[dict[str, Any]]:
        """Totals over ranks, an op; `mismatches` counts single ops that are not as planned, so that none can cancel."""
        totals = torch.tensor([self._sums[name] for name in self._names], dtype=torch.int64, device=comm.device)
        comm.all_reduce("certificate", totals).wait()
        keys = ("recorded_bytes", "formula_bytes", "mismatches")
        return [
            {"name": n, **dict(zip(keys, row, strict=True))}
            for n, row in zip(self._names, totals.tolist(), strict=True)
        ]
