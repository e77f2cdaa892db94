"""A strategy for each table: a mixed-integer program, solved by HiGHS, and a lower bound of every plan's estimate.

    estimate = dense part + for each strategy that has tables: compute of its busiest worker + messages of its busiest
               worker, and not less than all messages and inputs with the AllReduce of dense gradients

The program leaves open which worker owns a table that is placed whole. It requires only that the busiest worker has at
least the mean load, and at least any single shard. So its optimum is at most the estimate of any placement.

Times are in ms inside, so that HiGHS's absolute tolerances are negligible.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import numpy as np

from dessim.arrays import Floats
from dessim.plan.loads import MEMORY, STAGES, Choice, Fixed, Load, Loads
from dessim.workload.composed import SPILT

_MS = 1e3
_TOLERANCE = 4e-3
_MAX_BRANCHES = 200
"""Nodes of branch and bound after which HiGHS stops. A limit of time would make the plan depend on the machine."""
_HASHED_WORKERS = 48
"""Workers that the program has rows for where tables are spread by hash: those that own the most of some table."""
_TIMED = STAGES[:3]


@dataclass(frozen=True, slots=True)
class Chosen:
    """A choice for each table. `bound`: the least seconds, by formula, of any plan that the program allows."""

    choices: tuple[Choice, ...]
    bound: float


@dataclass(slots=True)
class _Program:
    """A mixed-integer program: minimise one variable of `x`, where low <= rows @ x <= high.

    `whole`: 1 for a variable that is 0 or 1. `cells`: row, column and value. `limits`: low and high of each row.
    """

    whole: list[int] = field(default_factory=list)
    cells: list[tuple[int, int, float]] = field(default_factory=list)
    limits: list[tuple[float, float]] = field(default_factory=list)

    def variable(self, *, whole: bool = False) -> int:
        """A new variable: 0 or 1 if it is `whole`, otherwise any number from 0."""
        self.whole.append(int(whole))
        return len(self.whole) - 1

    def row(self, terms: Mapping[int, float], low: float, high: float) -> None:
        """Require low <= sum of terms <= high. `terms`: the factor of each variable."""
        self.cells += [(len(self.limits), variable, value) for variable, value in terms.items() if value]
        self.limits.append((low, high))

    def solve(self, objective: int) -> tuple[Floats, float] | None:
        """All variables where variable `objective` is least, and a lower bound of it; None without a solution."""
        # Here, because scipy.optimize takes half a second to import, and `dessim.project` needs no plan.
        from scipy.optimize import Bounds, LinearConstraint, milp
        from scipy.sparse import csr_array

        rows, columns, values = zip(*self.cells, strict=True)
        matrix = csr_array((values, (rows, columns)), shape=(len(self.limits), len(self.whole)))
        cost = np.zeros(len(self.whole))
        cost[objective] = 1.0
        whole = np.array(self.whole)
        with _silent():
            solution = milp(
                cost,
                constraints=LinearConstraint(matrix, *np.array(self.limits).T),
                integrality=whole,
                bounds=Bounds(0.0, np.where(whole == 1, 1.0, np.inf)),
                options={"mip_rel_gap": _TOLERANCE, "node_limit": _MAX_BRANCHES},
            )
        return None if solution.x is None else (solution.x, float(solution.mip_dual_bound))


@contextmanager
def _silent() -> Iterator[None]:
    """Drop what HiGHS's C++ prints to stdout in spite of its options; it would end up in the output of --json."""
    sys.stdout.flush()
    kept = os.dup(1)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 1)
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nowhere)


def choose(loads: Loads, families: Collection[str], pinned: Mapping[int, Choice] | None = None) -> Chosen | None:
    """The best choices among `families`, with those of `pinned` tables as given; None if nothing fits the memory."""
    options = allowed(loads, families, pinned or {})
    if not all(options):
        return None
    program = _Program()
    x = [{choice: program.variable(whole=True) for choice in of_table} for of_table in options]
    step = program.variable()
    chain = {step: 1.0}
    traffic = {step: 1.0}
    memory: dict[int, float] = {}
    hosts: dict[int, float] = {}
    for of_table in x:
        program.row(dict.fromkeys(of_table.values(), 1.0), 1.0, 1.0)
    for strategy in loads.fixed:
        ours = [(t, c, v) for t, of_table in enumerate(x) for c, v in of_table.items() if c.strategy == strategy]
        if not ours:
            continue
        used = program.variable(whole=True)
        for _, _, variable in ours:
            program.row({variable: 1.0, used: -1.0}, -math.inf, 0.0)
        stages = _stages(program, loads, strategy, ours, used)
        chain |= {stages["compute"]: -1.0, stages["messages"]: -1.0}
        traffic |= {stages["messages"]: -1.0, stages["input"]: -1.0}
        for table, choice, variable in ours:
            load = _load(loads, choice, table)
            memory[variable] = mean_memory(loads, choice, load) / loads.room
            hosts[variable] = load.host / loads.host_room
    program.row(chain, _MS * loads.dense_s, math.inf)
    program.row(traffic, _MS * loads.dense_grad_s, math.inf)
    program.row(memory, -math.inf, 1.0)
    program.row(hosts, -math.inf, 1.0)
    solved = program.solve(step)
    if solved is None:
        return None
    values, bound = solved
    picked = tuple(max(of_table, key=lambda choice: values[of_table[choice]]) for of_table in x)
    return Chosen(picked, bound / _MS)


def allowed(loads: Loads, families: Collection[str], pinned: Mapping[int, Choice]) -> list[list[Choice]]:
    """The allowed choices of each table that fit a GPU by themselves. A pinned table may be spilt where others may."""
    return [
        [
            choice
            for choice, of_table in loads.by_choice.items()
            if (replace(choice, cache=0) == pinned[table] if table in pinned else choice.family in families)
            and (not choice.cache or SPILT in families)
            and (load := of_table[table]) is not None
            and least_memory(loads, choice, load) <= loads.room
        ]
        for table in range(loads.tables)
    ]


def least_memory(loads: Loads, choice: Choice, load: Load) -> float:
    """Bytes that a worker which owns some of the table needs for it."""
    share = 1.0 if choice.is_placed else 1.0 / loads.workers
    return float((load.everywhere + load.owned * share)[MEMORY])


def mean_memory(loads: Loads, choice: Choice, load: Load) -> float:
    """Bytes that a worker needs for the table, mean over workers."""
    return float((load.everywhere + load.owned * choice.parts / loads.workers)[MEMORY])


def _load(loads: Loads, choice: Choice, table: int) -> Load:
    load = loads.by_choice[choice][table]
    assert load is not None
    return load


def _stages(
    program: _Program, loads: Loads, strategy: str, ours: Sequence[tuple[int, Choice, int]], used: int
) -> dict[str, int]:
    """The variable of a strategy's seconds in each stage: on its busiest worker, with its fixed costs."""
    fixed: Fixed = loads.fixed[strategy]
    start = {"compute": fixed.floor, "messages": fixed.messages, "input": fixed.input}
    stages = {}
    for number, stage in enumerate(_TIMED):
        seconds = program.variable()
        everywhere = program.variable()
        stages[stage] = seconds
        of = [(table, choice, variable, _load(loads, choice, table)) for table, choice, variable in ours]
        program.row({everywhere: 1.0} | {v: -_MS * load.everywhere[number] for _, _, v, load in of}, 0.0, 0.0)
        least = {seconds: 1.0, everywhere: -1.0, used: -_MS * start[stage]}
        mean = {v: -_MS * load.owned[number] * choice.parts / loads.workers for _, choice, v, load in of}
        program.row(least | mean, 0.0, math.inf)
        if stage == "compute":
            program.row({seconds: 1.0, used: -_MS * fixed.launch}, 0.0, math.inf)
        if ours[0][1].is_placed:
            for _, _, variable, load in of:
                program.row(least | {variable: -_MS * load.owned[number]}, 0.0, math.inf)
        elif ours[0][1] in loads.shares:
            shares = loads.shares[ours[0][1]]
            for worker in _busiest(loads, of, number):
                own = {v: -_MS * load.owned[number] * float(shares[table][worker]) for table, _, v, load in of}
                program.row(least | own, 0.0, math.inf)
    return stages


def _busiest(loads: Loads, of: Sequence[tuple[int, Choice, int, Load]], stage: int) -> list[int]:
    """The workers that own the most of some table, by the load of that table."""
    most: dict[int, float] = {}
    for table, choice, _, load in of:
        shares = loads.shares[choice][table]
        worker = int(np.argmax(shares))
        most[worker] = most.get(worker, 0.0) + float(load.owned[stage] * shares[worker])
    return sorted(most, key=lambda worker: (-round(most[worker], 12), worker))[:_HASHED_WORKERS]
