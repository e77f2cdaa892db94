"""Rows of a table spread over the workers of one server: TorchRec's table-row-wise, for tables of a composed plan.

Each id goes to the worker of the table's server that a hash names. Pooled vectors come back in two messages, as in
torchrec.distributed.sharding.twrw_sharding (TwRwPooledEmbeddingDist):

    pooled_server   ReduceScatter in the server: worker l gets the sums for the samples of the workers that have place l
                    in their servers
    pooled          AllToAll of the workers with place l in all servers, which brings these to their samples

Gradients return by an AllToAll between servers and then an AllGather in the server. With one worker a server nothing is
summed, and the messages are those of table_wise.
"""

from __future__ import annotations

from dataclasses import replace

from dessim.trace.schema import Collective, Phase
from dessim.workload.model import Model
from dessim.workload.plan import OwnerRole, Participants, Placement, Plan, PlannedOp, Traffic, collective
from dessim.workload.strategies.parts import POOLED, dense_grad, dense_part, ids_to_owners
from dessim.workload.strategies.sharded import lookup_and_pool, scatter_and_update
from dessim.workload.strategies.spec import StrategySpec
from dessim.workload.symbols import LOCAL_SAMPLES, L


def table_row_wise(model: Model) -> Plan:
    """Plan of table-row-wise sharding on servers of L workers, each of which pools for all tables of its server."""
    pooled = LOCAL_SAMPLES * L * POOLED  # B samples, and the mean tables of a server: F L / N
    return Plan(
        "table_row_wise",
        (
            *ids_to_owners(),
            *lookup_and_pool(pooled),
            _in_server("pooled_server", Phase.FORWARD, Collective.REDUCE_SCATTER, "pool"),
            _between("pooled", Phase.FORWARD, "pooled_server", OwnerRole.SENDS),
            *dense_part(model, LOCAL_SAMPLES, "pooled"),
            _between("pooled_grad", Phase.BACKWARD, "dense_backward", OwnerRole.RECEIVES),
            _in_server("pooled_grad_server", Phase.BACKWARD, Collective.ALL_GATHER, "pooled_grad"),
            dense_grad(model),
            *scatter_and_update(model, "pooled_grad_server", pooled),
        ),
        placement=Placement.SERVERS,
        owned=("F", "V", "m", "u", "U"),
    )


def _in_server(name: str, phase: Phase, op: Collective, dep: str) -> PlannedOp:
    """A collective of a server's workers, of the vectors of its tables for all samples."""
    size = LOCAL_SAMPLES * L * POOLED
    return replace(
        collective(name, phase, op, Traffic.SPARSE, size, dep, role=OwnerRole.WORKS), participants=Participants.SERVER
    )


def _between(name: str, phase: Phase, dep: str, role: OwnerRole) -> PlannedOp:
    """An AllToAll of the workers with one place in their servers, of the vectors of each server's tables."""
    size = LOCAL_SAMPLES * POOLED
    return replace(
        collective(name, phase, Collective.ALL_TO_ALL, Traffic.SPARSE, size, dep, role=role),
        participants=Participants.BETWEEN,
    )


TABLE_ROW_WISE = StrategySpec(
    "table_row_wise",
    build=lambda model, options: table_row_wise(model),
    table_placement=Placement.SERVERS,
)
