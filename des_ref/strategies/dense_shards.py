"""Replicated parameters kept on servers: equal shards of one flat vector, padded at its end.

Server r holds and updates shard r; workers pull the whole vector and push the whole gradient. An optimizer that works
element by element (Adam, SGD, Adagrad) does to a shard what it would do to the whole.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from des_ref.strategies.base import Optimizers
from dessim.errors import UsageError

_BY_MATRIX = frozenset({"Adafactor", "Muon", "Shampoo"})  # their steps depend on rows and columns of a weight


class DenseShards:
    """`parameters` [P weights in all] cut for `servers`: ceil(P / servers) weights each."""

    def __init__(self, parameters: Sequence[nn.Parameter], servers: int) -> None:
        self._parameters, self.servers = parameters, servers
        self._sizes = [p.numel() for p in parameters]
        self.share = -(-sum(self._sizes) // servers)

    def flat(self, tensors: Sequence[Tensor]) -> Tensor:
        """[servers * share] from tensors shaped as the parameters."""
        return self.padded(torch.cat([t.detach().reshape(-1) for t in tensors]))

    def padded(self, whole: Tensor) -> Tensor:
        """[servers * share] from the vector of all P weights."""
        return torch.nn.functional.pad(whole, (0, self.servers * self.share - len(whole)))

    def whole(self, flat: Tensor) -> Tensor:
        """The other way: [P]."""
        return flat[: sum(self._sizes)]

    def flat_grads(self) -> Tensor:
        """The gradients of all parameters; one that has none counts as zeros."""
        return self.flat([p.grad if p.grad is not None else torch.zeros_like(p) for p in self._parameters])

    def fill(self, flat: Tensor) -> None:
        """Write pulled weights into the parameters."""
        with torch.no_grad():
            for p, values in zip(self._parameters, self._cut(flat), strict=True):
                p.copy_(values.view_as(p))

    def fill_grads(self, flat: Tensor) -> None:
        """Write gradients into the parameters' `grad`."""
        for p, values in zip(self._parameters, self._cut(flat), strict=True):
            p.grad = values.clone().view_as(p)

    def _cut(self, flat: Tensor) -> Sequence[Tensor]:
        return self.whole(flat).split(self._sizes)


class DenseServer:
    """One server's shard and its optimizer. Raises UsageError for one that looks at whole matrices."""

    def __init__(self, shards: DenseShards, parameters: Sequence[nn.Parameter], server: int, by: Optimizers) -> None:
        if by.dense.name in _BY_MATRIX:
            raise UsageError(
                f"servers hold shards of weights, and {by.dense.name} needs whole matrices: use Adam or such"
            )
        self._slice = slice(server * shards.share, (server + 1) * shards.share)
        self.weights = nn.Parameter(self.own(shards.flat(parameters)))
        self.optimizer = by.dense([self.weights])

    def own(self, flat: Tensor) -> Tensor:
        """This server's shard of a flat vector, a copy."""
        return flat[self._slice].clone()

    def update(self, grad: Tensor) -> None:
        self.weights.grad = grad
        self.optimizer.step()
