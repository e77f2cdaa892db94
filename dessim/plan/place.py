"""Places shards on workers by load: greedily, heaviest first, then by moves and swaps that relieve the busiest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from dessim.arrays import Bools, Floats, Ints, significant
from dessim.plan.loads import MEMORY, STAGES, Choice, Loads
from dessim.workload.composed import ON_SERVERS, TablePlan, placement_of
from dessim.workload.plan import Placement

_ROUNDS = 300
_SPLITS = 8
"""How often shards are split."""
_TRIED = 6
"""How many shards each split tries."""
_P_NORM = 12  # order of the norm that stands for the maximum
_DIGITS = 10
"""Decimals of loads that are compared, relative to their means. The last bits differ between processors."""
_GAIN = 1e-9


@dataclass(frozen=True, slots=True)
class Placed:
    """A strategy and owners for each table.

    `seconds`: the estimate of a step. `loads` [workers, 4]: by stage, of tables alone; bytes of memory are the last.
    `replicas`: the number of replicas of the tables, each on a block of workers.
    """

    tables: tuple[TablePlan, ...]
    seconds: float
    loads: Floats
    replicas: int = 1


@dataclass(frozen=True, slots=True)
class _Shards:
    """The shards of tables that are placed whole or by columns: their table, and load by stage [shards, 4]."""

    table: Ints
    load: Floats


def place(loads: Loads, choices: Sequence[Choice], widths: Sequence[int], nodes: Ints) -> Placed | None:
    """Owners for the tables that `choices` place whole or by columns; None if some shard fits the memory of no worker.

    `widths`: columns of each table. `nodes` [workers]: the server of each worker.
    """
    of_strategy = _by_strategy(loads, choices)
    held = sum(of_strategy.values(), np.zeros((loads.workers, len(STAGES))))[:, MEMORY]
    on_servers = _on_servers(loads, choices, loads.room - held)
    if on_servers is None:
        return None
    first_workers, of_servers = on_servers
    if first_workers:
        of_strategy[ON_SERVERS] = of_strategy[ON_SERVERS] + of_servers
    others = sum(of_strategy.values(), np.zeros((loads.workers, len(STAGES))))
    shards = _shards(loads, choices)
    owner = np.zeros(0, dtype=np.int64)
    if len(shards.table):
        greedy = _greedy(shards, loads.room - others[:, MEMORY], nodes)
        if greedy is None:
            return None
        owner = _improved(shards, greedy, loads.room - others[:, MEMORY])
    placed = _by_worker(shards, owner, loads.workers)
    tables = []
    for number, (choice, width) in enumerate(zip(choices, widths, strict=True)):
        load = loads.by_choice[choice][number]
        cached = load.cached_rows if load is not None else 0
        if number in first_workers:
            first = first_workers[number]
            ranks = tuple(range(first, first + choice.parts))
            tables.append(TablePlan(choice.strategy, ranks, cached_rows=cached))
            continue
        ranks = tuple(sorted(owner[shards.table == number].tolist()))
        columns = (width // choice.parts,) * len(ranks)
        tables.append(TablePlan(choice.strategy, ranks, columns, cached))
    return Placed(tuple(tables), _estimated(loads, of_strategy, placed), others + placed)


def split_further(
    loads: Loads,
    choices: Sequence[Choice],
    first: Placed,
    *,
    widths: Sequence[int],
    nodes: Ints,
    movable: Sequence[int],
) -> Placed:
    """The plan `first` of `choices`, with the heaviest shards of `movable` tables split while that makes it faster.

    The program that chose the parts knows no owners: to it, a shard as heavy as a worker's mean load is no problem.
    """
    best = first
    choices = list(choices)
    for _ in range(_SPLITS):
        splits = [table for table in movable if choices[table].placement is Placement.TABLES]
        heavy = [(_weight(loads, choices[table], table), table) for table in splits]
        tried: list[tuple[Placed, int, Choice]] = []
        for _, table in sorted(heavy, key=lambda entry: (-entry[0], entry[1]))[:_TRIED]:
            choice = replace(choices[table], parts=2 * choices[table].parts)
            if choice in loads.by_choice and loads.by_choice[choice][table] is not None:
                changed = [choice if number == table else kept for number, kept in enumerate(choices)]
                placed = place(loads, changed, widths, nodes)
                if placed is not None:
                    tried.append((placed, table, choice))
        if not tried:
            break
        placed, table, choice = min(tried, key=lambda entry: (significant(entry[0].seconds), entry[1]))
        if placed.seconds >= best.seconds * (1 - 1e-6):
            break
        best = placed
        choices[table] = choice
    return best


def _weight(loads: Loads, choice: Choice, table: int) -> float:
    """Seconds of one shard of a table, to nine digits."""
    load = loads.by_choice[choice][table]
    return 0.0 if load is None else significant(float(load.owned[:2].sum()))


def estimate(loads: Loads, choices: Sequence[Choice], placed: Floats) -> float:
    """Seconds of a step by formula; `placed` [workers, 4] is the load of whole tables by worker and stage."""
    return _estimated(loads, _by_strategy(loads, choices), placed)


def _estimated(loads: Loads, of_strategy: Mapping[str, Floats], placed: Floats) -> float:
    chain = loads.dense_s
    traffic = loads.dense_grad_s
    for strategy, load in of_strategy.items():
        fixed = loads.fixed[strategy]
        busiest = (load + (placed if placement_of(strategy) is Placement.TABLES else 0.0)).max(axis=0)
        compute, messages, inputs, _ = busiest.tolist()
        chain += max(fixed.launch, fixed.floor + compute) + fixed.messages + messages
        traffic += fixed.messages + messages + fixed.input + inputs
    return max(chain, traffic)


def _of_strategy(loads: Loads, choices: Sequence[Choice], strategy: str) -> Floats:
    """The load of a strategy's tables on each worker by stage [workers, 4], without owners of whole tables."""
    total = np.zeros((loads.workers, len(STAGES)))
    for table, choice in enumerate(choices):
        load = loads.by_choice[choice][table]
        if choice.strategy != strategy or load is None:
            continue
        total += load.everywhere
        if choice in loads.shares:
            total += loads.shares[choice][table][:, None] * load.owned
    return total


def _by_strategy(loads: Loads, choices: Sequence[Choice]) -> dict[str, Floats]:
    """The load of each strategy's tables on each worker by stage [workers, 4], without owners of whole tables."""
    used = {choice.strategy for choice in choices}
    return {strategy: _of_strategy(loads, choices, strategy) for strategy in loads.fixed if strategy in used}


def _shards(loads: Loads, choices: Sequence[Choice]) -> _Shards:
    tables = []
    rows = []
    for table, choice in enumerate(choices):
        load = loads.by_choice[choice][table]
        if choice.placement is Placement.TABLES and load is not None:
            tables += [table] * choice.parts
            rows += [load.owned] * choice.parts
    return _Shards(np.array(tables, dtype=np.int64), np.array(rows).reshape(-1, len(STAGES)))


def _on_servers(loads: Loads, choices: Sequence[Choice], room: Floats) -> tuple[dict[int, int], Floats] | None:
    """The first worker of each table's server, and the load of these tables by worker and stage [workers, 4].

    The heaviest table comes first. Each goes to the server with room that has the least compute and messages then.
    None if no server has room for a table.
    """
    total = np.zeros((loads.workers, len(STAGES)))
    first_workers = {}
    on_servers = [table for table, choice in enumerate(choices) if choice.placement is Placement.SERVERS]
    for table in sorted(on_servers, key=lambda table: (-_weight(loads, choices[table], table), table)):
        server = choices[table].parts
        load = loads.by_choice[choices[table]][table]
        assert load is not None
        after = total[::server] + load.owned
        fits = (room - total[:, MEMORY]).reshape(-1, server).min(axis=1) >= load.owned[MEMORY]
        if not fits.any():
            return None
        seconds = np.where(fits, after[:, :2].sum(axis=1), np.inf)
        first = server * int(np.argmin([significant(of_server) for of_server in seconds.tolist()]))
        total[first : first + server] += load.owned
        first_workers[table] = first
    return first_workers, total


def _by_worker(shards: _Shards, owner: Ints, workers: int) -> Floats:
    """The load of shards by worker and stage [workers, 4]."""
    total = np.zeros((workers, len(STAGES)))
    np.add.at(total, owner, shards.load)
    return total


def _greedy(shards: _Shards, room: Floats, nodes: Ints) -> Ints | None:
    """Owners of the shards: the heaviest shard first, each where the busiest workers' compute and messages grow least.

    Of equal workers with room the least loaded one is taken, then one on the least loaded server, because its workers
    share its NICs. No worker gets two parts of a table. None if a shard has no room anywhere.
    """
    load = shards.load[:, :MEMORY] / _means(shards, len(room))
    weight = np.maximum(load[:, :2].max(axis=1), shards.load[:, MEMORY] / max(room.max(), 1.0))
    order = np.lexsort((np.arange(len(weight)), -np.round(weight, _DIGITS)))
    owner = np.full(len(order), -1, dtype=np.int64)
    left = room.copy()
    busy = np.zeros((len(room), MEMORY))
    of_node = np.zeros(int(nodes.max()) + 1)
    everyone = np.arange(len(room))
    seconds = shards.load[:, :2].sum(axis=0) / shards.load[:, :2].sum()
    tables = shards.table.tolist()
    memory = shards.load[:, MEMORY].tolist()
    owners_of: dict[int, list[int]] = {}
    for shard in order.tolist():
        taken = owners_of.setdefault(tables[shard], [])
        fits = left >= memory[shard]
        fits[taken] = False
        if not fits.any():
            return None
        after = busy + load[shard]
        longest = np.maximum(busy.max(axis=0), after)[:, :2] @ seconds
        keys = (of_node[nodes], (after**2).sum(axis=1).round(_DIGITS), longest.round(_DIGITS), ~fits)
        best = int(np.lexsort((everyone, *keys))[0])
        owner[shard] = best
        taken.append(best)
        left[best] -= memory[shard]
        busy[best] += load[shard]
        of_node[nodes[best]] += load[shard].sum()
    return owner


def _means(shards: _Shards, workers: int) -> Floats:
    """The mean load of a worker by timed stage [3]; 1 where there is none."""
    means = shards.load[:, :MEMORY].sum(axis=0) / workers
    return np.where(means > 0, means, 1.0)


def _improved(shards: _Shards, owner: Ints, room: Floats) -> Ints:
    """Move shards of a busiest worker, or swap them with others, while that evens out compute and messages."""
    owner = owner.copy()
    stages = shards.load[:, :2] / _means(shards, len(room))[:2]
    seconds = shards.load[:, :2].sum(axis=0) / shards.load[:, :2].sum()
    for _ in range(_ROUNDS):
        now = _Owned.of(shards, owner, stages, len(room))
        tops = dict.fromkeys(now.busy.round(_DIGITS).argmax(axis=0).tolist())
        steps = [
            _best_step(shards, owner, stages, now=now, room=room, worker=worker, seconds=seconds) for worker in tops
        ]
        best = min(steps, key=lambda step: step[0])
        if best[0] >= -_GAIN:
            break
        for shard, worker in best[1]:
            owner[shard] = worker
    return owner


@dataclass(frozen=True, slots=True)
class _Owned:
    """The load of workers.

    `busy` [workers, 2]: compute and messages, relative to their means; `powers`: the same to the power of the norm.
    `memory` [workers]: bytes. `has` [workers, tables]: whether a worker has a part of a table.
    """

    busy: Floats
    powers: Floats
    memory: Floats
    has: Bools

    @classmethod
    def of(cls, shards: _Shards, owner: Ints, stages: Floats, workers: int) -> _Owned:
        busy = np.zeros((workers, 2))
        np.add.at(busy, owner, stages)
        has = np.zeros((workers, int(shards.table.max()) + 1), dtype=bool)
        has[owner, shards.table] = True
        memory = np.bincount(owner, shards.load[:, MEMORY], minlength=workers).astype(np.float64, copy=False)
        return cls(busy, busy**_P_NORM, memory, has)


def _best_step(
    shards: _Shards,
    owner: Ints,
    stages: Floats,
    *,
    now: _Owned,
    room: Floats,
    worker: int,
    seconds: Floats,
) -> tuple[float, list[tuple[int, int]]]:
    """The change of unevenness by the best move or swap of a shard of `worker`, and the new owner of each shard.

    Unevenness is the norm of the workers' compute, and of their messages, in which the busiest workers count most.
    """
    workers = len(room)
    busy = now.busy
    powers = now.powers
    memory = now.memory
    is_ours = owner == worker
    ours = is_ours.nonzero()[0]
    others = (~is_ours).nonzero()[0]
    # Any shard of another worker may come back in exchange, or nothing.
    everyone = np.arange(workers)
    partner = np.concatenate([owner[others], everyone[everyone != worker]])
    back = np.zeros((len(partner), 2))
    back[: len(others)] = stages[others]
    of_shards = shards.load[:, MEMORY]
    back_memory = np.concatenate([of_shards[others], np.zeros(workers - 1)])
    allowed = ~now.has[partner][:, shards.table[ours]].T
    allowed[:, : len(others)] &= ~now.has[worker, shards.table[others]]
    moved = of_shards[ours][:, None] - back_memory
    allowed &= (memory[partner] + moved <= room[partner]) & (memory[worker] - moved <= room[worker])
    if not allowed.any():
        return 0.0, []
    given = stages[ours][:, None, :] - back
    total = powers.sum(axis=0)
    after = total - powers[worker] - powers[partner]
    after = after + np.abs(busy[worker] - given) ** _P_NORM + np.abs(busy[partner] + given) ** _P_NORM
    change = (np.maximum(after, 0.0) ** (1 / _P_NORM) - total ** (1 / _P_NORM)) @ seconds
    change = np.where(allowed, change.round(_DIGITS), np.inf)
    mine, theirs = np.unravel_index(int(np.argmin(change)), change.shape)
    step = [(int(ours[mine]), int(partner[theirs]))]
    if theirs < len(others):
        step.append((int(others[theirs]), worker))
    return float(change[mine, theirs]), step
