"""dessim compares strategies, fabrics and scales for training recommenders with huge sparse layers.

These are the public names:

    cluster = load_cluster("h100-8x_rail_128")
    rows = project(Job.of_model(load_model("deepfm")), cluster, ["des_all_reduce", "table_wise"], [8, 64])
    result = replay(load_trace("run.trace"), cluster)
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dessim.cluster import load_cluster
    from dessim.commands.collective import run_collective
    from dessim.commands.project import project
    from dessim.commands.replay import replay
    from dessim.sim.engine import simulate
    from dessim.trace.io import load_trace
    from dessim.workload.model import load_model
    from dessim.workload.scale import Job

__all__ = ["Job", "load_cluster", "load_model", "load_trace", "project", "replay", "run_collective", "simulate"]

# Names are imported on first use, so that `dessim --help` does not wait for numpy and networkx.
_MODULE_OF = {
    "Job": "dessim.workload.scale",
    "load_cluster": "dessim.cluster",
    "load_model": "dessim.workload.model",
    "load_trace": "dessim.trace.io",
    "project": "dessim.commands.project",
    "replay": "dessim.commands.replay",
    "run_collective": "dessim.commands.collective",
    "simulate": "dessim.sim.engine",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'dessim' has no attribute {name!r}")
    return getattr(import_module(_MODULE_OF[name]), name)
