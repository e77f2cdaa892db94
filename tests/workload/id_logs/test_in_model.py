"""`dessim project --ids`: measured tables replace those of the model, by name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dessim.workload.id_logs.in_model import with_measured_ids
from dessim.workload.model import load_model
from tests.test_cli import refused, run

TABLE = '[[tables]]\nname = "C3"\nrows = 123\nids = 2.0\nskew = 0.5\noffset = 7.0\n'
PROJECT = ("project", "--strategy", "table_wise", "--cluster", "h100-8x_rail_128", "--gpus", "8")


def test_the_named_table_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "ids.toml").write_text(TABLE)
    model = load_model("criteo_kaggle")
    found = with_measured_ids(model, tmp_path / "ids.toml")
    assert found.input.ids_per_sample == model.input.ids_per_sample + 1
    assert found.input.vocabulary == sum(table.rows for table in found.tables)
    for old, new in zip(model.tables, found.tables, strict=True):
        if old.name == "C3":
            assert (new.rows, new.ids, new.skew, new.offset) == (123, 2.0, 0.5, 7.0)
        else:
            assert new == old
    assert (found.operators, found.embedding) == (model.operators, model.embedding)


def test_a_projection_uses_them(tmp_path: Path) -> None:
    (tmp_path / "ids.toml").write_text(TABLE)
    memory = []
    for ids in ((), ("--ids", str(tmp_path / "ids.toml"))):
        code, out, err = run(*PROJECT, "--model", "criteo_kaggle", *ids, "--json")
        assert code == 0, err
        memory.append(json.loads(out)["projection"][0]["memory_bytes"])
    assert memory[0] != memory[1]


@pytest.mark.parametrize(
    ("model", "content", "text"),
    [
        ("criteo_kaggle", TABLE.replace("C3", "user"), "criteo_kaggle has no table 'user'; its tables: C1, C2"),
        ("criteo_kaggle", TABLE + TABLE, "a second table 'C3'"),
        ("criteo_kaggle", "[[tables]]\nrows = 3\n", "each table needs a name"),
        ("criteo_kaggle", "", "no [[tables]]"),
        ("criteo_kaggle", TABLE.replace("123", "0"), "rows: Input should be greater"),
        ("deepfm", TABLE, "deepfm has equal tables"),
    ],
)
def test_a_wrong_file_gets_one_line(tmp_path: Path, model: str, content: str, text: str) -> None:
    (tmp_path / "ids.toml").write_text(content)
    refused(1, text, *PROJECT, "--model", model, "--ids", str(tmp_path / "ids.toml"))


def test_a_trace_takes_no_ids(tmp_path: Path) -> None:
    (tmp_path / "ids.toml").touch()
    refused(2, "--ids needs --model", *PROJECT, str(tmp_path / "a.trace"), "--ids", str(tmp_path / "ids.toml"))
