"""Shampoo: replicated weights trained with a second-order step, each block's by one worker (Gupta et al., ICML 2018).

A weight matrix is cut in blocks of at most `block` rows and columns; a vector is a matrix of one column. Of a block
with gradient G, after the AllReduce that everyone's gradients go through:

    L += G G^T    R += G^T G    D = (L + eps)^(-1/4) G (R + eps)^(-1/4)    W -= lr |G| / |D| D

so the step is as long as plain gradient descent's (grafting), and only its direction is Shampoo's. Roots are found anew
every `every` steps. Blocks are dealt out to the workers by what they cost; a worker keeps L and R of its own blocks and
finds their directions, and an AllGather brings all directions to everyone: what Shi et al. (arXiv 2309.06497) do with
PyTorch's DDP. Left out: momentum, exponential averages, their grafting to Adam.
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
    """`parameter[rows, columns]`, seen as a matrix."""

    parameter: nn.Parameter
    rows: slice
    columns: slice
    state: dict[str, Tensor] = field(default_factory=dict)  # left, right, and their roots; on one worker

    @property
    def shape(self) -> tuple[int, int]:
        return self.rows.stop - self.rows.start, self.columns.stop - self.columns.start

    @property
    def size(self) -> int:
        return self.shape[0] * self.shape[1]

    def of(self, whole: Tensor) -> Tensor:
        """The block of a tensor shaped as the parameter: a view."""
        return whole.view(len(whole) if whole.dim() else 1, -1)[self.rows, self.columns]


class Shampoo(torch.optim.Optimizer):
    """`step` does it alone; workers together call `directions`, share what comes out, and then `apply`."""

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
        self._eps, self._every, self._steps = eps, every, 0
        parameters = [p for group in self.param_groups for p in group["params"]]
        if not parameters:
            raise UsageError("Shampoo has no weights to train")
        self._blocks = [cut for p in parameters for cut in _cut(p, block)]

    def share(self, rank: int, workers: int) -> list[_Block]:
        """The blocks of one worker: the dearest first, each to whoever has least to do."""
        load, owner = [0] * workers, {}
        for i in sorted(range(len(self._blocks)), key=lambda i: -sum(side**3 for side in self._blocks[i].shape)):
            owner[i] = min(range(workers), key=lambda r: (load[r], r))
            load[owner[i]] += sum(side**3 for side in self._blocks[i].shape)
        return [block for i, block in enumerate(self._blocks) if owner[i] == rank]

    def most(self, workers: int) -> int:
        """Values of the directions of whoever has the most."""
        return max(sum(block.size for block in self.share(rank, workers)) for rank in range(workers))

    @torch.no_grad()
    def directions(self, rank: int, workers: int) -> Tensor:
        """[most]: those of this worker's blocks, one after the other."""
        found = [self._direction(block).reshape(-1) for block in self.share(rank, workers)]
        self._steps += 1
        like = self._blocks[0].parameter
        out = like.new_zeros(self.most(workers))
        flat = torch.cat([like.new_empty(0), *found])
        out[: len(flat)] = flat
        return out

    @torch.no_grad()
    def apply(self, directions: Tensor) -> None:
        """Step along everyone's directions [workers, most]."""
        (lr,) = {group["lr"] for group in self.param_groups}
        for rank, own in enumerate(directions):
            blocks = self.share(rank, len(directions))
            sizes = [block.size for block in blocks]
            for block, part in zip(blocks, own[: sum(sizes)].split(sizes) if sizes else (), strict=True):
                block.of(block.parameter.data).sub_(part.view(block.shape), alpha=lr)

    def step(self, closure: None = None) -> None:  # type: ignore[override]
        self.apply(self.directions(0, 1)[None])

    def _direction(self, block: _Block) -> Tensor:
        grad = block.parameter.grad
        if grad is None:
            return block.of(torch.zeros_like(block.parameter)).clone()
        g, state = block.of(grad), block.state
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
