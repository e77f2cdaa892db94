"""dessim compares strategies, fabrics and scales for training recommenders with huge sparse layers.

    steps = dessim.project("deepfm", "h100-8x_rail_128", ["des_all_reduce", "table_wise"], [8, 64])
    fastest = max(steps, key=lambda step: step.samples_per_s)

The names below are public and stable: docs/api.md shows them all, and a name that will go warns for a release first.
Everything else may change with any release.
"""

from __future__ import annotations

from importlib import import_module

from dessim.lazy import finder

TYPE_CHECKING = False  # that of `typing` takes longer to import than the rest that runs before signals are handled
if TYPE_CHECKING:
    from typing import Any

    from dessim.api.load import load_cluster, load_model, load_trace
    from dessim.api.regression import assert_unchanged, check, record
    from dessim.api.studies import collective, goodput, plan_job, project, replay
    from dessim.cluster.graph import Cluster
    from dessim.commands.collective import run_collective as run_collective
    from dessim.errors import (
        CapacityError,
        ClusterError,
        DessimError,
        FileError,
        ModelError,
        OutOfTime,
        SimulationError,
        TraceError,
        UnitError,
        UsageError,
    )
    from dessim.golden.changes import OpChange, StepChange
    from dessim.golden.check import CheckResult
    from dessim.results.flat.collectives import CollectiveResult
    from dessim.results.flat.goodput import GoodputResult, GoodputRow
    from dessim.results.flat.plans import PlanResult, PlanRow, PlanStepRow, TableRow
    from dessim.results.flat.steps import MisfitRow, OpRow, PathRow, ProjectResult, ReplayResult, StepRow, WhatIfRow
    from dessim.sim.engine import simulate as simulate
    from dessim.sim.progress import Progress
    from dessim.trace.io import Trace
    from dessim.workload.model import Model
    from dessim.workload.scale import Job

__all__ = [
    "CapacityError",
    "CheckResult",
    "Cluster",
    "ClusterError",
    "CollectiveResult",
    "DessimError",
    "FileError",
    "GoodputResult",
    "GoodputRow",
    "Job",
    "MisfitRow",
    "Model",
    "ModelError",
    "OpChange",
    "OpRow",
    "OutOfTime",
    "PathRow",
    "PlanResult",
    "PlanRow",
    "PlanStepRow",
    "Progress",
    "ProjectResult",
    "ReplayResult",
    "SimulationError",
    "StepChange",
    "StepRow",
    "TableRow",
    "Trace",
    "TraceError",
    "UnitError",
    "UsageError",
    "WhatIfRow",
    "assert_unchanged",
    "check",
    "collective",
    "goodput",
    "load_cluster",
    "load_model",
    "load_trace",
    "plan_job",
    "project",
    "record",
    "replay",
]

# Names are imported on first use, so that `dessim --help` does not wait for numpy and networkx.
_NAMES_OF = {
    "dessim.api.load": ("load_cluster", "load_model", "load_trace"),
    "dessim.api.regression": ("assert_unchanged", "check", "record"),
    "dessim.api.studies": ("collective", "goodput", "plan_job", "project", "replay"),
    "dessim.cluster.graph": ("Cluster",),
    "dessim.errors": (
        *("CapacityError", "ClusterError", "DessimError", "FileError", "ModelError", "OutOfTime"),
        *("SimulationError", "TraceError", "UnitError", "UsageError"),
    ),
    "dessim.golden.changes": ("OpChange", "StepChange"),
    "dessim.golden.check": ("CheckResult",),
    "dessim.results.flat.collectives": ("CollectiveResult",),
    "dessim.results.flat.goodput": ("GoodputResult", "GoodputRow"),
    "dessim.results.flat.plans": ("PlanResult", "PlanRow", "PlanStepRow", "TableRow"),
    "dessim.results.flat.steps": (
        *("MisfitRow", "OpRow", "PathRow", "ProjectResult", "ReplayResult", "StepRow", "WhatIfRow"),
    ),
    "dessim.sim.progress": ("Progress",),
    "dessim.trace.io": ("Trace",),
    "dessim.workload.model": ("Model",),
    "dessim.workload.scale": ("Job",),
}
_find = finder(__name__, _NAMES_OF)

_DEPRECATED = {
    "run_collective": ("dessim.commands.collective", "dessim.collective, whose result is flat"),
    "simulate": ("dessim.sim.engine", "dessim.sim.engine.simulate, which is not public"),
}
"""Names that will go: where they still are, and what to use instead."""


if not TYPE_CHECKING:  # so that type checkers report names that do not exist

    def __getattr__(name: str) -> Any:
        if name in _DEPRECATED:
            from dessim.deprecation import warn

            module, instead = _DEPRECATED[name]
            warn(f"dessim.{name}", instead)
            return getattr(import_module(module), name)
        return _find(name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
