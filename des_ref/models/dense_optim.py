"""The optimizer of replicated weights: any of torch.optim, or Shampoo, by name and keyword arguments.

Replicas stay equal because every worker steps with the same gradients. Optimizers that need more than a dense gradient
are refused: L-BFGS re-evaluates the loss, SparseAdam needs sparse gradients.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from des_ref.models.shampoo import NAME as SHAMPOO
from des_ref.models.shampoo import Shampoo
from dessim.errors import UsageError

_UNSUPPORTED = frozenset({"Optimizer", "LBFGS", "SparseAdam"})


def dense_optimizers() -> list[str]:
    """Names of the optimizers of torch.optim that are supported."""
    members = {name: getattr(torch.optim, name) for name in dir(torch.optim) if name not in _UNSUPPORTED}
    return sorted(n for n, c in members.items() if isinstance(c, type) and issubclass(c, torch.optim.Optimizer))


@dataclass(frozen=True, slots=True)
class DenseOptimizer:
    """`DenseOptimizer("AdamW", {"lr": 1e-3})(parameters)` is `torch.optim.AdamW(parameters, lr=1e-3)`."""

    name: str = "Adam"
    settings: Mapping[str, Any] = field(default_factory=lambda: {"lr": 1e-3})

    def __call__(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """Raises UsageError for an unsupported name, or settings that the optimizer refuses."""
        supported = dense_optimizers()
        if self.name == SHAMPOO:
            return self._construct(Shampoo, parameters)
        if self.name not in supported:
            names = ", ".join(supported)
            raise UsageError(f"torch.optim has no {self.name!r} that the trainer supports; use one of {names}")
        return self._construct(getattr(torch.optim, self.name), parameters)

    def _construct(
        self, kind: Callable[..., torch.optim.Optimizer], parameters: Iterable[nn.Parameter]
    ) -> torch.optim.Optimizer:
        # TOML has lists where torch wants tuples (betas).
        settings = {key: tuple(v) if isinstance(v, list) else v for key, v in self.settings.items()}
        try:
            return kind(parameters, **settings)
        except (TypeError, ValueError) as error:
            module = "" if kind is Shampoo else "torch.optim."
            raise UsageError(f"{module}{self.name}: {error}") from None
