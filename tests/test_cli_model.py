"""`dessim model` and `dessim topo init`: models are listed, shown and trainable; mistakes get one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dessim.workload.model import load_model, shipped_models
from tests.test_cli import run


def test_the_list_has_every_shipped_model() -> None:
    code, out, err = run("model", "list", "--json")
    assert (code, err) == (0, "")
    listed = {model["name"]: model for model in json.loads(out)["models"]}
    assert sorted(listed) == shipped_models()
    assert all(model["strategies"] for model in listed.values())
    assert "dlrm_dcnv2" in run("model", "list")[1]


def test_a_model_is_shown_with_its_tables() -> None:
    found = json.loads(run("model", "show", "dlrm_dcnv2", "--json")[1])
    assert found["tables"] == len(found["each_table"]) == 26
    assert found["rows"] == sum(table["rows"] for table in found["each_table"]) == 204_184_588
    # Adagrad keeps one float of state for each of a row's 128 floats.
    assert found["row_bytes"] == 1024 and found["largest_table_bytes"] == 40e6 * 1024
    out = run("model", "show", "dlrm_dcnv2")[1]
    assert "194.7 GiB" in out and "C21" in out
    equal = json.loads(run("model", "show", "deepfm", "--json")[1])
    assert equal["each_table"] == [] and equal["embedding_bytes"] == pytest.approx(33_762_577 * equal["row_bytes"])


def test_a_check_names_the_strategies_and_the_mistake(tmp_path: Path) -> None:
    assert "des_all_reduce, des_reduce_scatter\n" in run("model", "check", "fvae")[1]
    assert json.loads(run("model", "check", "deepfm", "--json")[1])["ok"]
    path = tmp_path / "mine.toml"
    path.write_text(
        'schema_version = 2\nname = "a"\n[input]\n[embedding]\nwidth = 8\n'
        '[[tables]]\nrows = 0\n[[operators]]\nkind = "fm"\n'
    )
    code, out, err = run("model", "check", str(path))
    assert (code, out) == (1, "") and err.count("\n") == 1
    assert str(path) in err and "tables.0.rows: Input should be greater than or equal to 1" in err


def test_numbers_agree_with_the_model() -> None:
    model = load_model("criteo_kaggle")
    found = json.loads(run("model", "show", "criteo_kaggle", "--json")[1])
    assert found["distinct_ids_per_worker"] == pytest.approx(model.symbols(1)["u"], rel=1e-12)


def test_a_topology_file_of_ones_own_starts_from_a_shipped_one(tmp_path: Path) -> None:
    mine = tmp_path / "mine.toml"
    assert run("topo", "init", "one-switch_16", "-o", str(mine))[0] == 0
    assert run("topo", "check", str(mine))[0] == 0
    before = mine.read_text()
    code, out, err = run("topo", "init", "-o", str(mine))
    assert (code, out) == (1, "") and "exists already" in err and mine.read_text() == before
    assert run("topo", "init", "nowhere", "-o", str(tmp_path / "b.toml"))[0] == 1 and not (tmp_path / "b.toml").exists()
