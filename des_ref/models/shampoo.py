"""Shampoo, a second-order optimizer of replicated weights, distributed block by block (Gupta et al., ICML 2018).

A weight matrix is cut into blocks of at most `block` rows and columns; a vector is a matrix with one column. For a
block with gradient G, after the AllReduce of gradients:

    L += G G^T    R += G^T G    D = (L + eps)^(-1/4) G (R + eps)^(-1/4)    W -= lr |G| / |D| D

The step has the length of a gradient descent step (grafting) and the direction of Shampoo. Roots are recomputed every
`every` steps. Blocks are assigned to workers by cost. A worker keeps L and R of its own blocks and computes their
directions; an AllGather then sends all directions to all workers, as Shi et al. (arXiv 2309.06497) do with PyTorch's
DDP. Left out: momentum, exponential averages, grafting to Adam.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from dessim.errors import UsageError
from dessim.workload.options import SHAMPOO_BLOCK, SHAMPOO_EVERY

NAME = "Shampoo"


@dataclass(slots=True)
class _Block:
    """`parameter[rows, columns]` of the parameter viewed as a matrix."""

    parameter: nn.Parameter
    rows: slice
    columns: slice
    state: dict[str, Tensor] = field(default_factory=dict)  # left, right and their roots; on the owner only

    @property
    def shape(self) -> tuple[int, int]:
        return self.rows.stop - self.rows.start, self.columns.stop - self.columns.start

    @property
    def size(self) -> int:
        return self.shape[0] * self.shape[1]

    @property
    def cost(self) -> int:
        """Relative cost of its roots: cubic in each side."""
        return sum(side**3 for side in self.shape)

    def of(self, whole: Tensor) -> Tensor:
        """The block of a tensor shaped like the parameter: a view."""
        return whole.view(len(whole) if whole.dim() else 1, -1)[self.rows, self.columns]


class Shampoo(torch.optim.Optimizer):
    """On one worker call `step`; on several call `directions`, all-gather the results, and call `apply`."""

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        lr: float = 1e-3,
        eps: float = 1e-6,
        block: int = SHAMPOO_BLOCK,
        every: int = SHAMPOO_EVERY,
    ) -> None:
        for name, value in (("lr", lr), ("eps", eps), ("block", block), ("every", every)):
            if not value > 0:
                raise ValueError(f"{name} = {value} must be above 0")
        super().__init__(params, {"lr": lr, "eps": eps})
        self._eps = eps
        self._every = every
        self._steps = 0
        parameters = [p for group in self.param_groups for p in group["params"]]
        if not parameters:
            raise UsageError("Shampoo has no weights to train")
        self._blocks = [b for p in parameters for b in _cut(p, block)]

    def blocks_of(self, rank: int, workers: int) -> list[_Block]:
        """The blocks of one worker. Greedy: the costliest block first, each to the worker with the least load."""
        load = [0] * workers
        owner = {}
        for i in sorted(range(len(self._blocks)), key=lambda i: -self._blocks[i].cost):
            owner[i] = min(range(workers), key=lambda r: (load[r], r))
            load[owner[i]] += self._blocks[i].cost
        return [block for i, block in enumerate(self._blocks) if owner[i] == rank]

    def max_directions(self, workers: int) -> int:
        """The largest number of direction values of any worker."""
        return max(sum(block.size for block in self.blocks_of(rank, workers)) for rank in range(workers))

    @torch.no_grad()
    def directions(self, rank: int, workers: int) -> Tensor:
        """[max_directions]: the directions of this worker's blocks, concatenated and padded with zeros."""
        own = [self._direction(block).reshape(-1) for block in self.blocks_of(rank, workers)]
        self._steps += 1
        like = self._blocks[0].parameter
        out = like.new_zeros(self.max_directions(workers))
        flat = torch.cat([like.new_empty(0), *own])
        out[: len(flat)] = flat
        return out

    @torch.no_grad()
    def apply(self, directions: Tensor) -> None:
        """Step along the directions of all workers [workers, max_directions]."""
        (lr,) = {group["lr"] for group in self.param_groups}
        for rank, own in enumerate(directions):
            blocks = self.blocks_of(rank, len(directions))
            sizes = [block.size for block in blocks]
            for block, direction in zip(blocks, own[: sum(sizes)].split(sizes) if sizes else (), strict=True):
                block.of(block.parameter.data).sub_(direction.view(block.shape), alpha=lr)

    def step(self, closure: None = None) -> None:  # type: ignore[override]
        self.apply(self.directions(0, 1)[None])

    def _direction(self, block: _Block) -> Tensor:
        grad = block.parameter.grad
        if grad is None:
            return block.of(torch.zeros_like(block.parameter)).clone()
        g = block.of(grad)
        state = block.state
        for side, outer in (("left", g @ g.T), ("right", g.T @ g)):
            state[side] = state[side] + outer if side in state else outer
            if self._steps % self._every == 0:
                state[f"{side}_root"] = _inverse_fourth_root(state[side], self._eps)
        d = state["left_root"] @ g @ state["right_root"]
        length = d.norm()
        return d * (g.norm() / length) if float(length) else d


def _cut(p: nn.Parameter, block: int) -> Iterable[_Block]:
    rows, columns = p.view(len(p) if p.dim() else 1, -1).shape
    for r in range(0, rows, block):
        for c in range(0, columns, block):
            yield _Block(p, slice(r, min(r + block, rows)), slice(c, min(c + block, columns)))


def _inverse_fourth_root(a: Tensor, eps: float) -> Tensor:
    """(A + eps)^(-1/4) of a positive semidefinite matrix."""
    values, vectors = torch.linalg.eigh(a)
    return vectors * (values.clamp_min(0) + eps) ** -0.25 @ vectors.T
