"""A model as the trainer runs it: substituted operators below, a dense tail above, one [B, K] buffer between.

    rows --partials--> buffer [B, K] --(summed over workers)--> tail --> logits [B]

K's columns are the operators' partials in the order lr (1), fm (D + 1), mlp (H1), as dessim.workload.operators counts
them. W1 of the mlp is replicated like the tail, but it works below the sum: see substitution/fc1.py.

All starting values come from `seed` alone, drawn in float64 on the CPU, so every worker, device and dtype starts alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

import torch
from torch import Tensor, nn

from des_ref.embedding.hash_table import RowTable
from des_ref.embedding.init import normal_rows
from des_ref.substitution import fc1, fm, lr
from des_ref.substitution.held import Held
from dessim.workload.model import Model


def dropout_masks(
    model: Model, samples: int, seed: int, step: int, dtype: torch.dtype, device: torch.device | str
) -> list[Tensor]:
    """One mask [B, width] a hidden layer, from (seed, step) alone, so that replicated tails drop the same units."""
    generator = torch.Generator(device).manual_seed(seed * 1_000_003 + step)
    keep = 1 - model.dropout
    draws = (torch.rand(samples, width, generator=generator, device=device) for width in model.mlp_widths)
    return [(draw < keep).to(dtype) / keep for draw in draws]


class DenseTail(nn.Module):
    """g of every operator, and the layers above them: [b, K] sums -> logits [b]."""

    def __init__(self, model: Model, generator: torch.Generator) -> None:
        super().__init__()
        self.kinds, self.width = model.kinds, model.embedding.width
        self.bias = nn.Parameter(torch.zeros((), dtype=torch.float64))
        self.layers = nn.ParameterList()  # b1, then (W, b) of each further layer
        if widths := model.mlp_widths:
            self.layers.append(torch.zeros(widths[0], dtype=torch.float64))
            for fan_in, fan_out in pairwise((*widths, 1)):
                self.layers.append(linear_weights(fan_out, fan_in, generator))
                self.layers.append(torch.zeros(fan_out, dtype=torch.float64))

    def forward(self, sums: Tensor, masks: list[Tensor] | None = None) -> Tensor:
        sizes = {"lr": 1, "fm": self.width + 1, "mlp": len(self.layers[0]) if len(self.layers) else 0}
        parts = dict(zip(self.kinds, sums.split([sizes[k] for k in self.kinds], dim=1), strict=True))
        logits = self.bias.expand(len(sums))
        if "lr" in parts:
            logits = logits + lr.finish(parts["lr"])
        if "fm" in parts:
            logits = logits + fm.finish(parts["fm"])
        if "mlp" in parts:
            logits = logits + self._mlp(fc1.finish(parts["mlp"]), masks)
        return logits

    def _mlp(self, h: Tensor, masks: list[Tensor] | None) -> Tensor:
        first, *rest = self.layers
        x = torch.relu(h + first)
        for i, (weight, bias) in enumerate(zip(rest[::2], rest[1::2], strict=True)):
            if masks is not None:
                x = x * masks[i]
            x = torch.addmm(bias, x, weight.T)
            if 2 * i + 2 < len(rest):
                x = torch.relu(x)
        return x[:, 0]


class Network:
    """The operators' partials and the dense parameters of one model."""

    def __init__(self, model: Model, seed: int, dtype: torch.dtype, device: torch.device | str) -> None:
        self.model, self.seed, self.dtype, self.device = model, seed, dtype, torch.device(device)
        self.fields, self.width = model.input.fields, model.embedding.width
        generator = torch.Generator().manual_seed(seed)
        self.w1: nn.Parameter | None = None
        if model.mlp_widths:
            w1 = linear_weights(model.mlp_widths[0], self.fields * self.width, generator)
            self.w1 = nn.Parameter(w1.to(self.device, dtype))
        self.tail = DenseTail(model, generator).to(self.device, dtype)

    @property
    def row_widths(self) -> dict[str, int]:
        """Value columns of a row: w for lr, v for fm and mlp."""
        kinds = self.model.kinds
        return ({"w": 1} if "lr" in kinds else {}) | ({"v": self.width} if {"fm", "mlp"} & {*kinds} else {})

    @property
    def dense_parameters(self) -> list[nn.Parameter]:
        """Replicated parameters: W1 first if there is one, then the tail's."""
        return ([self.w1] if self.w1 is not None else []) + list(self.tail.parameters())

    @property
    def pools(self) -> bool:
        """Whether some operator pools ids by (sample, field)."""
        return self.w1 is not None

    def new_table(self, init_std: float) -> RowTable:
        """An empty table whose rows start as (seed, id) says; `x_sum` holds the row-wise accumulator of column x."""
        widths = self.row_widths
        total = sum(widths.values())

        def initial(ids: Tensor) -> Mapping[str, Tensor]:
            values = normal_rows(ids, total, self.seed, init_std, self.dtype)
            return dict(zip(widths, values.split(list(widths.values()), dim=1), strict=True))

        return RowTable(widths | {f"{name}_sum": 1 for name in widths}, initial, self.dtype, self.device)

    def partials(self, values: Mapping[str, Tensor], held: Held) -> Tensor:
        """[B, K] from values [u, width] of the u different ids this worker holds."""
        w, v = (values[x].index_select(0, held.inverse) if x in values else None for x in ("w", "v"))
        parts = []
        for kind in self.model.kinds:
            if kind == "lr":
                parts.append(lr.partial(w, held))
            elif kind == "fm":
                parts.append(fm.partial(v, held))
            else:
                parts.append(fc1.partial(v, held, self.w1))
        return torch.cat(parts, dim=1)

    def masks(self, samples: int, step: int) -> list[Tensor] | None:
        """Dropout masks of a training step, None without dropout."""
        if not self.model.dropout:
            return None
        return dropout_masks(self.model, samples, self.seed, step, self.dtype, self.device)


def linear_weights(fan_out: int, fan_in: int, generator: torch.Generator) -> Tensor:
    """Uniform weights [fan_out, fan_in] in +-1/sqrt(fan_in) (torch.nn.Linear's default), float64."""
    draw = torch.rand(fan_out, fan_in, generator=generator, dtype=torch.float64)
    return (2 * draw - 1) / fan_in**0.5
