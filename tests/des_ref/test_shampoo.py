"""Shampoo: blocks, roots and steps against the formulas, and several workers against one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from des_ref.comm import open_comm
from des_ref.models.build import Network
from des_ref.models.dense_optim import DenseOptimizer
from des_ref.models.shampoo import Shampoo, _inverse_fourth_root
from des_ref.strategies import build
from des_ref.strategies.base import Optimizers
from des_ref.train import main
from dessim.errors import UsageError
from dessim.workload.model import load_model

SHAPES = ((7, 5), (3,), (), (4, 9))
EPS = 1e-6


def parameters(seed: int) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(seed)
    return [nn.Parameter(torch.randn(shape, generator=generator, dtype=torch.float64)) for shape in SHAPES]


def give_grads(some: list[nn.Parameter], seed: int) -> None:
    for p, grad in zip(some, parameters(seed), strict=True):
        p.grad = grad.detach()


def power(a: Tensor, exponent: float) -> Tensor:
    """A power of a positive definite matrix, from its singular values."""
    u, values, _ = torch.linalg.svd(a)
    return u @ torch.diag(values**exponent) @ u.T


def test_the_inverse_fourth_root_to_the_fourth_power_is_the_inverse() -> None:
    a = torch.randn(6, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    root = _inverse_fourth_root(a @ a.T, 1e-2)
    whole = a @ a.T + 1e-2 * torch.eye(6, dtype=torch.float64)
    torch.testing.assert_close(torch.linalg.matrix_power(root, 4) @ whole, torch.eye(6, dtype=torch.float64))


def test_steps_follow_the_formula() -> None:
    ours, lr, every = parameters(0), 0.1, 2
    optimizer = Shampoo(ours, lr=lr, eps=EPS, every=every, block=100)
    (w,) = (p.detach().clone() for p in ours[:1])
    left, right = torch.zeros(7, 7, dtype=torch.float64), torch.zeros(5, 5, dtype=torch.float64)
    for step in range(5):
        give_grads(ours, 10 + step)
        g = ours[0].grad
        left, right = left + g @ g.T, right + g.T @ g
        if step % every == 0:
            roots = [power(m + EPS * torch.eye(len(m), dtype=torch.float64), -0.25) for m in (left, right)]
        d = roots[0] @ g @ roots[1]
        w = w - lr * d * g.norm() / d.norm()
        optimizer.step()
        torch.testing.assert_close(ours[0].detach(), w, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close((ours[0].detach() - w).norm() / w.norm(), torch.zeros((), dtype=torch.float64))


@pytest.mark.parametrize("workers", [1, 2, 3, 9])
@pytest.mark.parametrize("block", [2, 4, 100])
def test_several_workers_step_like_one(workers: int, block: int) -> None:
    alone = parameters(0)
    one = Shampoo(alone, lr=0.05, block=block, every=1)
    replicas = [parameters(0) for _ in range(workers)]
    each = [Shampoo(own, lr=0.05, block=block, every=1) for own in replicas]
    blocks = [b for rank in range(workers) for b in each[0].blocks_of(rank, workers)]
    assert sum(b.size for b in blocks) == sum(p.numel() for p in alone) and all(max(b.shape) <= block for b in blocks)
    for step in range(3):
        for some in (alone, *replicas):
            give_grads(some, 20 + step)
        one.step()
        directions = torch.stack([optimizer.directions(rank, workers) for rank, optimizer in enumerate(each)])
        assert directions.shape == (workers, each[0].max_directions(workers))
        for optimizer in each:
            optimizer.apply(directions)
    for own in replicas:
        for p, q in zip(own, alone, strict=True):
            assert torch.equal(p, q)
    with_state = [sum(bool(b.state) for b in optimizer._blocks) for optimizer in each]
    assert sum(with_state) == len(blocks)  # the state of each block is on exactly one worker


def test_it_descends_a_narrow_valley_faster_than_gradient_descent() -> None:
    scale = torch.tensor([1.0, 30.0], dtype=torch.float64)

    def loss_after(make: type[torch.optim.Optimizer], **settings: float) -> float:
        w = nn.Parameter(torch.ones(2, 2, dtype=torch.float64))
        optimizer = make([w], **settings)
        for _ in range(60):
            optimizer.zero_grad()
            ((w * scale) ** 2).sum().backward()
            optimizer.step()
        return float(((w * scale) ** 2).sum().detach())

    assert loss_after(Shampoo, lr=5e-4, every=1) < loss_after(torch.optim.SGD, lr=5e-4)


def test_unsupported_combinations_are_refused(tiny: Path, tmp_path: Path) -> None:
    dense = Optimizers(dense=DenseOptimizer("Shampoo", {"lr": 0.1}))
    with open_comm("cpu") as comm:
        network = Network(load_model(tiny), 0, torch.float64, "cpu")
        assert build("mesh", network, dense, comm).plan.strategy == "mesh+shampoo"
        assert build("mesh+shampoo", network, Optimizers(), comm).plan.op("directions")
        with pytest.raises(UsageError, match="ps_sync has no option 'shampoo'"):
            build("ps_sync", network, dense, comm)
        by_field = load_model(tiny).placed("field")
        with pytest.raises(UsageError, match="live with their fields"):
            build("des_all_reduce+shampoo", Network(by_field, 0, torch.float64, "cpu"), Optimizers(), comm)
    with pytest.raises(UsageError, match="ps_sync has no option 'shampoo'"):
        main(["--strategy", "ps_sync+shampoo"])
    with pytest.raises(UsageError, match="checkpoints do not save shampoo's state"):
        main(["--strategy", "mesh+shampoo", "--checkpoint", str(tmp_path)])
    with pytest.raises(UsageError, match="lr = -1 must be above 0"):
        DenseOptimizer("Shampoo", {"lr": -1})([nn.Parameter(torch.zeros(1))])
