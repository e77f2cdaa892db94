"""Tables whose rows are spilt: they live in the host's memory, and their owners' GPUs cache some of them.

A composed plan says table by table how many rows each owner caches (`Shard.cached_rows`), with their optimizer state.
The cache keeps the rows that were used last, and always those of the current step. The index of all rows stays on the
GPU. A group of tables with such rows has three more ops, before its lookup:

    find -> rows_out -> rows_in -> lookup

Rows that the step needs and the cache lacks are copied in, and equally many are copied out: every row in the cache has
been updated since it came. Both copies take MW sr + MO so bytes. Symbols of a group, mean over workers, which add up:

    MV  MW  MO    rows that a step misses, with their floats and those of their optimizer state
    HV  HW  HO    the same of the rows in the host's memory
    CV  CW  CO    the same of the rows in GPUs' caches

Misses follow from the frequencies of each table's own ids by Che's approximation (`dessim.workload.ids.misses`). Rows
that are spread by hash are missed evenly on all owners.

Two strategies cannot spill. Under row_all_to_all owners receive ids without their tables, so they cannot tell which
rows are spilt. Under data_parallel the rows of a table would take memory of every host.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from dessim.arrays import Floats
from dessim.errors import UsageError
from dessim.trace.schema import Phase
from dessim.workload.formula import Formula, group, symbol
from dessim.workload.ids import misses
from dessim.workload.model import Model
from dessim.workload.plan import OwnerRole, PlannedOp, Shard, TableGroup, compute, copy
from dessim.workload.symbol_values import counts_by_table, floats_of
from dessim.workload.symbols import OWNED_IDS, OWNED_ROWS, WU, k, so, sr

SPILLABLE = ("table_wise", "table_row_wise", "row_wise")
"""The strategies of tables whose rows may be spilt."""
SYMBOLS = tuple(f"{which}{what}" for which in "MHC" for what in "VWO")
MISSED = symbol("MV")
_MISSED_BYTES = group(symbol("MW") * sr + symbol("MO") * so)
HOST_ROWS = symbol("HW") * sr
"""Bytes of rows in the host's memory."""
HOST_STATE = symbol("HO") * so
"""Bytes of their optimizer state there."""
ROWS_ON_GPU = (symbol("CW") - symbol("HW")) * sr
"""Bytes of rows that caches add to a GPU's memory, less those of the rows that are in the host's instead."""
STATE_ON_GPU = (symbol("CO") - symbol("HO")) * so
"""The same of optimizer state."""
_SCANNED = 22
"""Bytes of memory traffic for each slot where the oldest slots are found: two passes over 8 bytes and a mask."""
_FOUND = 4 * OWNED_IDS * k + OWNED_ROWS * 8 * k + symbol("CV") * _SCANNED
_READ = OWNED_ROWS * 2 * WU * sr
_KERNELS_OF_READ = 6
_KERNELS_OF_TABLE = {"find": 36, "lookup": 12, "update_rows": 22}
"""Kernels that each spilt table adds to an op: it has its own store and cache. Counted in a step of the trainer
in which no id was new: torch's calls, except views."""
SLOT_OF_ROW = 4
"""Bytes of the slot of each row (des_ref/embedding/cached_rows.py)."""
SLOT = 16
"""Bytes of each slot's row and last use."""
INDEX_OF_CACHE = symbol("HV") * SLOT_OF_ROW + symbol("CV") * SLOT


def check(strategies_of_spilt: Sequence[str], replicas: int) -> None:
    """Raises UsageError where tables of these strategies cannot be spilt."""
    for strategy in strategies_of_spilt:
        if strategy not in SPILLABLE:
            raise UsageError(f"{strategy} tables have no cached_rows; those that may are {', '.join(SPILLABLE)}")
    if strategies_of_spilt and replicas > 1:
        raise UsageError(f"replicas = {replicas}: tables with cached_rows have none; leave one of them out")


def with_copies(ops: Sequence[PlannedOp], of: TableGroup, names: Mapping[str, str]) -> list[PlannedOp]:
    """The ops of a group whose rows are spilt, with its copies; `names` are those of its symbols."""
    end = f".{of.name}"
    # The worker with the most spilt tables is the slowest.
    most = max(Counter(shard.owner for shard in of.shards if shard.cached_rows).values())
    more = {op + end: most * kernels for op, kernels in _KERNELS_OF_TABLE.items()}
    lookup = next(op for op in ops if op.name == "lookup" + end)
    # The ids are found before the copies, and the rows are read behind them.
    found, read, moved = (size.renamed(names) for size in (_FOUND, _READ, _MISSED_BYTES))
    instead = (
        compute("find" + end, Phase.FORWARD, *lookup.deps, mem=found, kernels=lookup.kernels, role=OwnerRole.WORKS),
        copy("rows_out" + end, Phase.FORWARD, moved, "find" + end, role=OwnerRole.WORKS),
        copy("rows_in" + end, Phase.FORWARD, moved, "rows_out" + end, role=OwnerRole.WORKS),
        replace(lookup, deps=("rows_in" + end,), mem=read, kernels=_KERNELS_OF_READ),
    )
    first = ops.index(lookup)
    return [
        replace(op, kernels=op.kernels + more.get(op.name, 0)) for op in (*ops[:first], *instead, *ops[first + 1 :])
    ]


def by_worker(of: TableGroup, model: Model, job: Mapping[str, float]) -> dict[str, Floats]:
    """The values of SYMBOLS on each of a job's workers [workers]."""
    n = int(job["N"])
    totals = {name: np.zeros(n) for name in SYMBOLS}
    tables = model.law.tables()
    distinct = counts_by_table(model, job)["U"]
    distinct = distinct * (job["U"] / distinct.sum())  # a job's own count of ids takes precedence over the law's
    for shard in of.shards:
        if not shard.cached_rows:
            continue
        law, share, _ = tables[shard.table]
        ranks = _ranks(of, shard, n)
        owners = len(range(n)[ranks])
        floats = {name: float(values[0]) for name, values in floats_of(model, [shard.columns]).items()}
        read = float(distinct[shard.table]) / owners
        cached = max(shard.cached_rows, read)
        draws = job["B"] * job["m"] * share
        missed = read * misses(law, draws, owners * cached) / law.unique(draws)
        rows = {"M": missed, "H": law.vocabulary / owners, "C": cached}
        for which, count in rows.items():
            totals[f"{which}V"][ranks] += count
            totals[f"{which}W"][ranks] += count * floats["W"]
            totals[f"{which}O"][ranks] += count * floats["O"]
    return totals


def _ranks(of: TableGroup, shard: Shard, n: int) -> slice:
    """The workers that own rows of a shard."""
    if shard.owner is None:
        return slice(0, n)
    return slice(shard.owner, shard.owner + max(of.server, 1))


def names_of(group_name: str) -> dict[str, str]:
    """The names of SYMBOLS in a group."""
    return {name: f"{name}_{group_name}" for name in SYMBOLS}


def value_of(formula: Formula, of: TableGroup, symbols: Mapping[str, float]) -> float:
    """The value of a formula over SYMBOLS for a group; 0 where nothing is spilt."""
    return formula.renamed(names_of(of.name)).evaluate(symbols) if of.is_spilt else 0.0
