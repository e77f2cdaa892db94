"""Towers in real training: values by hand, what each reads, operations counted, and certificates."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from des_ref.certify.case import Case
from des_ref.certify.group import certify, certify_all
from des_ref.certify.show import passed
from des_ref.models.build import Network
from des_ref.strategies import STRATEGIES
from dessim.workload.model import Model, parse_model
from tests.des_ref.certified import assert_certified
from tests.des_ref.small_models import BOTTOM, CONCAT, DOT, NAMED_TABLES

ALL = [name for name in STRATEGIES if name != "ps_async"]
TABLES = """
schema_version = 2
name = "towers"
[input]
batch_per_worker = 64
[embedding]
width = 8
{embedding}
[[tables]]
name = "user"
rows = 3000
ids = 3.0
[[tables]]
name = "age"
rows = 40
{age}
[[tables]]
name = "item"
rows = 500
ids = 1.5
[[tables]]
name = "hour"
rows = 24
ids = 0.8
{rest}
"""
TWO = """
[[operators]]
kind = "towers"
join = "dot"
[[operators.towers]]
name = "user"
tables = ["age", "user"]
widths = [10, 6]
[[operators.towers]]
name = "item"
tables = ["item", "hour"]
widths = [7, 6]
"""
THREE = """
[dense]
features = 3
widths = [6, 8]
[[operators]]
kind = "lr"
[[operators]]
kind = "towers"
join = "concat"
widths = [9, 4]
[[operators.towers]]
name = "user"
tables = ["age", "user"]
widths = [10, 6]
[[operators.towers]]
name = "item"
tables = ["item"]
widths = [7]
[[operators.towers]]
name = "context"
tables = ["hour"]
dense = true
widths = [5, 3]
"""


def model_file(folder: Path, rest: str, embedding: str = "", age: str = "") -> str:
    path = folder / "towers.toml"
    path.write_text(TABLES.format(embedding=embedding, age=age, rest=rest))
    return str(path)


@pytest.mark.parametrize(
    ("ranks", "rest", "embedding", "age"),
    [(4, TWO, 'pooling = "mean"', "width = 4"), (2, THREE, "", "")],
    ids=["dot of different widths on 4", "concat with dense inputs on 2"],
)
def test_every_strategy_trains_towers_with_the_bytes_of_its_formulas(
    ranks: int, rest: str, embedding: str, age: str, tmp_path: Path
) -> None:
    model = model_file(tmp_path, rest, embedding, age)
    for result in certify_all([Case(ranks, 2, model, name, "cpu", small=True) for name in ALL]):
        assert_certified(result)


def test_pooling_by_maximum_and_attention_and_field_placement(tmp_path: Path) -> None:
    model = model_file(tmp_path, TWO)
    cases = [
        Case(2, 2, model, name, "cpu", placement=placement, pooling=pooling, small=True)
        for name, placement, pooling in (
            ("des_all_reduce", "field", "attention"),
            ("des_reduce_scatter", "hash", "max"),
            ("row_wise", None, "sum"),
        )
    ]
    assert all(
        passed(result) for result in certify_all([*cases, Case(2, 2, "two_tower", "ps_async", "cpu", small=True)])
    )


def swap_towers() -> None:
    """Give each tower the vectors of the other."""
    from des_ref.substitution.towers import Towers

    right = Towers.finish

    def finish(self: Towers, *given: object) -> torch.Tensor:
        self._reads = self._reads[::-1]
        out = right(self, *given)
        self._reads = self._reads[::-1]
        return out

    Towers.finish = finish


def test_the_certificate_fails_if_towers_read_one_another_s_tables(tmp_path: Path) -> None:
    """Both towers of `two_tower` have the same shapes, so that nothing else would notice."""
    assert not passed(certify(Case(2, 2, "two_tower", "des_all_reduce", "cpu", small=True, sabotage=swap_towers)))


def network_of(model: Model) -> Network:
    network = Network(model, 1, torch.float64, "cpu")
    for i, p in enumerate(network.dense_parameters):
        p.data = torch.randn(p.shape, generator=torch.Generator().manual_seed(100 + i), dtype=torch.float64)
    return network


def test_values_by_hand() -> None:
    """One unit a tower with identity weights: relu(the tables' sum) of one side times that of the other."""
    tables = [{"name": name, "rows": 9} for name in "abc"]
    sides = [{"name": n, "tables": t, "widths": [1]} for n, t in (("one", ["c", "a"]), ("other", ["b"]))]
    operator = {"kind": "towers", "join": "dot", "towers": sides}
    changes = {"embedding": {"width": 1}, "tables": tables, "operators": [operator]}
    model = parse_model({**NAMED_TABLES, **changes}, "t.toml")
    network = Network(model, 1, torch.float64, "cpu")
    weights = dict(network.operators["towers"].named_parameters())
    weights["towers.0.layers.0"].data[:] = torch.tensor([[100.0, 1.0]])  # of c, then of a
    weights["towers.1.layers.0"].data[:] = 1.0
    weights["towers.1.layers.1"].data[:] = 0.5
    sums = torch.tensor([[1.0, 2.0, 3.0], [-400.0, 2.0, 3.0], [1.0, -2.0, 3.0]], dtype=torch.float64)
    assert network.tail(sums).tolist() == [301.0 * 2.5, 0.0, 0.0]


@pytest.mark.parametrize(("operator", "dense"), [(DOT, None), (CONCAT, BOTTOM)])
def test_a_tower_reads_its_own_tables_alone_and_multiplies_as_often_as_priced(
    operator: dict[str, object], dense: dict[str, object] | None
) -> None:
    model = parse_model({**NAMED_TABLES, "dense": dense, "operators": [operator]}, "t.toml")
    network = network_of(model)
    samples = 64
    features = torch.rand(samples, 3, dtype=torch.float64) if dense else None
    sums = torch.randn(samples, 32, generator=torch.Generator().manual_seed(5), dtype=torch.float64).requires_grad_()
    with FlopCounterMode(display=False) as counter:
        out = network.tail(sums, None, features)
    products = sum(layer.inputs * layer.outputs for c in model.costs for layer in c.dense.layers) + 6 * bool(dense)
    assert counter.get_total_flops() == 2 * samples * products
    out.sum().backward()
    assert (sums.grad.abs().sum(dim=0) > 0).all()  # every table is read
    # The item's columns matter to the item's tower alone: they do not once all its weights are 0.
    tower = network.operators["towers"].towers[1]
    before = network.tail(sums, None, features)
    moved = sums.detach().clone()
    moved[:, 12:28] += 1.0  # the item's 16 columns
    assert not torch.equal(network.tail(moved, None, features), before)
    for p in tower.layers:
        p.data.zero_()
    assert torch.equal(network.tail(moved, None, features), network.tail(sums.detach(), None, features))
