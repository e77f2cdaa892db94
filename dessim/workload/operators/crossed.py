"""Cross networks: layers that multiply what is below them with the field vectors."""

from __future__ import annotations

from typing import ClassVar, Literal

from dessim.workload.operators.base import (
    Costs,
    Dense,
    EitherWay,
    OperatorSpec,
    Positive,
    Round,
    Shape,
    Widths,
)


class Cross(OperatorSpec):
    """DCN's cross network in one round: x_l = a_l x_0 + c_l needs x_0 . w_l of each layer and x_0 . w_out only."""

    kind: Literal["cross"]
    sums_only: ClassVar[bool] = True
    layers: Positive

    def costs(self, shape: Shape) -> Costs:
        scalars = self.layers + 1
        return Costs(
            "cross",
            wire=f"{scalars}",
            id_flops="D",
            pair_flops=f"2*D*{scalars}",
            finish_flops=f"{3 * self.layers + 2}",
            pooled_flops=f"2*F*D*{scalars}",
            pair_floats="D",
            shared_weights=f"{scalars}*F*D",
            dense=Dense(weights=self.layers * shape.pooled, units=2 * self.layers),
        )


class CrossV2(EitherWay):
    """DCN-v2's cross network: full matrices, or U V^T of `rank`.

    Above the operand; but of low rank under field placement, r floats a sample and layer there and back.
    """

    kind: Literal["cross_v2"]
    layers: Positive
    rank: Positive | None = None

    def needs_operand(self, by_field: bool) -> bool:
        return super().needs_operand(by_field) or self.rank is None or not by_field

    def costs(self, shape: Shape) -> Costs:
        n, r = shape.pooled, self.rank
        if r is not None and not self.needs_operand(shape.by_field):
            leg = Round(wire=f"{r}", pair_flops=f"4*D*{r} + 4*D", pair_floats="2*D")
            return Costs(
                "cross_v2",
                wire="1",
                id_flops="D",
                pair_flops=f"2*D*{r}",
                pooled_flops=f"{self.layers}*F*D*{4 * r + 4}",
                pair_floats="D",
                owned_weights=f"{self.layers * (2 * r + 1) + 1}*F*D",
                rounds=(leg,) * self.layers,
            )
        matrix = n * n if r is None else 2 * n * r
        units = (2 * self.layers - 1) * n + self.layers * (r or 0)  # x_l and its product, but x_0
        return Costs("cross_v2", wire="0", dense=Dense(self.layers * matrix + n, self.layers * (matrix + n) + n, units))


class Cin(OperatorSpec):
    """xDeepFM's compressed interaction network, `widths` feature maps a layer.

    Above the operand; but where `split` and under field placement, each worker has the terms of its own fields: then
    its weights and products are shared out, for the operand and H_k D floats a sample and layer, there and back.
    """

    kind: Literal["cin"]
    widths: Widths
    split: bool = False

    def needs_operand(self, by_field: bool) -> bool:
        return not (self.split and by_field)

    def costs(self, shape: Shape) -> Costs:
        below = (shape.fields, *self.widths[:-1])
        if not self.needs_operand(shape.by_field):
            return self._split_costs(below)
        products = [maps * shape.fields for maps in below]
        # The widest products have two more tensors of their size in backward: their gradient, and a factor's share.
        layers = Dense(sum(self.widths), sum(self.widths), 2 * max(products) * shape.width)
        for wide, maps in zip(products, self.widths, strict=True):
            layers += Dense(wide * shape.width * (maps + 1), wide * maps, (wide + maps) * shape.width)
        return Costs("cin", wire="0", dense=layers)

    def _split_costs(self, below: tuple[int, ...]) -> Costs:
        flops = [f"D*{maps}*{2 * maps_here + 1}" for maps, maps_here in zip(below, self.widths, strict=True)]
        weights = sum(maps * maps_here for maps, maps_here in zip(below, self.widths, strict=True))
        return Costs(
            "cin",
            wire="1",
            id_flops="D",
            pooled_flops=f"F*({' + '.join(flops)})",
            pair_floats="D",
            shared_weights=f"{sum(self.widths)}",
            owned_weights=f"{weights}*F",
            # Round k brings x^{k-1}, with which a leg makes its part of x^k.
            rounds=tuple(
                Round(f"{maps}*D", pair_flops=work, pair_floats=f"{maps}*D", sample_floats=f"{maps + maps_here}*D")
                for maps, maps_here, work in zip(below, self.widths, flops, strict=True)
            ),
        )
