"""The GPU memory that a rank needs, and the cost of keeping part of the rows in the host's memory.

Between steps a worker holds the rows that its strategy gives it (a share 1/N, or all), their optimizer state, the index
that finds them, and the dense weights with Adam's two moments. Activations are everything that a step creates: the
results that compute ops leave for later ones (`PlannedOp.keeps`) and the results of collectives. All of it counts as
held until the step ends. Only the gradients of hidden layers do not count, because they replace activations that the
backward pass no longer needs.

With few samples a step needs the most memory later, in the dense optimizer: Adam keeps one more float a weight while it
runs (torch's foreach implementation, the default on GPUs), and the layers' activations are free by then.

Rows that do not fit may *spill*: their values and optimizer state live in the host's memory, while the index remains on
the GPU. The hottest rows remain on the GPU. Ids follow the Zipf law of the model file, and each distinct row of a step
is read once and updated once, over a full-duplex link.

The sum is within 25 % of the trainer's highest peak in several steps (tests/des_ref/test_memory.py). Of dlrm_dcnv2 with
256 samples on one process it is 96 to 108 % under six strategies (156 to 203 MB), of deepfm with 1,024 samples 90 to
117 % under four (20 to 26 MB).

With dedicated parameter servers (`served_memory`) a worker holds no rows and no optimizer state. Each of S servers
holds 1/S of everything, and room for the messages that all workers may have sent it.

Not included: the driver's context and NCCL's buffers (under 1 GiB together), fragmentation, the doubling of a growing
hash table, the capacity of the host's memory, and GPUs that share its bandwidth. On a CPU torch's Adam keeps three
times the largest weight matrix instead of one float a weight.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dessim.errors import CapacityError
from dessim.trace.schema import PREFETCH, Collective, Kind, Phase
from dessim.units import format_size
from dessim.workload.formula import group
from dessim.workload.model import Model
from dessim.workload.owners import MEAN, Owner
from dessim.workload.plan import OwnerRole, Plan, PlannedOp
from dessim.workload.server_roles import Roles, a_step, size_of
from dessim.workload.spilt import (
    HOST_ROWS,
    HOST_STATE,
    INDEX_OF_CACHE,
    MISSED,
    ROWS_ON_GPU,
    STATE_ON_GPU,
    value_of,
)
from dessim.workload.symbols import k

# Bytes a row. The index is at most half full, so a row takes its id and two slots with an 8-byte row number each
# (des_ref/embedding/hash_table.py).
INDEX = 3 * k

Symbols = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes that a rank needs on its GPU, by purpose, and those of spilt tables in its host's memory."""

    rows: float
    row_state: float
    index: float
    dense: float
    activations: float
    host: float = 0.0

    @property
    def spillable(self) -> float:
        """Bytes that may live in the host's memory instead."""
        return self.rows + self.row_state

    @property
    def resident(self) -> float:
        """Bytes that must be on the GPU."""
        return self.index + self.dense + self.activations

    @property
    def total(self) -> float:
        return self.spillable + self.resident

    def to_json(self) -> dict[str, Any]:
        return {f"{name}_bytes": getattr(self, name) for name in self.__slots__ if name != "host"}

    def __str__(self) -> str:
        return (
            f"rows {format_size(self.rows)}, their optimizer state {format_size(self.row_state)}, "
            f"ids and index {format_size(self.index)}, dense weights and moments {format_size(self.dense)}, "
            f"activations {format_size(self.activations)}"
        )


@dataclass(frozen=True, slots=True)
class Spill:
    """Rows in the host's memory.

    `rows_share`: their share of a rank's rows. `reads_share`: their share of the rows that a step reads.
    `host_bytes`: their bytes a rank. `seconds`: transfer time to and from the host, by op that touches rows.
    """

    rows_share: float
    reads_share: float
    host_bytes: float
    seconds: Mapping[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return {"rows_share": self.rows_share, "reads_share": self.reads_share, "host_bytes": self.host_bytes}


def memory_of(plan: Plan, symbols: Symbols, owners: Sequence[Owner] = (MEAN,)) -> Memory:
    """The memory of a rank that runs `plan`, the most that any of `owners` needs; `symbols` are those of its job."""
    return max(memory_by_owner(plan, symbols, owners), key=lambda memory: memory.total)


def memory_by_owner(plan: Plan, symbols: Symbols, owners: Sequence[Owner]) -> list[Memory]:
    """The memory of a rank of each of `owners`."""
    return [_memory_of(plan, symbols, owner) for owner in owners]


def _memory_of(plan: Plan, symbols: Symbols, owner: Owner) -> Memory:
    owned = owner.symbols(symbols)
    kept = {phase: 0.0 for phase in Phase}
    for op in plan.ops:
        # Ids that are sent a step ahead exist for this step and for the next one.
        result = result_bytes(op, symbols if op.role is OwnerRole.NONE else owned)
        kept[op.phase] += result * (2 if op.stream == PREFETCH else 1)
    # Results of optimizer ops are the weights of the next step. All other results end with the step.
    dense = kept.pop(Phase.OPTIMIZER)
    most = sum(kept.values())
    host = sum(value_of(HOST_ROWS + HOST_STATE, part, owned) for part in plan.groups)
    return Memory(*_held(plan, owned), dense, max(most, most + _in_optimizer(plan, owned)), host)


def _in_optimizer(plan: Plan, symbols: Symbols) -> float:
    """Bytes that a step holds in the dense optimizer beyond the most that it holds before.

    The foreach implementation of Adam, torch's default on GPUs, keeps the square roots of all second moments. By then
    the activations of layers and the buffer of summed gradients are free.
    """
    roots = sum(op.width.evaluate(symbols) for op in plan.ops if op.name == "update_dense") * symbols["so"]
    layers = sum(op.keeps.evaluate(symbols) for op in plan.ops if op.name in ("tail_forward", "dense_forward"))
    return roots - layers - sum(result_bytes(op, symbols) for op in plan.ops if op.collective is Collective.ALL_REDUCE)


def served_memory(plan: Plan, symbols: Symbols, servers: int) -> tuple[Memory, Memory]:
    """The memory of a worker and that of each of `servers` dedicated servers."""
    roles = Roles.of(plan)
    shard = a_step(symbols, servers)
    pulled = servers * size_of(roles.reply, symbols, servers)
    worker = pulled + sum(op.keeps.evaluate(symbols) for op in (*roles.prepare, *roles.compute))
    dense = sum(op.keeps.evaluate(shard) for op in roles.update)
    summed = sum(op.keeps.evaluate(shard) for op in roles.merge)
    waiting = symbols["N"] * size_of(roles.push, symbols, servers)
    return Memory(0.0, 0.0, 0.0, 0.0, worker), Memory(*_held(plan, shard), dense, waiting + summed)


def require_servers(memory: Memory, capacity: float, device: str, what: str, servers: int) -> None:
    """Raise CapacityError unless a server's memory fits its host's `capacity` [bytes].

    `device` is the host's part and `what` the job, for the message.
    """
    if memory.total > capacity:
        enough = math.ceil(servers * memory.total / capacity)
        raise CapacityError(
            f"{what} does not fit: a parameter server needs {format_size(memory.total)} ({memory}), a host with "
            f"{device} has {format_size(capacity)}; use about --servers {enough:,} or more"
        )


def require(memory: Memory, capacity: float, gpu: str, *, what: str, symbols: Symbols, spill: bool = False) -> None:
    """Raise CapacityError unless a rank's memory fits a GPU of `capacity` bytes.

    With `spill` only what cannot spill must fit. `what` names the job and `gpu` the part, for the message.
    """
    if (memory.resident if spill else memory.total) <= capacity:
        return
    room = capacity - memory.dense - memory.activations
    sharded = memory.index + (0.0 if spill else memory.spillable)
    advice = []
    if room > 0 and sharded > 0:
        advice.append(f"about {math.ceil(symbols['N'] * sharded / room):,} GPUs or more")
    if sharded + memory.dense <= capacity:
        advice.append("fewer samples a GPU (--batch-per-worker)")
    if not spill and memory.resident <= capacity:
        advice.append("--spill, which leaves rows in the host's memory")
    raise CapacityError(
        f"{what} does not fit: a GPU needs {format_size(memory.total)} ({memory})"
        f"{' and can spill only the rows and their state' if spill else ''}, {gpu} has {format_size(capacity)}; "
        f"use {', or '.join(advice) or 'GPUs with more memory'}"
    )


def spill_of(
    plan: Plan, model: Model, memory: Memory, *, symbols: Symbols, capacity: float, bandwidth: float
) -> Spill | None:
    """The rows that spill from a rank whose `memory.resident` fits in `capacity` bytes; None if everything fits.

    `bandwidth` [bytes/s] is the payload rate to the host's memory in each direction.
    """
    if memory.total <= capacity:
        return None
    rows_share = 1 - (capacity - memory.resident) / memory.spillable
    cold = _cold(model, symbols, (1 - rows_share) * symbols["V"])
    reads = [op for op in plan.ops if op.phase is Phase.FORWARD and op.table_rows]
    touched, missed = (sum(op.table_rows.evaluate(values) for op in reads) for values in (symbols, cold))
    seconds = {}
    for op in plan.ops:
        if op.table_rows:
            # Reads fetch the values. Updates fetch and return values and state, in both directions at a time.
            row = plan.row_bytes if op.phase is Phase.FORWARD else group(plan.row_bytes + plan.state_bytes)
            moved = group(op.table_rows) * row
            seconds[op.name] = moved.evaluate(cold) / bandwidth
    return Spill(rows_share, missed / touched, rows_share * memory.spillable, seconds)


def spill_of_groups(plan: Plan, symbols: Symbols, memories: Sequence[Memory]) -> Spill:
    """The rows in the host's memory of a plan with spilt tables: those of the rank that has the most of `memories`."""
    fullest = max(memories, key=lambda memory: memory.host)
    rows_share = fullest.host / (fullest.host + fullest.spillable)  # rows in a cache are in both memories
    read = sum(op.table_rows.evaluate(symbols) for op in plan.ops if op.phase is Phase.FORWARD)
    missed = sum(value_of(MISSED, part, symbols) for part in plan.groups)
    return Spill(rows_share, missed / read, fullest.host)


def _held(plan: Plan, symbols: Symbols) -> tuple[float, float, float]:
    """Bytes of the rows that one rank or server holds, of their optimizer state and of their index."""
    row = 0.0
    state = 0.0
    index = 0.0
    for part in plan.groups or (plan,):
        rows = part.rows_held.evaluate(symbols)
        row += rows * part.row_bytes.evaluate(symbols)
        state += rows * part.state_bytes.evaluate(symbols)
        index += rows * INDEX.evaluate(symbols)
    for spilt in plan.groups:
        row += value_of(ROWS_ON_GPU, spilt, symbols)
        state += value_of(STATE_ON_GPU, spilt, symbols)
        index += value_of(INDEX_OF_CACHE, spilt, symbols)
    return row, state, index


def _cold(model: Model, symbols: Symbols, hot: float) -> dict[str, float]:
    """The symbols, with u and U counting only ids that are not among the `hot` most frequent."""
    law = model.law
    draws = {"u": symbols["B"] / symbols["N"] * symbols["m"], "U": symbols["B"] * symbols["m"]}
    return {
        **symbols,
        **{name: symbols[name] * law.unique(count, hot) / law.unique(count) for name, count in draws.items()},
    }


def result_bytes(op: PlannedOp, symbols: Symbols) -> float:
    """Bytes that an op's result adds to its inputs, on a worker of these symbols. AllReduces may sum in place."""
    if op.kind is Kind.COMPUTE:
        return op.keeps.evaluate(symbols)
    size = op.size.evaluate(symbols)
    match op.collective:
        case Collective.ALL_REDUCE:
            return op.keeps.evaluate(symbols)
        case Collective.REDUCE_SCATTER:
            return size / op.members(symbols)
    return size
