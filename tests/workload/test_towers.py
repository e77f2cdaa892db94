"""Towers in model files: their costs by hand, the model that is shipped, and one line for each mistake."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from dessim.errors import ModelError
from dessim.workload.model import load_model, parse_model
from dessim.workload.operators import Towers
from dessim.workload.strategies import plan as plan_of
from dessim.workload.strategies.parts import dense_weights
from tests.des_ref.small_models import BOTTOM, CONCAT, DOT, NAMED_TABLES
from tests.test_cli import run


def test_costs_of_two_multiplied_towers_by_hand() -> None:
    model = parse_model({**NAMED_TABLES, "operators": [DOT]}, "t.toml")
    symbols = model.symbols(4, 512)
    products = (12 * 10 + 10 * 6) + (20 * 7 + 7 * 6)
    assert symbols["P"] == dense_weights(model).evaluate(symbols) == products + (10 + 6) + (7 + 6) + 1
    assert symbols["A"] == products + 6
    # The inputs of each tower, the outputs of its layers, and the six products that are added up.
    assert symbols["Z"] == (12 + 10 + 6) + (20 + 7 + 6) + 6
    # Under DES the pooled vectors of all tables travel once.
    assert plan_of("des_all_reduce", model).op("partials").size.evaluate(symbols) == 512 * (8 + 4 + 16 + 4) * 4


def test_costs_of_three_towers_below_an_mlp_by_hand() -> None:
    model = parse_model({**NAMED_TABLES, "dense": BOTTOM, "operators": [CONCAT]}, "t.toml")
    symbols = model.symbols(4, 512)
    products = (12 * 10 + 10 * 6) + (16 * 7 + 7 * 6) + (2 + 4) * 5 + (6 + 6 + 5) * 9 + 9 * 1
    bottom = 3 * 2
    assert symbols["A"] == bottom + products
    assert symbols["P"] == (bottom + 2) + products + (10 + 6) + (7 + 6) + 5 + (9 + 1) + 1
    assert symbols["Z"] == (2 + 34) + (12 + 10 + 6) + (16 + 7 + 6) + (6 + 5) + (17 + 9)
    forward = plan_of("table_wise", model).op("dense_forward").products
    sizes = [tuple(int(size.evaluate(symbols)) for size in (p.n, p.k)) for p in forward]
    assert sorted(sizes) == sorted([(2, 3), (10, 12), (6, 10), (7, 16), (6, 7), (5, 6), (9, 17), (1, 9)])


def test_each_tower_reads_its_tables_in_its_own_order() -> None:
    for dense, first in ((None, 0), (BOTTOM, 1)):
        model = parse_model({**NAMED_TABLES, "dense": dense, "operators": [CONCAT if dense else DOT]}, "t.toml")
        (spec,) = model.operators
        assert isinstance(spec, Towers)
        numbers = [[first + i for i in read] for read in ([1, 0], [2] if dense else [2, 3])]
        assert spec.vectors_of_towers(model.shape)[:2] == tuple(tuple(read) for read in numbers)
        assert not dense or spec.vectors_of_towers(model.shape)[2] == (0, 4)


def test_torchrecs_two_towers_are_shipped() -> None:
    """128 and 64 units over 64 columns, twice; `TwoTower` of TorchRec has these 33,152 weights, and no bias."""
    model = load_model("two_tower")
    assert model.symbols(1)["P"] == 2 * (64 * 128 + 128 + 128 * 64 + 64) + 1
    assert model.symbols(1)["A"] == 2 * (64 * 128 + 128 * 64) + 64
    shown = run("model", "show", "two_tower")[1]
    assert "towers" in shown and "33.15 k" in shown


def changed(operator: dict[str, Any], at: int, **keys: Any) -> dict[str, Any]:
    copy = deepcopy(operator)
    copy["towers"][at] |= keys
    return copy


@pytest.mark.parametrize(
    ("operator", "problem"),
    [
        (changed(DOT, 1, tables=["item", "genre"]), 'tower "item" reads table "genre", which [[tables]] does not have'),
        (changed(DOT, 1, tables=["item", "hour", "age"]), '"age" occurs twice in the tables of its towers'),
        (changed(DOT, 1, widths=[7, 5]), 'tower "user" ends with 6, "item" with 5'),
        (changed(DOT, 1, name="user"), '"user" occurs twice in its towers'),
        (changed(DOT, 1, tables=["item"]), 'table "hour" is in no tower: add it to one, or remove it'),
        (changed(DOT, 1, dense=True), 'tower "item" has dense = true, and the model has no [dense]'),
        (changed(DOT, 1, tables=[]), "operators.0.towers.1.tables: Tuple should have at least 1 item"),
        ({**DOT, "towers": DOT["towers"][:1]}, "operators.0.towers: Tuple should have at least 2 items"),
        ({**CONCAT, "join": "dot", "widths": None}, 'join = "dot" multiplies two towers, not 3: write join = "concat"'),
        ({**DOT, "widths": [4]}, 'join = "dot" has no mlp over the towers: remove widths, or write join = "concat"'),
        ({**CONCAT, "widths": None}, 'join = "concat" needs widths, those of the mlp over the towers'),
        ({**DOT, "join": "sum"}, "operators.0.join: Input should be 'dot' or 'concat'"),
    ],
)
def test_a_mistake_gets_one_line(operator: dict[str, Any], problem: str) -> None:
    with pytest.raises(ModelError) as error:
        parse_model({**NAMED_TABLES, "operators": [operator]}, "t.toml")
    assert problem in str(error.value) and "\n" not in str(error.value) and "; " not in str(error.value)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        (
            {"dense": BOTTOM},
            "no tower reads the output of the bottom mlp: write dense = true in one, or remove [dense]",
        ),
        ({"tables": [*NAMED_TABLES["tables"], {"name": "age", "rows": 3}]}, '"age" occurs twice in [[tables]]'),
        ({"tables": [*NAMED_TABLES["tables"], {"rows": 3}]}, "and a name in each of [[tables]]"),
        (
            {"schema_version": 1, "tables": [], "input": {"fields": 4, "ids_per_sample": 4}},
            "its towers name tables: write schema_version = 2",
        ),
    ],
)
def test_towers_need_tables_with_names(changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(ModelError) as error:
        parse_model({**NAMED_TABLES, "operators": [DOT]} | changes, "t.toml")
    assert problem in str(error.value) and "\n" not in str(error.value)


def test_the_command_line_names_the_file_and_writes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(
        'schema_version = 2\nname = "a"\n[embedding]\nwidth = 8\n[[tables]]\nname = "user"\nrows = 9\n'
        '[[operators]]\nkind = "towers"\njoin = "dot"\n'
        '[[operators.towers]]\nname = "user"\ntables = ["user"]\nwidths = [4]\n'
        '[[operators.towers]]\nname = "item"\ntables = ["item"]\nwidths = [4]\n'
    )
    code, out, err = run("model", "check", str(path))
    assert (code, out) == (1, "") and err.count("\n") == 1
    assert str(path) in err and 'tower "item" reads table "item", which [[tables]] does not have' in err
    assert list(tmp_path.iterdir()) == [path]
