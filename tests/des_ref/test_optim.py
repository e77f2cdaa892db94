"""Row optimizers against loops and against torch.optim; torch optimizers for replicated weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from des_ref.config import load_settings
from des_ref.data.synthetic import Zipf
from des_ref.embedding.hash_table import RowTable
from des_ref.embedding.init import normal_rows
from des_ref.embedding.optim import ROW_OPTIMIZERS, Adagrad, Adam, Ftrl, RowAdagrad, RowOptimizer, Sgd
from des_ref.models.build import Network
from des_ref.models.dense_optim import DenseOptimizer, dense_optimizers
from des_ref.reference import Reference
from des_ref.reference_optim import ROW_STEPS
from des_ref.strategies.base import Optimizers
from dessim.errors import ModelError, UsageError
from dessim.workload.model import load_model, parse_model
from dessim.workload.row_optimizers import ROW_OPTIMIZERS as COSTS
from dessim.workload.strategies import plan

ROWS, WIDTHS, STEPS = 7, {"w": 1, "v": 3}, 40
ALL = [Sgd(0.3), RowAdagrad(0.3), Adagrad(0.3), Adam(0.3, 0.8, 0.95), Ftrl(0.3), Ftrl(0.3, 0.5, 0.4, 0.2)]


def steps(seed: int = 0) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
    """Some rows and their gradients, with exact zeros among them, as inactive units produce."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(STEPS):
        touched = torch.nonzero(torch.rand(ROWS, generator=generator) < 0.4)[:, 0]
        grads = {n: torch.randn(len(touched), w, generator=generator, dtype=torch.float64) for n, w in WIDTHS.items()}
        yield touched, {n: g * (g.abs() > 0.4) for n, g in grads.items()}


def new_table(optimizer: RowOptimizer, dtype: torch.dtype = torch.float64) -> RowTable:
    def initial(ids: Tensor) -> Mapping[str, Tensor]:
        values = normal_rows(ids, 4, 1, 0.5, dtype)
        return {"w": values[:, :1], "v": values[:, 1:]}

    table = RowTable(WIDTHS | optimizer.state(WIDTHS), initial, dtype)
    table.find_or_insert(torch.arange(ROWS))
    return table


def trained(optimizer: RowOptimizer) -> dict[str, Tensor]:
    table = new_table(optimizer)
    for touched, grads in steps():
        optimizer.update(table, touched, grads)
    return {name: table.columns[name] for name in WIDTHS}


def by_torch(make: Any, every_row: bool = False) -> dict[str, Tensor]:
    """Each row trained separately by a torch optimizer, stepped when the row is touched (or in every step)."""
    first = new_table(Sgd())
    values = {name: [torch.nn.Parameter(row.clone()) for row in first.columns[name]] for name in WIDTHS}
    optimizers = {name: [make([p]) for p in rows] for name, rows in values.items()}
    for touched, grads in steps():
        for name, grad in grads.items():
            for row in range(ROWS) if every_row else touched.tolist():
                at = (touched == row).nonzero()[:, 0]
                p = values[name][row]
                p.grad = grad[at[0]] if len(at) else torch.zeros_like(p)
                optimizers[name][row].step()
    return {name: torch.stack(list(rows)).detach() for name, rows in values.items()}


def assert_equal(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor], atol: float = 1e-13) -> None:
    for name in WIDTHS:
        torch.testing.assert_close(ours[name], theirs[name], rtol=0, atol=atol)


@pytest.mark.parametrize("optimizer", ALL, ids=str)
def test_row_updates_match_a_loop_over_rows(optimizer: RowOptimizer) -> None:
    values = {name: new_table(optimizer).columns[name].clone() for name in WIDTHS}
    memory: dict[tuple[str, int], dict[str, Any]] = {}
    for touched, grads in steps():
        for name, grad in grads.items():
            for row, g in zip(touched.tolist(), grad.numpy(), strict=True):
                w = values[name].numpy()
                w[row] = ROW_STEPS[optimizer.name](optimizer, memory.setdefault((name, row), {}), w[row], g)
    assert_equal(trained(optimizer), values)


@pytest.mark.parametrize("optimizer", ALL, ids=str)
def test_untouched_rows_keep_every_bit(optimizer: RowOptimizer) -> None:
    table = new_table(optimizer)
    for touched, grads in steps():
        before = {name: values.clone() for name, values in table.columns.items()}
        optimizer.update(table, touched, grads)
        others = torch.ones(ROWS, dtype=torch.bool)
        others[touched] = False
        for name, values in table.columns.items():
            assert torch.equal(values[others], before[name][others]), name


def test_sgd_and_adagrad_match_torch() -> None:
    assert_equal(trained(Sgd(0.3)), by_torch(lambda p: torch.optim.SGD(p, lr=0.3)))
    assert_equal(trained(Adagrad(0.3, 1e-10)), by_torch(lambda p: torch.optim.Adagrad(p, lr=0.3)))


@pytest.mark.parametrize(
    ("ours", "make"),
    [
        (Sgd(0.3), lambda p: torch.optim.SGD(p, lr=0.3)),
        (Adagrad(0.3, 1e-10), lambda p: torch.optim.Adagrad(p, lr=0.3)),
    ],
)
def test_torch_with_sparse_gradients_gives_the_same_rows(ours: RowOptimizer, make: Any) -> None:
    """One torch table with an uncoalesced sparse gradient: a repeated id adds up its gradients and steps once."""
    table = new_table(ours)
    weight = torch.nn.Parameter(table.columns["v"].clone())
    optimizer = make([weight])
    for touched, grads in steps():
        g = grads["v"]
        doubled = torch.sparse_coo_tensor(torch.cat([touched, touched])[None], torch.cat([g, 2 * g]), weight.shape)
        weight.grad = doubled
        optimizer.step()
        ours.update(table, touched, {"v": 3 * g})
    torch.testing.assert_close(table.columns["v"], weight.detach(), rtol=0, atol=1e-13)


def test_adam_trains_each_row_like_dense_adam_on_the_steps_that_touch_it() -> None:
    ours = trained(Adam(0.3, 0.8, 0.95))
    assert_equal(ours, by_torch(lambda p: torch.optim.Adam(p, lr=0.3, betas=(0.8, 0.95))))
    dense = by_torch(lambda p: torch.optim.Adam(p, lr=0.3, betas=(0.8, 0.95)), every_row=True)
    assert (ours["v"] - dense["v"]).abs().max() > 0.1  # lazy is another rule, not a rounding


def test_adam_is_torchs_sparse_adam_for_a_row_of_every_step() -> None:
    """torch counts all steps, so it agrees where every row is in each; its eps stands elsewhere, so it is nil here."""
    ours = Adam(0.1, 0.8, 0.95, 1e-200)
    table = new_table(ours)
    weight = torch.nn.Parameter(table.columns["v"].clone())
    sparse = torch.optim.SparseAdam([weight], lr=0.1, betas=(0.8, 0.95), eps=1e-200)
    generator, rows = torch.Generator().manual_seed(3), torch.arange(ROWS)
    for _ in range(STEPS):
        g = torch.randn(ROWS, 3, generator=generator, dtype=torch.float64)
        weight.grad = torch.sparse_coo_tensor(rows[None], g, weight.shape)
        sparse.step()
        ours.update(table, rows, {"v": g})
    torch.testing.assert_close(table.columns["v"], weight.detach(), rtol=0, atol=1e-12)


def test_adams_first_step_is_exact_in_float32() -> None:
    ours = Adam(0.5)
    table = new_table(ours, torch.float32)
    before, g = table.columns["v"].clone(), torch.full((ROWS, 3), 0.7)
    ours.update(table, torch.arange(ROWS), {"v": g})
    # m^ / sqrt(v^) = sign(g) at t = 1; 1 - 0.999 in float32 would be off by 5e-5.
    torch.testing.assert_close(table.columns["v"], before - 0.5, rtol=0, atol=2e-6)


def test_ftrl_without_penalties_is_adagrad_with_eps_beta() -> None:
    """McMahan 2013: without l1 and l2, FTRL-Proximal is gradient descent at the rate alpha / (beta + sqrt(n))."""
    assert_equal(trained(Ftrl(0.3, 0.5)), trained(Adagrad(0.3, 0.5)), atol=1e-12)


def test_ftrl_steps_to_the_minimum_of_its_accumulated_objective() -> None:
    """0 is in the subdifferential of G x + beta/2a (x-w0)^2 ... + l1 |x|, with a prior chosen to start at w0."""
    o = Ftrl(0.3, 0.5, 0.4, 0.2)
    table = new_table(o)
    rows = torch.arange(ROWS)
    seen = [table.columns["v"].clone()]
    gs, sigmas = [], []
    generator, total = torch.Generator().manual_seed(5), torch.zeros(ROWS, 3, dtype=torch.float64)
    for _ in range(STEPS):
        g = torch.randn(ROWS, 3, generator=generator, dtype=torch.float64)
        gs.append(g)
        sigmas.append(((total + g * g).sqrt() - total.sqrt()) / o.rate)
        total = total + g * g
        o.update(table, rows, {"v": g})
        x = table.columns["v"].clone()
        slope = sum(gs) + sum(s * (x - w) for s, w in zip(sigmas, seen, strict=True))
        slope = slope + (o.beta / o.rate + o.l2) * (x - seen[0]) - o.l1 * seen[0].sign()
        at_zero = x == 0
        assert (slope[at_zero].abs() <= o.l1 + 1e-12).all()
        torch.testing.assert_close(slope[~at_zero], -o.l1 * x[~at_zero].sign(), rtol=0, atol=1e-12)
        seen.append(x)
    assert any((x == 0).any() for x in seen)  # l1 makes exact zeros


@pytest.mark.parametrize("name", ["Adam", "AdamW", "SGD", "RMSprop", "Adagrad"])
def test_a_dense_optimizer_is_the_torch_optimizer_of_that_name(name: str) -> None:
    ours, theirs = (torch.nn.Parameter(torch.ones(2, 2)) for _ in range(2))
    optimizer = DenseOptimizer(name, {"lr": 0.1})([ours])
    other = getattr(torch.optim, name)([theirs], lr=0.1)
    for _ in range(3):
        ours.grad = theirs.grad = torch.full((2, 2), 0.3)
        optimizer.step()
        other.step()
    assert torch.equal(ours, theirs) and not torch.equal(ours, torch.ones(2, 2))


def test_unknown_and_unsupported_dense_optimizers_are_refused() -> None:
    assert {"Adam", "AdamW", "SGD", "Adagrad", "RMSprop"} <= set(dense_optimizers())
    parameters = [torch.nn.Parameter(torch.ones(2))]
    for bad in (DenseOptimizer("SparseAdam"), DenseOptimizer("optimizer"), DenseOptimizer("Adam", {"momentum": 1})):
        with pytest.raises(UsageError, match=r"torch\.optim"):
            bad(parameters)
    lists = DenseOptimizer("Adam", {"lr": 0.1, "betas": [0.5, 0.6]})(parameters)
    assert lists.param_groups[0]["betas"] == (0.5, 0.6)


def test_settings_choose_row_and_dense_optimizers(tmp_path: Any) -> None:
    file = tmp_path / "run.toml"
    file.write_text(
        'model = "fm"\n[rows]\ninit_std = 0.2\n[optimizer.rows]\nname = "ftrl"\nl1 = 0.5\n'
        '[optimizer.dense]\nname = "SGD"\nlr = 0.1\nmomentum = 0.9\n'
    )
    chosen = load_settings(file, {}).optimizers
    assert chosen.rows == Ftrl(l1=0.5) and chosen.init_std == 0.2
    assert chosen.dense == DenseOptimizer("SGD", {"lr": 0.1, "momentum": 0.9})
    assert load_settings(file, {"optimizer.rows": {"name": "adam"}}).optimizers.rows == Adam()
    assert load_settings(None, {}).optimizers.rows == RowAdagrad(0.05)


def test_the_adam_of_the_reference_matches_torch() -> None:
    model = load_model("deepfm_ml100k")
    batches = [Zipf(model.input.fields, 1.0, 300, 1.05, 3).examples(32, part) for part in range(3)]
    vocabulary = torch.unique(torch.cat([b.ids for b in batches]))
    runs = []
    for settings in ({"lr": 1e-2, "weight_decay": 0.1}, {"lr": 1e-2, "weight_decay": 0.1, "amsgrad": False}):
        optimizers = Optimizers(Sgd(), DenseOptimizer("Adam", settings), 0.1)
        run = Reference(Network(model, 1, torch.float64, "cpu"), optimizers, vocabulary)
        for b in batches:
            run.step(b.take(torch.arange(32)))
        runs.append(run.parameters)
    for name, values in runs[0].items():
        torch.testing.assert_close(values, runs[1][name], rtol=0, atol=1e-14)


@pytest.fixture(autouse=True)
def sparse_tensors_are_checked() -> Iterator[None]:
    with torch.sparse.check_sparse_tensor_invariants():
        yield


class Calls(TorchDispatchMode):
    """Counts aten operators that would launch a kernel on a GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += not func.is_view
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", list(ROW_OPTIMIZERS))
@pytest.mark.parametrize("widths", [{"v": 3}, {"w": 1, "v": 5}])
def test_planned_state_and_kernel_counts_match_the_optimizer(name: str, widths: dict[str, int]) -> None:
    optimizer, costs = ROW_OPTIMIZERS[name](), COSTS[name]
    assert sum(optimizer.state(widths).values()) == costs.slots(widths.values())
    table = RowTable(widths | optimizer.state(widths), lambda ids: {})
    rows = table.find_or_insert(torch.arange(ROWS))
    grads = {column: torch.ones(ROWS, width) for column, width in widths.items()}
    with Calls() as calls:
        optimizer.update(table, rows, grads)
    assert calls.count == costs.calls(widths.values())


def test_the_plan_costs_the_optimizer_of_the_run() -> None:
    model = load_model("deepfm_ml100k")
    width = model.embedding.width
    assert set(COSTS) == set(ROW_OPTIMIZERS)
    slots = {name: model.trained_by(name).symbols(2)["O"] for name in COSTS}
    w = width + 1
    assert slots == {"sgd": 0, "rowwise_adagrad": 2, "adagrad": w, "adam": 2 * w + 1, "ftrl": 2 * w}
    update = {name: plan("des_all_reduce", model.trained_by(name)).op("update_rows") for name in COSTS}
    assert update["ftrl"].kernels > update["sgd"].kernels and update["ftrl"].flops != update["sgd"].flops
    with pytest.raises(ModelError, match=r"embedding\.optimizer: .*there is no 'lamb'; use sgd"):
        parse_model(model.model_dump() | {"embedding": {"width": 4, "optimizer": "lamb"}}, "m.toml")


def test_every_optimizer_is_registered_under_its_name() -> None:
    assert {name: kind().name for name, kind in ROW_OPTIMIZERS.items()} == {name: name for name in ROW_OPTIMIZERS}
    assert set(ROW_STEPS) == set(ROW_OPTIMIZERS)
