"""Fully connected layers above the sums: part of an operator's `finish`, replicated, never substituted."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn


def linear_weights(fan_out: int, fan_in: int, generator: torch.Generator) -> Tensor:
    """Uniform weights [fan_out, fan_in] in +-1/sqrt(fan_in) (torch.nn.Linear's default), float64."""
    draw = torch.rand(fan_out, fan_in, generator=generator, dtype=torch.float64)
    return (2 * draw - 1) / fan_in**0.5


class HiddenLayers(nn.Module):
    """An mlp over x [b, inputs] whose last layer is its output: every layer has a bias and ends in a ReLU."""

    def __init__(self, inputs: int, widths: tuple[int, ...], generator: torch.Generator) -> None:
        super().__init__()
        self.layers = nn.ParameterList()  # (W, b) of each layer
        for fan_in, fan_out in pairwise((inputs, *widths)):
            self.layers.append(linear_weights(fan_out, fan_in, generator))
            self.layers.append(torch.zeros(fan_out, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        """[b, widths[-1]]."""
        for weight, bias in zip(self.layers[::2], self.layers[1::2], strict=True):
            x = torch.relu_(torch.addmm(bias, x, weight.T))
        return x


def plain_hidden_layers(x: Tensor, layers: Sequence[Tensor]) -> Tensor:
    """The same as a textbook writes it, for `reference` methods; `layers` are W1, b1, W2, ..."""
    for weight, bias in zip(layers[::2], layers[1::2], strict=True):
        x = torch.relu(x @ weight.T + bias)
    return x


class Tower(nn.Module):
    """All layers except the first product: h [b, H1], before its bias, -> logits [b].

    `outputs`: number of units of the last layer, if it is more than a logit.
    """

    def __init__(self, widths: tuple[int, ...], generator: torch.Generator, outputs: int = 1) -> None:
        super().__init__()
        self.layers = nn.ParameterList([torch.zeros(widths[0], dtype=torch.float64)])  # b1, then (W, b) of each layer
        for fan_in, fan_out in pairwise((*widths, outputs)):
            self.layers.append(linear_weights(fan_out, fan_in, generator))
            self.layers.append(torch.zeros(fan_out, dtype=torch.float64))

    def forward(self, h: Tensor, masks: list[Tensor] | None) -> Tensor:
        return self.outputs(h, masks)[:, 0]

    def outputs(self, h: Tensor, masks: list[Tensor] | None) -> Tensor:
        """[b, outputs]."""
        first, *rest = self.layers
        x = torch.relu_(h + first)
        for i, (weight, bias) in enumerate(zip(rest[::2], rest[1::2], strict=True)):
            if masks is not None:
                x = x * masks[i]
            x = torch.addmm(bias, x, weight.T)
            if 2 * i + 2 < len(rest):
                x = torch.relu_(x)
        return x


def plain_tower(h: Tensor, layers: list[Tensor], masks: list[Tensor] | None) -> Tensor:
    """The same as a textbook writes it, for `reference` methods; `layers` are b1, W2, b2, ..."""
    return plain_layers(h, layers, masks)[:, 0]


def plain_layers(h: Tensor, layers: list[Tensor], masks: list[Tensor] | None) -> Tensor:
    """[b, outputs]."""
    masks = list(masks) if masks is not None else None
    bias, *rest = layers
    x = h + bias
    while rest:
        x = torch.relu(x)
        if masks is not None:
            x = x * masks.pop(0)
        x = x @ rest.pop(0).T + rest.pop(0)
    return x
