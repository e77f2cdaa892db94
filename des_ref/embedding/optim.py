"""Optimizers of rows. Each keeps its state in columns of the RowTable, next to the values it belongs to.

    name             update of a value w with gradient g, element by element unless noted           state, floats a row
    sgd              w -= rate g                                                                     0
    rowwise_adagrad  a += mean_j g_j^2 (a row);  w -= rate g / (sqrt(a) + eps)                       1 a column
    adagrad          a += g^2;  w -= rate g / (sqrt(a) + eps)                                        W
    adam             t += 1 (a row);  m, v moments;  w -= rate m^ / (sqrt(v^) + eps)                 2 W + 1
    ftrl             FTRL-Proximal: z, n, and w from them in closed form                             2 W

A step updates each touched row exactly once, with the sum of the gradients of all its occurrences (autograd's backward
of index_select has summed them). Untouched rows do not change. There is no weight decay: decaying untouched rows would
take a pass over the whole table, and decaying only touched rows would not be weight decay.

Sources: row-wise Adagrad as FBGEMM's EXACT_ROWWISE_ADAGRAD; Adagrad, Duchi et al. 2011, with torch.optim's eps; Adam,
Kingma and Ba 2015; FTRL-Proximal, McMahan et al. 2013, algorithm 1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Literal

import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from des_ref.embedding.hash_table import RowTable

Rate = Annotated[float, Field(gt=0, le=10)]
Small = Annotated[float, Field(gt=0, le=1)]
Decay = Annotated[float, Field(ge=0, lt=1)]
Penalty = Annotated[float, Field(ge=0, le=1e6)]

# Settings come from a file, so they are validated on construction.
_settings = dataclass(frozen=True, config=ConfigDict(extra="forbid"))
_STEPS = "row_steps"  # column with the number of Adam steps of each row


class _ColumnByColumn:
    """An optimizer that treats every column the same: `_step` returns new values and updates `state` in place."""

    _floats: tuple[str, ...] = ()  # names of state as wide as the column
    _scalars: tuple[str, ...] = ()  # names of state of one float for each column

    def state(self, widths: Mapping[str, int]) -> dict[str, int]:
        """Names and widths of the state columns for value columns of these widths. State starts at 0."""
        return {
            f"{column}_{part}": width if part in self._floats else 1
            for column, width in widths.items()
            for part in (*self._floats, *self._scalars)
        }

    def update(self, table: RowTable, rows: Tensor, grads: Mapping[str, Tensor]) -> None:
        """Update distinct `rows` [u] of the columns in `grads` with their gradients [u, width], in place."""
        columns = table.columns
        for name, grad in grads.items():
            parts = (*self._floats, *self._scalars)
            state = {part: columns[f"{name}_{part}"].index_select(0, rows) for part in parts}
            columns[name].index_copy_(0, rows, self._step(columns[name].index_select(0, rows), grad, state))
            for part in parts:
                columns[f"{name}_{part}"].index_copy_(0, rows, state[part])

    def _step(self, values: Tensor, grad: Tensor, state: dict[str, Tensor]) -> Tensor:
        raise NotImplementedError


@_settings
class Sgd(_ColumnByColumn):
    """Gradient descent without momentum."""

    rate: Rate = 0.05
    name: Literal["sgd"] = "sgd"

    def _step(self, values: Tensor, grad: Tensor, state: dict[str, Tensor]) -> Tensor:
        return values - self.rate * grad


@_settings
class RowAdagrad(_ColumnByColumn):
    """Adagrad with one accumulator a row and column, so that the state is 1/D of the weights."""

    rate: Rate = 0.05
    eps: Small = 1e-8
    name: Literal["rowwise_adagrad"] = "rowwise_adagrad"
    _scalars = ("sum",)

    def _step(self, values: Tensor, grad: Tensor, state: dict[str, Tensor]) -> Tensor:
        state["sum"] += grad.square().mean(dim=1, keepdim=True)
        return values - self.rate * grad / (state["sum"].sqrt() + self.eps)


@_settings
class Adagrad(_ColumnByColumn):
    """Adagrad, element by element."""

    rate: Rate = 0.05
    eps: Small = 1e-10
    name: Literal["adagrad"] = "adagrad"
    _floats = ("sum",)

    def _step(self, values: Tensor, grad: Tensor, state: dict[str, Tensor]) -> Tensor:
        state["sum"] += grad.square()
        return values - self.rate * grad / (state["sum"].sqrt() + self.eps)


@_settings
class Adam:
    """Sparse ("lazy") Adam: only steps that touch a row decay its moments and advance its step count.

    Each row is trained exactly as dense Adam would train it if only the steps that touch it existed. Bias correction is
    therefore exact for a row that first appears late; torch.optim.SparseAdam, which counts all steps, corrects it too
    little. It differs from dense Adam, whose moments decay, and whose rows move, in every step.
    """

    rate: Rate = 1e-3
    beta_1: Decay = 0.9
    beta_2: Decay = 0.999
    eps: Small = 1e-8
    name: Literal["adam"] = "adam"

    def state(self, widths: Mapping[str, int]) -> dict[str, int]:
        """Two moments for each float and one step count for each row (exact in float32 up to 2^24). All start at 0."""
        moments = {f"{name}_{moment}": width for name, width in widths.items() for moment in ("mean", "square")}
        return moments | {_STEPS: 1}

    def update(self, table: RowTable, rows: Tensor, grads: Mapping[str, Tensor]) -> None:
        """Update distinct `rows` [u] with gradients [u, width] of all columns, in place."""
        columns = table.columns
        steps = columns[_STEPS][rows] + 1
        columns[_STEPS][rows] = steps
        # 1 - beta^t without cancellation, which would cost four digits in float32 at t = 1.
        correction_1, correction_2 = (
            -torch.expm1(steps * math.log(beta)) if beta else 1.0 for beta in (self.beta_1, self.beta_2)
        )
        for name, grad in grads.items():
            mean = columns[f"{name}_mean"]
            square = columns[f"{name}_square"]
            new_mean = self.beta_1 * mean[rows] + (1 - self.beta_1) * grad
            new_square = self.beta_2 * square[rows] + (1 - self.beta_2) * grad.square()
            mean[rows] = new_mean
            square[rows] = new_square
            columns[name][rows] -= (
                self.rate * (new_mean / correction_1) / ((new_square / correction_2).sqrt() + self.eps)
            )


@_settings
class Ftrl(_ColumnByColumn):
    """FTRL-Proximal: l1 produces exact zeros; the rate of each float is alpha / (beta + sqrt(sum of g^2)).

        z += g - (sqrt(n + g^2) - sqrt(n)) / rate * w;   n += g^2
        w = 0 where |z| <= l1, else -(z - sign(z) l1) / ((beta + sqrt(n)) / rate + l2)

    `rate` is the paper's alpha. The paper starts all weights at 0, which embeddings cannot, because products of zeros
    have no gradient. So a float without a gradient so far starts from the z that yields its current value. Without l1
    and l2 the rule is then Adagrad with eps = beta from any starting value.
    """

    rate: Rate = 0.05
    beta: Small = 1.0
    l1: Penalty = 0.0
    l2: Penalty = 0.0
    name: Literal["ftrl"] = "ftrl"
    _floats = ("z", "n")

    def _step(self, values: Tensor, grad: Tensor, state: dict[str, Tensor]) -> Tensor:
        n = state["n"]
        new_n = n + grad.square()
        start = -values * (self.beta / self.rate + self.l2) - values.sign() * self.l1
        z = torch.where(n == 0, start, state["z"]) + grad - (new_n.sqrt() - n.sqrt()) / self.rate * values
        state["z"] = z
        state["n"] = new_n
        shrunk = z.sign() * (z.abs() - self.l1).clamp_min(0)
        # A float without a gradient so far keeps its value bit for bit.
        return torch.where(new_n == 0, values, -shrunk / ((self.beta + new_n.sqrt()) / self.rate + self.l2))


RowOptimizer = Sgd | RowAdagrad | Adagrad | Adam | Ftrl
ROW_OPTIMIZERS: dict[str, type[RowOptimizer]] = {
    "sgd": Sgd,
    "rowwise_adagrad": RowAdagrad,
    "adagrad": Adagrad,
    "adam": Adam,
    "ftrl": Ftrl,
}
