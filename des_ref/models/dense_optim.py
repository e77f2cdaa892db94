"""The optimizer of the replicated weights: any of torch.optim, or Shampoo, by name and keyword arguments.

Replicas stay equal because every worker steps with the same gradients. Rules that no replica could follow by itself are
refused: L-BFGS, which wants the loss evaluated anew, and SparseAdam, which wants sparse gradients.
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

_UNFIT = frozenset({"Optimizer", "LBFGS", "SparseAdam"})


def dense_optimizers() -> list[str]:
    """Names of torch.optim's optimizers that can be used here."""
    found = {name: getattr(torch.optim, name) for name in dir(torch.optim) if name not in _UNFIT}
    return sorted(n for n, c in found.items() if isinstance(c, type) and issubclass(c, torch.optim.Optimizer))


@dataclass(frozen=True, slots=True)
class DenseOptimizer:
    """`DenseOptimizer("AdamW", {"lr": 1e-3})(parameters)` is `torch.optim.AdamW(parameters, lr=1e-3)`."""

    name: str = "Adam"
    settings: Mapping[str, Any] = field(default_factory=lambda: {"lr": 1e-3})

    def __call__(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """Raises UsageError for a name that torch.optim lacks, or settings that its optimizer refuses."""
        known = dense_optimizers()
        if self.name == SHAMPOO:
            return self._made(Shampoo, parameters)
        if self.name not in known:
            raise UsageError(f"torch.optim has no {self.name!r} that fits; it has {', '.join(known)}")
        return self._made(getattr(torch.optim, self.name), parameters)

    def _made(
        self, kind: Callable[..., torch.optim.Optimizer], parameters: Iterable[nn.Parameter]
    ) -> torch.optim.Optimizer:
        # TOML has lists where torch wants tuples (betas).
        settings = {key: tuple(v) if isinstance(v, list) else v for key, v in self.settings.items()}
        try:
            return kind(parameters, **settings)
        except (TypeError, ValueError) as error:
            where = "" if kind is Shampoo else "torch.optim."
            raise UsageError(f"{where}{self.name}: {error}") from None
