"""Towers: mlps side by side, each over the pooled vectors of its own tables.

    t_k = relu(W_l ... relu(W_1 concat(e_bf for the tables f of tower k) + b_1) ... + b_l)

    y = <t_1, t_2>                       dot     TorchRec's TwoTower
    y = mlp(concat(t_1, ..., t_n))       concat

Every layer of a tower ends in a ReLU, as in TorchRec. The towers are above the sums: the operand is the pooled vectors
of all fields (operand.py). With dense features a tower may also read the output of the bottom mlp (bottom.py).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from des_ref.substitution.base import Operator, Plain
from des_ref.substitution.layers import HiddenLayers, Tower, linear_weights, plain_hidden_layers, plain_tower
from dessim.workload import operators as specs

_BOTTOM = ""  # in place of a table's name: the output of the bottom mlp


class Towers(Operator):
    """The towers of `spec` over the vectors of a model of `shape`."""

    def __init__(self, spec: specs.Towers, shape: specs.Shape, generator: torch.Generator) -> None:
        super().__init__()
        bottom = {_BOTTOM: shape.bottom} if shape.bottom else {}
        self._spec = spec
        self._widths = bottom | dict(zip(shape.names, shape.widths, strict=True))  # of the vectors, in order
        self._reads = spec.vectors_of_towers(shape)
        widths = list(self._widths.values())
        self.towers = nn.ModuleList(
            HiddenLayers(sum(widths[number] for number in read), tower.widths, generator)
            for tower, read in zip(spec.towers, self._reads, strict=True)
        )
        if spec.widths is not None:
            outputs = sum(tower.widths[-1] for tower in spec.towers)
            self.first = nn.Parameter(linear_weights(spec.widths[0], outputs, generator))
            self.top = Tower(spec.widths, generator)

    def finish(self, sums: Tensor, masks: list[Tensor] | None) -> Tensor:
        # split has one backward; slicing would make autograd add zero-padded copies of the whole.
        vectors = sums.flatten(1).split(list(self._widths.values()), dim=1)
        outputs = [
            tower(torch.cat([vectors[number] for number in read], dim=1))
            for tower, read in zip(self.towers, self._reads, strict=True)
        ]
        if self._spec.widths is None:
            return (outputs[0] * outputs[1]).sum(dim=1)
        return self.top(torch.cat(outputs, dim=1) @ self.first.T, masks)

    def reference(self, plain: Plain, weights: Mapping[str, Tensor], masks: list[Tensor] | None) -> Tensor:
        """One tower at a time, which finds its tables by name, then the product of matrices of each sample."""
        left = plain.operand().flatten(1)
        vectors = {}
        for name, width in self._widths.items():
            vectors[name], left = left[:, :width], left[:, width:]
        outputs = []
        for number, tower in enumerate(self._spec.towers):
            read = [vectors[name] for name in ([_BOTTOM] if tower.dense else []) + list(tower.tables)]
            own = [w for name, w in weights.items() if name.startswith(f"towers.{number}.")]
            outputs.append(plain_hidden_layers(torch.hstack(read), own))
        if self._spec.join == "dot":
            return torch.einsum("bi,bi->b", *outputs)
        top = [w for name, w in weights.items() if name.startswith("top.")]
        return plain_tower(torch.hstack(outputs) @ weights["first"].T, top, masks)
