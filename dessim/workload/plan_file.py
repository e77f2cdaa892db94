"""The file of a planned job: the strategy, owners and columns of each table, for one model, cluster and number of GPUs.

    schema_version = 1
    model = "dlrm_dcnv2"
    model_hash = "..."       # of the model's sizes, without its batch
    cluster = "h100-8x_rail_128"
    cluster_hash = "..."     # of the topology file, and the names of device and transport
    gpus = 64
    batch = 65536            # samples of a step, all workers together
    codecs = "activations=bf16,gradients=bf16"   # where values are encoded on the wire
    replicas = 2             # of the tables, if several, each on a block of GPUs; ranks are those of a block

    [[tables]]               # one entry for each table of the model, in its order
    table = 0                # its number
    name = "C1"              # where the model names it
    strategy = "table_wise"  # data_parallel, table_wise, column_wise, table_row_wise, row_wise, row_all_to_all
    ranks = [3]              # table_wise, column_wise: its owners; table_row_wise: all GPUs of one server
    columns = [128]          # table_wise, column_wise: the columns of each owner, from the first column on
    cached_rows = 200000     # if its rows are in the host's memory: how many of them each owner's GPU caches

A plan that trains all tables and operators by one strategy has `strategy = "mesh"` at the top, and no tables.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, StrictInt, ValidationError

from dessim.errors import FileError, UsageError
from dessim.files import read_toml, write_text
from dessim.wording import in_words
from dessim.workload.codecs import PLAIN, CodecConfig, parse_codecs
from dessim.workload.coded_plan import coded, require_floats
from dessim.workload.composed import COLUMN_WISE, ON_SERVERS, TablePlan, can_split_columns, compose, owners_of_rows
from dessim.workload.model import Model
from dessim.workload.plan import Placement, Plan
from dessim.workload.replicas import check as check_replicas
from dessim.workload.spilt import check as check_spilt
from dessim.workload.strategies import find_spec
from dessim.workload.strategies import plan as plan_of
from dessim.workload.strategies.sharded import TABLE_WISE

if TYPE_CHECKING:
    from dessim.cluster import Cluster

TABLE_STRATEGIES = ("data_parallel", TABLE_WISE.name, COLUMN_WISE, ON_SERVERS, "row_wise", "row_all_to_all")


@dataclass(frozen=True, slots=True)
class JobPlan:
    """A planned job: `tables` in the order of the model, or one `strategy` for all of them. `batch`: of all workers.
    `codecs`: the formats in which values travel. `replicas`: blocks of GPUs, each with all tables. `caveat`: what
    a plan of another program does otherwise."""

    gpus: int
    batch: int
    tables: tuple[TablePlan, ...] = ()
    strategy: str = ""
    codecs: CodecConfig = PLAIN
    caveat: str = ""
    replicas: int = 1

    @property
    def batch_per_worker(self) -> int:
        return self.batch // self.gpus

    @property
    def strategies(self) -> tuple[str, ...]:
        """The strategy for the whole model, if it has one whose values are not encoded."""
        return (self.strategy,) if self.strategy and not self.codecs else ()

    def composed(self, model: Model) -> tuple[Plan, ...]:
        """The plan of groups of tables, or of a strategy whose values are encoded, if it has one.

        Raises UsageError where its codecs have nothing to encode.
        """
        if self.strategies:
            return ()
        require_floats(model, self.codecs)
        planned = compose(model, self.tables, self.replicas) if self.tables else plan_of(self.strategy, model)
        caveat = "; ".join(filter(None, (planned.caveat, self.caveat)))
        return (coded(replace(planned, caveat=caveat), model, self.codecs),)

    def require(self, path: str, gpus: Sequence[int], batch_per_worker: int | None) -> None:
        """Raise UsageError for other numbers of GPUs or samples than were planned; `path` is the plan's."""
        if any(count != self.gpus for count in gpus):
            raise UsageError(f"--gpus {gpus[0]:,}: {path} is for {self.gpus:,} GPUs; leave --gpus out, or plan again")
        if batch_per_worker not in (None, self.batch_per_worker):
            raise UsageError(
                f"--batch-per-worker {batch_per_worker:,}: {path} is for {self.batch_per_worker:,} samples a GPU; "
                "leave it out, or plan again"
            )


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    table: StrictInt
    name: str = ""
    strategy: str
    ranks: tuple[StrictInt, ...] = ()
    columns: tuple[StrictInt, ...] = ()
    cached_rows: StrictInt | None = None


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    schema_version: Literal[1]
    model: str
    model_hash: str
    cluster: str
    cluster_hash: str
    gpus: StrictInt
    batch: StrictInt
    strategy: str = ""
    codecs: str = ""
    replicas: StrictInt = 1
    tables: tuple[_Table, ...] = ()


def model_hash(model: Model) -> str:
    """A hash of all sizes of a model but its batch, which the plan states itself."""
    sizes = model.model_dump(mode="json")
    sizes["input"].pop("batch_per_worker")
    return _hash(json.dumps(sizes, sort_keys=True).encode())


def cluster_hash(cluster: Cluster) -> str:
    """A hash of a cluster's topology file, and of the names of its device and transport."""
    return _hash(cluster.path.read_bytes() + f"{cluster.gpu.name}\n{cluster.transport.name}".encode())


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def table_name(model: Model, table: int) -> str:
    """A table as messages name it."""
    name = model.tables[table].name if model.tables else ""
    return f"table {name}" if name else f"table {table}"


def write_plan(path: Path, plan: JobPlan, model: Model, cluster: Cluster) -> None:
    """Write a plan file, whole or not at all."""
    head = {
        "schema_version": 1,
        "model": model.name,
        "model_hash": model_hash(model),
        "cluster": cluster.name,
        "cluster_hash": cluster_hash(cluster),
        "gpus": plan.gpus,
        "batch": plan.batch,
        **({"strategy": plan.strategy} if plan.strategy else {}),
        **({"codecs": plan.codecs.text} if plan.codecs else {}),
        **({"replicas": plan.replicas} if plan.replicas > 1 else {}),
    }
    sections = [_lines(head)]
    for number, table in enumerate(plan.tables):
        name = model.tables[number].name if model.tables else ""
        entry: dict[str, Any] = {"table": number, **({"name": name} if name else {}), "strategy": table.family}
        if table.ranks:
            entry |= {"ranks": list(table.ranks)} | ({"columns": list(table.columns)} if table.columns else {})
        entry |= {"cached_rows": table.cached_rows} if table.cached_rows else {}
        sections.append("[[tables]]\n" + _lines(entry))
    write_text(path, "\n".join(sections))


def _lines(values: dict[str, Any]) -> str:
    return "".join(f"{key} = {json.dumps(value, ensure_ascii=False)}\n" for key, value in values.items())


def planned_model(path: Path) -> str:
    """The name of the model that a plan is for. Raises FileError for a file that is no plan."""
    return _parsed(path).model


def read_plan(path: Path, model: Model, cluster: Cluster | None = None) -> JobPlan:
    """Read a plan for this model on this cluster; without one, on any.

    Raises FileError for a file that is no plan, for another model or cluster, and for tables left out or misplaced.
    """
    file = _parsed(path)
    _require_same(path, "model", (file.model, file.model_hash), (model.name, model_hash(model)))
    if cluster is not None:
        _require_same(path, "cluster", (file.cluster, file.cluster_hash), (cluster.name, cluster_hash(cluster)))
    if file.gpus < 1 or file.batch < 1 or file.batch % file.gpus:
        raise FileError(path, "batch", f"{file.batch} samples do not divide evenly over {file.gpus} GPUs")
    codecs = _codecs(path, file.codecs)
    if file.replicas < 1 or file.gpus % file.replicas:
        raise FileError(path, "replicas", f"{file.gpus} GPUs do not divide evenly into {file.replicas} blocks")
    if file.strategy:
        if file.replicas > 1:
            raise FileError(path, "replicas", f"{file.strategy} trains the whole model on all GPUs; leave replicas out")
        if file.tables or find_spec(file.strategy) is None:
            raise FileError(
                path, "strategy", f"{file.strategy!r} must be one strategy for all tables, without [[tables]]"
            )
        return JobPlan(file.gpus, file.batch, strategy=file.strategy, codecs=codecs)
    tables = _tables(path, file, model)
    check_servers(path, file.gpus, tables, cluster)
    try:
        check_replicas(file.replicas, [table.placement for table in tables], any(table.is_split for table in tables))
        check_spilt([table.strategy for table in tables if table.cached_rows], file.replicas)
    except UsageError as error:
        raise FileError(path, "", str(error)) from None
    return JobPlan(file.gpus, file.batch, tables, codecs=codecs, replicas=file.replicas)


def _codecs(path: Path, text: str) -> CodecConfig:
    try:
        return parse_codecs(text) if text else PLAIN
    except UsageError as error:
        raise FileError(path, "codecs", str(error)) from None


def check_servers(path: Path, gpus: int, tables: Sequence[TablePlan], cluster: Cluster | None) -> None:
    """Raises FileError where tables are on parts of servers, or on servers of different sizes."""
    on_servers = [(number, table.ranks) for number, table in enumerate(tables) if table.placement is Placement.SERVERS]
    for number, ranks in on_servers:
        server = len(ranks)
        problem = ""
        if not ranks or ranks[0] % server or ranks != tuple(range(ranks[0], ranks[0] + server)):
            problem = f"{ON_SERVERS} needs ranks, all GPUs of one server, such as [8, 9, 10, 11]"
        elif ranks[0] < 0 or ranks[-1] >= gpus or gpus % server:
            problem = f"{gpus} GPUs are no servers of {server} with the ranks {ranks[0]} to {ranks[-1]}"
        elif server != len(on_servers[0][1]):
            problem = f"has {server} ranks, table {on_servers[0][0]} has {len(on_servers[0][1])}: servers have the same"
        elif cluster is not None and not _is_server(cluster, ranks, gpus):
            problem = f"ranks {ranks[0]} to {ranks[-1]} are not all GPUs of one server of {cluster.name}"
        if problem:
            raise FileError(path, f"tables.{number}", problem)


def _is_server(cluster: Cluster, ranks: Sequence[int], gpus: int) -> bool:
    """Whether consecutive `ranks` are all of the first `gpus` GPUs that one server has."""
    around = range(max(ranks[0] - 1, 0), min(ranks[-1] + 2, gpus))
    nodes = cluster.node_of(np.array(around))
    own = nodes == cluster.node_of(ranks[0])
    return [rank for rank, is_own in zip(around, own, strict=True) if is_own] == list(ranks)


def _parsed(path: Path) -> _File:
    raw = read_toml(path)
    try:
        return _File.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        raise FileError(
            path, ".".join(map(str, first["loc"])), f"{in_words(first)}: write it as dessim plan does"
        ) from None


def _require_same(path: Path, what: str, stated: tuple[str, str], has: tuple[str, str]) -> None:
    """Raises FileError where the `stated` name and hash differ from the actual ones."""
    if stated == has:
        return
    options = ", or was planned with other --ids or --precision" if what == "model" else ""
    changed = f"{what} {has[0]} has changed since it was planned{options}"
    if stated[0] != has[0]:
        changed = f"is for {stated[0]}, not {has[0]}"
    raise FileError(path, what, f"{changed}; plan again with dessim plan")


def _tables(path: Path, file: _File, model: Model) -> tuple[TablePlan, ...]:
    """The tables of a plan, checked against those of the model. Raises FileError."""
    by_number: dict[int, _Table] = {}
    for table in file.tables:
        if table.table in by_number or not 0 <= table.table < model.input.fields:
            problem = "is planned twice" if table.table in by_number else f"is none of the {model.input.fields} tables"
            raise FileError(path, f"tables.{table.table}", f"{problem} of {model.name}")
        by_number[table.table] = table
    for number in range(model.input.fields):
        if number not in by_number:
            where = f"{table_name(model, number)} of {model.name} is left out"
            raise FileError(
                path, "tables", f"{where}: add an entry with table = {number}, or plan again with dessim plan"
            )
    return tuple(
        _table(path, by_number[number], file.gpus // file.replicas, model) for number in range(model.input.fields)
    )


def _table(path: Path, table: _Table, gpus: int, model: Model) -> TablePlan:
    planned = _strategy(path, table, gpus, model)
    if table.cached_rows is None:
        return planned
    rows = model.law.tables()[table.table][0].vocabulary / owners_of_rows(planned, gpus)
    if not 0 < table.cached_rows < rows:
        problem = f"cached_rows = {table.cached_rows:,} must be above 0 and below the {rows:,.0f} rows of an owner"
        raise FileError(path, f"tables.{table.table}", f"{problem}; leave it out to keep all rows on GPUs")
    return replace(planned, cached_rows=table.cached_rows)


def _strategy(path: Path, table: _Table, gpus: int, model: Model) -> TablePlan:
    where = f"tables.{table.table}"
    width = model.widths[table.table]
    if model.tables and table.name != model.tables[table.table].name:
        raise FileError(path, where, f"is named {table.name!r}, the model calls it {model.tables[table.table].name!r}")
    if table.strategy not in TABLE_STRATEGIES:
        raise FileError(path, where, f"strategy {table.strategy!r} is none of {', '.join(TABLE_STRATEGIES)}")
    if table.strategy == ON_SERVERS:
        if table.columns:
            raise FileError(path, where, f"{ON_SERVERS} keeps all columns of a row together: leave out columns")
        return TablePlan(table.strategy, table.ranks)
    if table.strategy not in (TABLE_WISE.name, COLUMN_WISE):
        if table.ranks or table.columns:
            raise FileError(path, where, f"{table.strategy} is on all ranks: leave out ranks and columns")
        return TablePlan(table.strategy)
    problem = _misplaced(table, gpus, width)
    if not problem and len(table.ranks) > 1 and not can_split_columns(model):
        problem = f"the rows of {model.name} have more than columns of an embedding, and have one owner"
    if problem:
        raise FileError(path, where, problem)
    return TablePlan(TABLE_WISE.name, table.ranks, table.columns)


def _misplaced(table: _Table, gpus: int, width: int) -> str:
    """The mistake in the owners of a table; empty if there is none."""
    ranks: Sequence[int] = table.ranks
    if not ranks or len(ranks) != len(table.columns):
        return f"{table.strategy} needs ranks, and the columns of each"
    if (len(ranks) > 1) != (table.strategy == COLUMN_WISE):
        return f"{table.strategy} with {len(ranks)} ranks: table_wise has one owner, column_wise several"
    if len(set(ranks)) < len(ranks) or min(ranks) < 0 or max(ranks) >= gpus:
        return f"ranks {list(ranks)} must differ and be below {gpus}"
    if min(table.columns) < 1 or sum(table.columns) != width:
        return f"columns {list(table.columns)} must add up to the table's {width}"
    return ""
