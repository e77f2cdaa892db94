"""Parameter server, asynchronous: what `ps_sync` moves and computes, without waiting for the others.

The ops of a worker's step are the same, so are their bytes; a server applies each push when it comes instead of the sum
of all, and a worker's next pull waits for its own push alone, or for workers too far behind (bounded staleness).
"""

from __future__ import annotations

from dataclasses import replace

from dessim.workload.model import Model
from dessim.workload.plan import Plan
from dessim.workload.strategies.ps import ps_sync


def ps_async(model: Model) -> Plan:
    """Plan of a worker's step with an asynchronous parameter server."""
    return replace(ps_sync(model), strategy="ps_async", caveat="")
