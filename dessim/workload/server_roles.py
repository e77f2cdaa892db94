"""A parameter server's plan, split between workers and dedicated servers.

The plan (dessim/workload/strategies/ps.py) places a server on each of the N workers. Ops that follow messages from
workers (requests in the input phase, pushes in the backward phase) belong to servers, all others to workers. With S
dedicated servers the same formulas hold for one of S shards, with S for N where N counts shards. Two sets of symbols
suffice, and no new formula:

    a message    the request of one worker to one server: u/S rows, all distinct
    a step       the requests of all workers to one server: U/S distinct rows
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from dessim.trace.schema import Kind, Phase
from dessim.workload.owners import Owner
from dessim.workload.plan import Plan, PlannedOp, Traffic

Symbols = Mapping[str, float]  # values by name


@dataclass(frozen=True, slots=True)
class Work:
    """FLOPs and bytes of memory traffic."""

    flops: float = 0.0
    mem: float = 0.0

    def __add__(self, other: Work) -> Work:
        return Work(self.flops + other.flops, self.mem + other.mem)


@dataclass(frozen=True, slots=True)
class Roles:
    """The ops of a step by role.

    A worker computes `prepare` before its pull and `compute` after it. A server computes `gather` for a pull, `merge`
    to add a push to those of other workers, and `update`. `request`, `reply` and `push` are the messages.
    """

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
        """The roles in the plan of a parameter server."""
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
    """The symbols of the exchange between one worker and one of `servers`."""
    # The rows of a message are those that one worker needs, and so are their widths.
    widths = {"WU": symbols["Wu"]} if "Wu" in symbols else {}
    return {**symbols, **widths, "N": float(servers), "u": symbols["u"] / servers, "U": symbols["u"]}


def a_step(symbols: Symbols, servers: int) -> dict[str, float]:
    """The symbols of the work that one of `servers` does once a step, for all workers."""
    return {**symbols, "N": float(servers)}


def on_server(symbols: Symbols, owner: Owner) -> dict[str, float]:
    """A job's symbols as if every server were asked for as many rows as `owner` (owners.busiest_server)."""
    names = [name for name in ("u", "U", "Wu", "WU", "OU") if name in symbols]
    return {**symbols, **{name: symbols[name] * owner.scale.get(name, 1.0) for name in names}}


def size_of(ops: tuple[PlannedOp, ...], symbols: Symbols, servers: int, traffic: Traffic | None = None) -> float:
    """Bytes of a message between a worker and one of `servers`, of one kind of traffic or of all.

    `symbols` are the job's.
    """
    shards = a_step(symbols, servers)
    of_kind = (op for op in ops if traffic is None or op.traffic is traffic)
    return sum(op.size.evaluate(shards) for op in of_kind) / servers


def moved(plan: Plan, symbols: Symbols, servers: int, traffic: Traffic | None = None) -> float:
    """Bytes that a worker and all servers send each other in a step, of one kind of traffic or of all."""
    return servers * size_of(plan.collectives, symbols, servers, traffic)


def work_of(ops: tuple[PlannedOp, ...], symbols: Symbols) -> Work:
    """The work of ops on a server, with the symbols of `a_message` or `a_step`."""
    return Work(sum(op.flops.evaluate(symbols) for op in ops), sum(op.mem.evaluate(symbols) for op in ops))


@dataclass(frozen=True, slots=True)
class Requests:
    """The load of one server.

    `request`, `reply`, `push`: bytes of its messages with one worker.
    `gather`, `merge`: work for one pull and for one push. `apply`: work once a step.
    """

    request: float
    reply: float
    push: float
    gather: Work
    merge: Work
    apply: Work


def requests_of(plan: Plan, symbols: Symbols, servers: int, sync: bool) -> Requests:
    """The load of each of `servers`. Dense parameters are pulled and pushed whole, one shard a server.

    Synchronous servers sum pushes and update once a step; asynchronous ones update at each push.
    """
    roles = Roles.of(plan)
    message = a_message(symbols, servers)
    pulled = size_of(roles.reply, symbols, servers, Traffic.DENSE)
    pushed = size_of(roles.push, symbols, servers, Traffic.DENSE)
    summing = Work(pushed / symbols["s"], 3 * pushed)  # reads gradient and sum, writes the sum
    return Requests(
        request=size_of(roles.request, symbols, servers),
        reply=size_of(roles.reply, symbols, servers),
        push=size_of(roles.push, symbols, servers),
        gather=work_of(roles.gather, message) + Work(0.0, 2 * pulled),  # reads parameters, writes the message
        merge=work_of(roles.merge, message) + summing if sync else work_of(roles.update, message),
        apply=work_of(roles.update, a_step(symbols, servers)) if sync else Work(),
    )
