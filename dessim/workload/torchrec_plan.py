"""TorchRec's sharding plans as JSON files: written for its users, and read so that they can be priced.

A file holds what a torchrec.distributed.types.ShardingPlan does, under the same names, with the number of ranks:

    {"schema_version": 1, "world_size": 8, "plan": {
      "sparse.bags": {
        "C1": {"sharding_type": "table_wise", "compute_kernel": "fused", "ranks": [3], "sharding_spec": {"shards": [
          {"shard_offsets": [0, 0], "shard_sizes": [40000000, 128], "placement": "rank:3/cuda:3"}]}}}}}

Keys of `plan` are paths of modules; a file that dessim writes has one, "", because it does not know them.
des_ref.torchrec_plan finds the modules by the names of their tables. dessim itself never imports TorchRec.

TorchRec's row_wise and table_row_wise give each rank a block of consecutive rows, dessim's spread rows by hash of their
id. Its data_parallel sums the gradients of all rows by AllReduce, dessim's gathers those of the rows that a step used.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import StrictInt, ValidationError

from dessim.arrays import Ints
from dessim.errors import FileError, UsageError
from dessim.files import read_json, write_text
from dessim.wording import in_words
from dessim.workload.composed import ON_SERVERS, TablePlan, can_split_columns, tables_of_strategy
from dessim.workload.model import Model
from dessim.workload.model_sections import Strict
from dessim.workload.plan import Placement
from dessim.workload.plan_file import JobPlan, check_servers, table_name

if TYPE_CHECKING:
    from dessim.cluster import Cluster

EXPRESSIBLE = ("data_parallel", "table_wise", "column_wise", ON_SERVERS, "row_wise")
"""The strategies of tables that both TorchRec and dessim have."""
SUFFIX = ".json"
_BY_COLUMNS = ("table_wise", "column_wise", "table_column_wise")
_BY_ROWS = ("row_wise", ON_SERVERS)
TYPES = (*_BY_COLUMNS, *_BY_ROWS, "data_parallel")
_KERNELS = ("fused", "dense")
_BLOCKS = "TorchRec gives each rank a block of a table's consecutive rows, here rows are spread by hash"
_DIFFERENCES = {
    "row_wise": _BLOCKS,
    ON_SERVERS: _BLOCKS,
    "data_parallel": "TorchRec's data_parallel sums the gradients of whole tables by AllReduce, here those of the rows "
    "that a step uses are gathered",
}


class Shard(Strict):
    """A part of a table: its first row and column, its rows and columns, and its device, as `rank:9/cuda:1`."""

    shard_offsets: tuple[StrictInt, StrictInt]
    shard_sizes: tuple[StrictInt, StrictInt]
    placement: str


class ShardingSpec(Strict):
    """The shards of a table, in the order of `ranks`."""

    shards: tuple[Shard, ...]


class Sharding(Strict):
    """TorchRec's ParameterSharding; data_parallel has no shards."""

    sharding_type: str
    compute_kernel: str
    ranks: tuple[StrictInt, ...]
    sharding_spec: ShardingSpec | None = None


class ShardingFile(Strict):
    """The content of a file; `plan`: by path of a module, then by name of a table."""

    schema_version: Literal[1] = 1
    world_size: StrictInt
    plan: dict[str, dict[str, Sharding]]

    def text(self) -> str:
        """The JSON text, with one line for each table."""
        modules = []
        for path, tables in self.plan.items():
            lines = (f"      {json.dumps(n)}: {json.dumps(t.model_dump(mode='json'))}" for n, t in tables.items())
            modules.append(f"    {json.dumps(path)}: {{\n" + ",\n".join(lines) + "\n    }")
        head = f'{{\n  "schema_version": {self.schema_version},\n  "world_size": {self.world_size},\n  "plan": {{\n'
        return head + ",\n".join(modules) + "\n  }\n}\n"


def table_names(model: Model) -> tuple[str, ...]:
    """The names of a model's tables in TorchRec: their own, or `table_3` where the model has none."""
    own = [table.name for table in model.tables] or [""] * model.input.fields
    return tuple(name or f"table_{number}" for number, name in enumerate(own))


def rows_of(model: Model) -> tuple[int, ...]:
    """The rows of each table."""
    return tuple(round(law.vocabulary) for law, _, _ in model.law.tables())


def write_torchrec(path: Path, plan: JobPlan, model: Model, nodes: Ints) -> list[str]:
    """Write a plan for TorchRec, whole or not at all; return what TorchRec does otherwise than the simulation.

    `nodes` [ranks]: the server of each rank. Raises UsageError for a strategy that TorchRec does not have.
    """
    local_ranks = (np.arange(plan.gpus) - np.searchsorted(nodes, nodes)).tolist()
    names = table_names(model)
    rows = rows_of(model)
    tables = plan.tables or _by_one_strategy(plan.strategy, model, plan.gpus)
    for number, table in enumerate(tables):
        if table.family not in EXPRESSIBLE:
            raise UsageError(f"{table_name(model, number)} is {table.family}, which TorchRec does not have: {_ADVICE}")
        if table.cached_rows:
            raise UsageError(f"{table_name(model, number)} is spilt, which is not written for TorchRec: {_ADVICE}")
    shardings = {
        name: _sharding(table, rows[number], model.widths[number], local_ranks)
        for number, (name, table) in enumerate(zip(names, tables, strict=True))
    }
    write_text(path, ShardingFile(world_size=plan.gpus, plan={"": shardings}).text())
    return differences(tables, model)


_ADVICE = "plan with --to torchrec, which leaves it out"


def _by_one_strategy(strategy: str, model: Model, gpus: int) -> tuple[TablePlan, ...]:
    """The tables of a strategy for the whole model. Raises UsageError for one that TorchRec does not have."""
    if strategy not in EXPRESSIBLE:
        raise UsageError(f"{model.name} is trained by {strategy}, which TorchRec does not have: {_ADVICE}")
    return tables_of_strategy(strategy, model, gpus)


def _sharding(table: TablePlan, rows: int, width: int, local_ranks: Sequence[int]) -> Sharding:
    n = len(local_ranks)
    if table.placement is Placement.REPLICATED:
        return Sharding(sharding_type=table.family, compute_kernel="dense", ranks=tuple(range(n)))
    ranks: Sequence[int] = table.ranks
    if table.placement is not Placement.TABLES:
        ranks = table.ranks or range(n)
        block = -(-rows // len(ranks))
        first = [min(part * block, rows) for part in range(len(ranks) + 1)]
        parts = [((start, 0), (end - start, width)) for start, end in pairwise(first)]
    else:
        edges = [sum(table.columns[:part]) for part in range(len(ranks))]
        parts = [((0, edge), (rows, columns)) for edge, columns in zip(edges, table.columns, strict=True)]
    shards = tuple(
        Shard(shard_offsets=offsets, shard_sizes=sizes, placement=f"rank:{rank}/cuda:{local_ranks[rank]}")
        for rank, (offsets, sizes) in zip(ranks, parts, strict=True)
    )
    return Sharding(
        sharding_type=table.family,
        compute_kernel="fused",
        ranks=tuple(ranks),
        sharding_spec=ShardingSpec(shards=shards),
    )


def differences(tables: Sequence[TablePlan], model: Model) -> list[str]:
    """What TorchRec does otherwise than the simulation of these tables."""
    used = {table.strategy for table in tables}
    differences = list(dict.fromkeys(text for strategy, text in _DIFFERENCES.items() if strategy in used))
    if set(model.row_widths) != {"v"}:
        differences.append(f"rows of {model.name} hold more than an embedding, TorchRec's tables nothing else")
    return differences


def read_file(path: Path) -> ShardingFile:
    """The content of a file. Raises FileError for one that is no plan of TorchRec."""
    try:
        return ShardingFile.model_validate(read_json(path))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise FileError(path, where, f"{in_words(first)}: write it as des_ref.torchrec_plan does") from None


def read_torchrec(
    path: Path, model: Model, batch_per_worker: int | None = None, cluster: Cluster | None = None
) -> JobPlan:
    """A TorchRec plan for this model on this cluster, or on any; `batch_per_worker` defaults to the model's own.

    Raises FileError for a file that is no plan, for other tables than the model has, and for what dessim cannot
    express.
    """
    file = read_file(path)
    if file.world_size < 1:
        raise FileError(path, "world_size", f"{file.world_size} ranks; a job needs at least 1")
    shardings: dict[str, Sharding] = {}
    for tables in file.plan.values():
        for name, sharding in tables.items():
            if name in shardings:
                raise FileError(path, name, "is planned twice")
            shardings[name] = sharding
    names = table_names(model)
    for name in shardings:
        if name not in names:
            raise FileError(path, name, f"is no table of {model.name}")
    rows = rows_of(model)
    planned = []
    for number, name in enumerate(names):
        if name not in shardings:
            raise FileError(path, "plan", f"{table_name(model, number)} of {model.name} is left out")
        shape = (rows[number], model.widths[number])
        planned.append(_table(path, name, shardings[name], shape, file.world_size))
        if planned[-1].is_split and not can_split_columns(model):
            problem = f"the rows of {model.name} have more than columns of an embedding, and have one owner"
            raise FileError(path, name, problem)
    check_servers(path, file.world_size, planned, cluster)
    batch = (batch_per_worker or model.input.batch_per_worker) * file.world_size
    return JobPlan(file.world_size, batch, tuple(planned), caveat="; ".join(differences(planned, model)))


def _table(path: Path, name: str, sharding: Sharding, shape: tuple[int, int], n: int) -> TablePlan:
    """How dessim trains a table of `shape` that TorchRec shards over `n` ranks as `sharding` says. Raises FileError."""
    kind = sharding.sharding_type
    if kind not in TYPES:
        raise FileError(path, name, f"is {kind}, which dessim cannot express; it can {', '.join(TYPES)}")
    if sharding.compute_kernel not in _KERNELS:
        kernel = f"{kind} with compute kernel {sharding.compute_kernel}"
        raise FileError(path, name, f"is {kernel}: dessim can price {' and '.join(_KERNELS)}, with rows on the GPU")
    if not sharding.ranks or not all(0 <= rank < n for rank in sharding.ranks):
        raise FileError(path, name, f"is {kind} on ranks {list(sharding.ranks)}, which must be below {n}")
    if kind in ("row_wise", "data_parallel") and not len(sharding.ranks) == len(set(sharding.ranks)) == n:
        raise FileError(path, name, f"is {kind} on {len(sharding.ranks)} ranks; dessim can price all {n} of them")
    if kind == "data_parallel":
        return TablePlan(kind)
    shards = sharding.sharding_spec.shards if sharding.sharding_spec is not None else ()
    cut = 0 if kind in _BY_ROWS else 1
    if len(shards) != len(sharding.ranks) or not _cover(shards, shape, cut):
        what = "rows" if kind in _BY_ROWS else "columns"
        problem = f"is {kind}, but its shards, one a rank, do not divide the {what} of {shape[0]:,} x {shape[1]}"
        raise FileError(path, name, problem)
    if kind in _BY_ROWS and len(sharding.ranks) == n:
        return TablePlan("row_wise")  # by all ranks of the only server, too
    if kind == ON_SERVERS and len(sharding.ranks) > 1:
        return TablePlan(kind, sharding.ranks)
    columns: dict[int, int] = {}  # TorchRec may put several shards of a table on one rank
    for rank, shard in zip(sharding.ranks, shards, strict=True):
        columns[rank] = columns.get(rank, 0) + shard.shard_sizes[1]
    return TablePlan("table_wise", tuple(columns), tuple(columns.values()))


def _cover(shards: Sequence[Shard], shape: tuple[int, int], cut: int) -> bool:
    """Whether shards, cut along axis `cut` alone, follow one another from the start to the end of a table.

    TorchRec leaves the last ranks without rows where a table has few.
    """
    position = 0
    whole = 1 - cut
    least = cut
    for shard in shards:
        offsets = shard.shard_offsets
        sizes = shard.shard_sizes
        if (offsets[cut], offsets[whole], sizes[whole]) != (position, 0, shape[whole]) or sizes[cut] < least:
            return False
        position += sizes[cut]
    return position == shape[cut]
