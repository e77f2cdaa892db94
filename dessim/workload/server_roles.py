"""A parameter server's plan, split between workers and servers that are machines of their own.

The plan (dessim/workload/strategies/ps.py) puts a server on each of the N workers. Of its ops those belong to servers
that follow upon what workers send (requests in the input phase, pushes in the backward phase), the others to workers.
With S servers every formula is that of one of S shards: N is S where it counts shards. Two cases follow, and no new
formula is needed:

    a message    what one worker asks of one server: u/S rows, all different
    a step       what the workers ask of it together: U/S different rows
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from dessim.trace.schema import Kind, Phase
from dessim.workload.plan import Plan, PlannedOp, Traffic

Symbols = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Work:
    """FLOPs and bytes of memory traffic."""

    flops: float = 0.0
    mem: float = 0.0

    def __add__(self, other: Work) -> Work:
        return Work(self.flops + other.flops, self.mem + other.mem)


@dataclass(frozen=True, slots=True)
class Roles:
    """Who does what in a step: `prepare` and `compute` before and after a worker's pull; a server's `gather` for it,
    its `merge` of a push with the others, and its `update`; the messages `request`, `reply` and `push`."""

    prepare: tuple[PlannedOp, ...]
    compute: tuple[PlannedOp, ...]
    gather: tuple[PlannedOp, ...]
    merge: tuple[PlannedOp, ...]
    update: tuple[PlannedOp, ...]
    request: tuple[PlannedOp, ...]
    reply: tuple[PlannedOp, ...]
    push: tuple[PlannedOp, ...]

    @classmethod
    def of(cls, plan: Plan) -> Roles:
        """The roles in a plan of a parameter server."""
        sent = {op.name: op for op in plan.collectives if op.phase is not Phase.FORWARD}
        served: dict[str, PlannedOp] = {}
        for op in plan.ops:
            if op.kind is Kind.COMPUTE and any(dep in sent or dep in served for dep in op.deps):
                served[op.name] = op
        own = [op for op in plan.ops if op.kind is Kind.COMPUTE and op.name not in served]
        return cls(
            tuple(op for op in own if op.phase is Phase.INPUT),
            tuple(op for op in own if op.phase is not Phase.INPUT),
            *(
                tuple(op for op in served.values() if op.phase is phase)
                for phase in (Phase.FORWARD, Phase.BACKWARD, Phase.OPTIMIZER)
            ),
            *(
                tuple(op for op in plan.collectives if op.phase is phase)
                for phase in (Phase.INPUT, Phase.FORWARD, Phase.BACKWARD)
            ),
        )


def a_message(symbols: Symbols, servers: int) -> dict[str, float]:
    """The symbols of what one worker and one of `servers` do for each other."""
    return {**symbols, "N": float(servers), "u": symbols["u"] / servers, "U": symbols["u"]}


def a_step(symbols: Symbols, servers: int) -> dict[str, float]:
    """The symbols of what one of `servers` does once a step, for all workers."""
    return {**symbols, "N": float(servers)}


def size_of(ops: tuple[PlannedOp, ...], symbols: Symbols, servers: int, traffic: Traffic | None = None) -> float:
    """Bytes of a message between a worker and one of `servers`; `symbols` are the job's."""
    shards = a_step(symbols, servers)
    of_kind = (op for op in ops if traffic is None or op.traffic is traffic)
    return sum(op.size.evaluate(shards) for op in of_kind) / servers


def moved(plan: Plan, symbols: Symbols, servers: int, traffic: Traffic | None = None) -> float:
    """Bytes that a worker and its servers send each other in a step, of one kind of traffic or of all."""
    return servers * size_of(plan.collectives, symbols, servers, traffic)


def work_of(ops: tuple[PlannedOp, ...], symbols: Symbols) -> Work:
    """What ops cost a server, with the symbols of `a_message` or `a_step`."""
    return Work(sum(op.flops.evaluate(symbols) for op in ops), sum(op.mem.evaluate(symbols) for op in ops))


@dataclass(frozen=True, slots=True)
class Requests:
    """Of each server: bytes of its messages with one worker, its work for a pull and a push, and once a step."""

    request: float
    reply: float
    push: float
    gather: Work
    merge: Work
    apply: Work


def requests_of(plan: Plan, symbols: Symbols, servers: int, sync: bool) -> Requests:
    """What workers and `servers` want of each other. Dense parameters are pulled and pushed whole, a shard each.

    Synchronous servers add pushes up and update once a step; others update at each push.
    """
    roles, one = Roles.of(plan), a_message(symbols, servers)
    pulled = size_of(roles.reply, symbols, servers, Traffic.DENSE)
    pushed = size_of(roles.push, symbols, servers, Traffic.DENSE)
    summing = Work(pushed / symbols["s"], 3 * pushed)  # reads gradient and sum, writes the sum
    return Requests(
        request=size_of(roles.request, symbols, servers),
        reply=size_of(roles.reply, symbols, servers),
        push=size_of(roles.push, symbols, servers),
        gather=work_of(roles.gather, one) + Work(0.0, 2 * pulled),  # reads them, writes the message
        merge=work_of(roles.merge, one) + summing if sync else work_of(roles.update, one),
        apply=work_of(roles.update, a_step(symbols, servers)) if sync else Work(),
    )
