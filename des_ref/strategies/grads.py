"""Gradients of replicated weights, summed over workers in one flat message."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from des_ref.comm import Comm, Handle


@dataclass(frozen=True, slots=True)
class SummedGrads:
    """A sum of gradients in flight. Call `wait`, then `unpack`; both do nothing if there are no parameters."""

    _parameters: Sequence[nn.Parameter]
    _flat: Tensor | None = None
    _handle: Handle | None = None

    @classmethod
    def launch(cls, comm: Comm, name: str, parameters: Sequence[nn.Parameter]) -> SummedGrads:
        """Start the AllReduce `name` of the parameters' gradients; a missing gradient counts as zeros."""
        if not parameters:
            return cls(())
        grads = [p.grad if p.grad is not None else torch.zeros_like(p) for p in parameters]
        flat = torch.cat([g.reshape(-1) for g in grads]) if len(grads) > 1 else grads[0].contiguous().view(-1)
        return cls(parameters, flat, comm.all_reduce(name, flat))

    def wait(self) -> None:
        if self._handle is not None:
            self._handle.wait()

    def unpack(self) -> None:
        """Write the sums into the parameters' `grad`."""
        if self._flat is not None:
            sizes = [p.numel() for p in self._parameters]
            for p, grad in zip(self._parameters, self._flat.split(sizes), strict=True):
                p.grad = grad.view_as(p)
