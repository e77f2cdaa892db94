"""TorchRec's plans as JSON: what is written is read again, and what cannot be priced is refused in one line."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dessim.errors import FileError, UsageError
from dessim.workload.composed import TablePlan
from dessim.workload.model import load_model
from dessim.workload.plan_file import JobPlan
from dessim.workload.torchrec_plan import read_torchrec, write_torchrec
from tests.plan.small import TABLES, model_of

GPUS, PER_NODE, WIDTH = 8, 4, 64
NODES = np.arange(GPUS) // PER_NODE
OWNERS = st.lists(st.integers(0, GPUS - 1), min_size=1, max_size=4, unique=True)


def placed(ranks: list[int]) -> TablePlan:
    return TablePlan("table_wise", tuple(ranks), (WIDTH // len(ranks),) * len(ranks))


TABLE = st.one_of(
    st.sampled_from([TablePlan("row_wise"), TablePlan("data_parallel")]),
    OWNERS.filter(lambda ranks: len(ranks) != 3).map(placed),
)
PLAN = (TablePlan("row_wise"), placed([6]), placed([1, 5]), TablePlan("data_parallel"), TablePlan("row_wise"))


def written(path: Path, *tables: TablePlan, strategy: str = "") -> dict[str, Any]:
    write_torchrec(path, JobPlan(GPUS, 1024, tables, strategy), model_of(), NODES)
    return json.loads(path.read_text())["plan"][""]  # type: ignore[no-any-return]


@given(st.tuples(*[TABLE] * len(TABLES)))
def test_a_plan_is_read_as_it_was_written(tables: tuple[TablePlan, ...]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "plan.json"
        written(path, *tables)
        found = read_torchrec(path, model_of(), batch_per_worker=128)
    assert (found.tables, found.gpus, found.batch) == (tables, GPUS, 1024)


def test_shards_are_those_of_torchrec(tmp_path: Path) -> None:
    """By hand: 12 rows on 8 ranks are six blocks of two, and the second half of the columns of t2 is on rank 5."""
    found = written(tmp_path / "plan.json", *PLAN)
    blocks = [shard["shard_sizes"][0] for shard in found["t4"]["sharding_spec"]["shards"]]
    assert blocks == [2, 2, 2, 2, 2, 2, 0, 0]
    assert found["t2"] == {
        "sharding_type": "column_wise",
        "compute_kernel": "fused",
        "ranks": [1, 5],
        "sharding_spec": {
            "shards": [
                {"shard_offsets": [0, 0], "shard_sizes": [50_000, 32], "placement": "rank:1/cuda:1"},
                {"shard_offsets": [0, 32], "shard_sizes": [50_000, 32], "placement": "rank:5/cuda:1"},
            ]
        },
    }
    assert found["t3"]["compute_kernel"] == "dense" and found["t3"]["sharding_spec"] is None


def test_a_table_on_a_server_has_its_blocks_there(tmp_path: Path) -> None:
    on_server = TablePlan("table_row_wise", (4, 5, 6, 7))
    path = tmp_path / "plan.json"
    tables = written(path, on_server, *PLAN[1:4], on_server)
    last = tables["t4"]["sharding_spec"]["shards"][-1]
    assert tables["t4"]["ranks"] == [4, 5, 6, 7]
    assert last == {"shard_offsets": [9, 0], "shard_sizes": [3, 64], "placement": "rank:7/cuda:3"}
    assert read_torchrec(path, model_of()).tables == (on_server, *PLAN[1:4], on_server)
    path.write_text(path.read_text().replace('"ranks": [4, 5, 6, 7]', '"ranks": [3, 4, 5, 6]'))
    with pytest.raises(FileError, match="table_row_wise needs ranks, all GPUs of one server"):
        read_torchrec(path, model_of())


def test_a_table_on_the_only_server_is_row_wise(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    written(path, *PLAN)
    path.write_text(path.read_text().replace('"row_wise"', '"table_row_wise"'))
    assert read_torchrec(path, model_of()).tables == PLAN


def test_one_strategy_for_all_tables_is_written_by_table(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    written(path, strategy="table_wise")
    assert [table.ranks for table in read_torchrec(path, model_of()).tables] == [(0,), (1,), (2,), (3,), (4,)]
    written(path, strategy="row_wise")
    assert {table.strategy for table in read_torchrec(path, model_of()).tables} == {"row_wise"}


def test_what_torchrec_does_not_have_is_not_written(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    with pytest.raises(UsageError, match="table t1 is row_all_to_all, which TorchRec does not have: plan with --to"):
        written(path, PLAN[0], TablePlan("row_all_to_all"), *PLAN[2:])
    with pytest.raises(UsageError, match="small is trained by mesh, which TorchRec does not have"):
        written(path, strategy="mesh")
    assert not path.exists()


def test_differences_to_torchrec_are_stated(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    notes = write_torchrec(path, JobPlan(GPUS, 1024, PLAN), model_of(), NODES)
    assert ["block of a table's consecutive rows" in notes[0], "AllReduce" in notes[1], len(notes)] == [True, True, 2]
    assert read_torchrec(path, model_of()).caveat == "; ".join(notes)
    deepfm = load_model("criteo_kaggle")
    whole = JobPlan(GPUS, 1024, strategy="table_wise")
    assert "hold more than an embedding" in write_torchrec(path, whole, deepfm, NODES)[0]


def test_columns_on_one_rank_are_one_part(tmp_path: Path) -> None:
    """TorchRec may put several shards of a table on a rank, and name a table on one rank column_wise."""
    path = tmp_path / "plan.json"
    written(path, *PLAN)
    text = path.read_text().replace('"ranks": [1, 5]', '"ranks": [5, 5]').replace('"ranks": [6]', '"ranks": [2]')
    path.write_text(text.replace('"sharding_type": "table_wise"', '"sharding_type": "table_column_wise"'))
    assert read_torchrec(path, model_of()).tables[1:3] == (placed([2]), placed([5]))


def changed(table: str, **values: Any) -> Callable[[dict[str, Any]], None]:
    return lambda tables: tables[table].update(values)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (
            changed("t1", sharding_type="twrw"),
            "t1: is twrw, which dessim cannot express; it can table_wise, ",
        ),
        (changed("t0", sharding_type="table_row_wise", ranks=[1]), "t0: is table_row_wise, but its shards, one a rank"),
        (changed("t1", sharding_type="grid_shard"), "t1: is grid_shard, which dessim cannot express"),
        (changed("t1", compute_kernel="fused_uvm"), "t1: is table_wise with compute kernel fused_uvm: dessim can"),
        (changed("t1", ranks=[8]), r"t1: is table_wise on ranks \[8\], which must be below 8"),
        (changed("t1", ranks=[]), r"t1: is table_wise on ranks \[\]"),
        (changed("t3", ranks=[0, 1]), "t3: is data_parallel on 2 ranks; dessim can price all 8 of them"),
        (changed("t0", ranks=[0, 1]), "t0: is row_wise on 2 ranks"),
        (
            changed("t2", ranks=[1]),
            "t2: is column_wise, but its shards, one a rank, do not divide the columns of",
        ),
        (
            changed("t0", sharding_spec=None),
            "t0: is row_wise, but its shards, one a rank, do not divide the rows of 4",
        ),
        (changed("t1", cache_params={}), "plan.bags.t1.cache_params: unknown key: write it as"),
        (
            lambda tables: tables["t1"]["sharding_spec"]["shards"][0].update(shard_sizes=[9, 64]),
            "t1: is table_wise, but",
        ),
        (lambda tables: tables.pop("t4"), "table t4 of small is left out"),
        (lambda tables: tables.update(t9=tables["t4"]), "t9: is no table of small"),
    ],
)
def test_what_cannot_be_priced_is_refused_in_one_line(
    tmp_path: Path, change: Callable[[dict[str, Any]], object], expected: str
) -> None:
    path = tmp_path / "plan.json"
    tables = written(path, *PLAN)
    change(tables)
    path.write_text(json.dumps({"schema_version": 1, "world_size": GPUS, "plan": {"bags": tables}}))
    with pytest.raises(FileError, match=expected) as refused:
        read_torchrec(path, model_of())
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{", "not JSON"),
        ("[1]", "plan.json: Input should be a valid dictionary"),
        ('{"schema_version": 2, "world_size": 8, "plan": {}}', "schema_version"),
        ('{"world_size": 0, "plan": {}}', "world_size: 0 ranks"),
        ('{"world_size": 8, "plan": {}}', "table t0 of small is left out"),
        ('{"plan": {}}', "world_size: missing"),
    ],
)
def test_a_file_that_is_no_plan_is_refused_in_one_line(tmp_path: Path, text: str, expected: str) -> None:
    path = tmp_path / "plan.json"
    path.write_text(text)
    with pytest.raises(FileError, match=expected) as refused:
        read_torchrec(path, model_of())
    assert "\n" not in str(refused.value)


def test_a_table_is_planned_once(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    tables = written(path, *PLAN)
    path.write_text(json.dumps({"world_size": GPUS, "plan": {"a": tables, "b": {"t0": tables["t0"]}}}))
    with pytest.raises(FileError, match="t0: is planned twice"):
        read_torchrec(path, model_of())


def test_columns_of_rows_with_more_than_an_embedding_are_not_split(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    model = load_model("criteo_kaggle")
    tables = (TablePlan("table_wise", (0, 1), (8, 8)), *[TablePlan("row_wise")] * 25)
    write_torchrec(path, JobPlan(GPUS, 1024, tables), model, NODES)
    with pytest.raises(FileError, match="C1: the rows of criteo_kaggle have more than columns of an embedding"):
        read_torchrec(path, model)
