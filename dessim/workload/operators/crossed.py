"""Cross networks: each layer multiplies the output of the layer below with the field vectors."""

from __future__ import annotations

from typing import ClassVar, Literal

from dessim.workload.formula import ONE, ZERO, add_up, group, number
from dessim.workload.operators.base import (
    Costs,
    Dense,
    DesOrMesh,
    Layer,
    Layers,
    OperatorSpec,
    Positive,
    Round,
    Shape,
    Widths,
    stack,
)
from dessim.workload.symbols import DF, D, Dm, Dq, F


class Cross(OperatorSpec):
    """DCN's cross network in one round: x_l = a_l x_0 + c_l needs x_0 . w_l of each layer and x_0 . w_out only."""

    kind: Literal["cross"]
    any_widths: ClassVar[bool] = True
    sums_only: ClassVar[bool] = True
    layers: Layers

    def costs(self, shape: Shape) -> Costs:
        scalars = self.layers + 1
        return Costs(
            "cross",
            wire=number(scalars),
            id_flops=Dm,
            pair_flops=2 * Dq * scalars,
            finish_flops=number(3 * self.layers + 2),
            pooled_flops=2 * F * DF * scalars,
            pair_floats=Dq,
            shared_weights=scalars * F * DF,
            dense=Dense(weights=self.layers * shape.pooled, units=2 * self.layers),
        )


class CrossV2(DesOrMesh):
    """DCN-v2's cross network, with full matrices or with U V^T of rank `rank`.

    It is computed above the operand. With low rank under field placement it separates, and sends r floats a sample and
    layer in each direction.
    """

    kind: Literal["cross_v2"]
    any_widths: ClassVar[bool] = True
    layers: Layers
    rank: Positive | None = None

    def needs_operand(self, by_field: bool) -> bool:
        return super().needs_operand(by_field) or self.rank is None or not by_field

    def costs(self, shape: Shape) -> Costs:
        n = shape.pooled
        r = self.rank
        if r is not None and not self.needs_operand(shape.by_field):
            leg = Round(wire=number(r), pair_flops=4 * Dq * r + 4 * Dq, pair_floats=2 * Dq)
            return Costs(
                "cross_v2",
                wire=ONE,
                id_flops=Dm,
                pair_flops=2 * Dq * r,
                pooled_flops=self.layers * F * DF * (4 * r + 4),
                pooled_layers=stack(n, r, n) * self.layers,
                pair_floats=Dq,
                owned_weights=(self.layers * (2 * r + 1) + 1) * F * DF,
                rounds=(leg,) * self.layers,
            )
        matrix = n * n if r is None else 2 * n * r
        units = (2 * self.layers - 1) * n + self.layers * (r or 0)  # x_l and its product in every layer, without x_0
        layers = (stack(n, n) if r is None else stack(n, r, n)) * self.layers
        return Costs(
            "cross_v2", wire=ZERO, dense=Dense(self.layers * matrix + n, self.layers * (matrix + n) + n, units, layers)
        )


class Cin(OperatorSpec):
    """xDeepFM's compressed interaction network, with `widths` feature maps in each layer.

    It is computed above the operand. With `split` under field placement each worker computes the terms of its own
    fields instead, so that weights and products are divided among the workers. Each layer k then sends H_k D floats a
    sample in each direction, and the first one the operand.
    """

    kind: Literal["cin"]
    widths: Widths
    split: bool = False

    def needs_operand(self, by_field: bool) -> bool:
        return not (self.split and by_field)

    def costs(self, shape: Shape) -> Costs:
        below = (shape.vectors, *self.widths[:-1])
        if not self.needs_operand(shape.by_field):
            return self._split_costs(below)
        products = [maps * shape.vectors for maps in below]
        # The widest products have two more tensors of their size in backward: their gradient, and a factor's share.
        layers = Dense(sum(self.widths), sum(self.widths), 2 * max(products) * shape.width)
        for wide, maps in zip(products, self.widths, strict=True):
            product = Layer(wide, maps, rows=shape.width)
            layers += Dense(wide * shape.width * (maps + 1), wide * maps, (wide + maps) * shape.width, (product,))
        return Costs("cin", wire=ZERO, dense=layers)

    def _split_costs(self, below: tuple[int, ...]) -> Costs:
        flops = [D * maps * (2 * maps_here + 1) for maps, maps_here in zip(below, self.widths, strict=True)]
        weights = sum(maps * maps_here for maps, maps_here in zip(below, self.widths, strict=True))
        return Costs(
            "cin",
            wire=ONE,
            id_flops=D,
            pooled_flops=F * group(add_up(flops)),
            pair_floats=D,
            shared_weights=number(sum(self.widths)),
            owned_weights=weights * F,
            # Round k sums x^{k-1}, from which a leg computes its part of x^k.
            rounds=tuple(
                Round(maps * D, pair_flops=work, pair_floats=maps * D, sample_floats=(maps + maps_here) * D)
                for maps, maps_here, work in zip(below, self.widths, flops, strict=True)
            ),
        )
