"""Replicated parameters kept on servers, as equal shards of one flat vector that is padded at the end.

Server r holds and updates shard r; workers pull the whole vector and push the whole gradient. An element-wise optimizer
(Adam, SGD, Adagrad) updates a shard exactly as it would update the whole vector.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from des_ref.strategies.base import Optimizers
from dessim.errors import UsageError

# Optimizers that need whole rows and columns of a weight matrix.
_MATRIX_OPTIMIZERS = frozenset({"Adafactor", "Muon", "Shampoo"})


class DenseShards:
    """`parameters` with P weights in all, cut for `servers`: `share` = ceil(P / servers) weights each."""

    def __init__(self, parameters: Sequence[nn.Parameter], servers: int) -> None:
        self._parameters = parameters
        self.servers = servers
        self._sizes = [p.numel() for p in parameters]
        self.share = -(-sum(self._sizes) // servers)

    def flat(self, tensors: Sequence[Tensor]) -> Tensor:
        """[servers * share] from tensors shaped like the parameters."""
        return self.padded(torch.cat([t.detach().reshape(-1) for t in tensors]))

    def padded(self, whole: Tensor) -> Tensor:
        """[servers * share] from the vector of all P weights."""
        return torch.nn.functional.pad(whole, (0, self.servers * self.share - len(whole)))

    def whole(self, flat: Tensor) -> Tensor:
        """[P] without the padding."""
        return flat[: sum(self._sizes)]

    def flat_grads(self) -> Tensor:
        """[servers * share]: the gradients of all parameters; a missing gradient counts as zeros."""
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
    """One server's shard and its optimizer. Raises UsageError for an optimizer that needs whole matrices."""

    def __init__(
        self, shards: DenseShards, parameters: Sequence[nn.Parameter], server: int, optimizers: Optimizers
    ) -> None:
        if optimizers.dense.name in _MATRIX_OPTIMIZERS:
            name = optimizers.dense.name
            raise UsageError(f"servers hold shards of weights, and {name} needs whole matrices: use Adam, for example")
        self._slice = slice(server * shards.share, (server + 1) * shards.share)
        self.weights = nn.Parameter(self.own(shards.flat(parameters)))
        self.optimizer = optimizers.dense([self.weights])

    def own(self, flat: Tensor) -> Tensor:
        """This server's shard of a flat vector: a copy."""
        return flat[self._slice].clone()

    def update(self, grad: Tensor) -> None:
        self.weights.grad = grad
        self.optimizer.step()
