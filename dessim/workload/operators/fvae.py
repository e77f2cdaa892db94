"""The field-aware variational autoencoder: a model of its own, whose output is as weights-rich as its input."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from dessim.workload.operators.base import Costs, Dense, OperatorSpec, Output, Positive, Shape, Widths

Weight = Annotated[float, Field(ge=0, le=1e6)]


class Fvae(OperatorSpec):
    """Encoder: the first layer of an mlp, substituted as there, further layers, mean and log variance of a code.
    Decoder: a softmax a field over the ids of that field that the global batch has, z . w_i + b_i their logits.

    `latent`: floats of a code. `beta`: weight of the divergence of codes from N(0, 1). `alpha`: one weight a field of
    its negative log likelihood; without it, 1 each.
    """

    kind: Literal["fvae"]
    sums_only: ClassVar[bool] = True
    alone: ClassVar[str] = "it learns the ids of a sample, not whether it was clicked"
    widths: Widths
    latent: Positive
    beta: Weight = 1.0
    alpha: tuple[Weight, ...] | None = None

    def misfit(self, fields: int) -> str:
        if self.alpha is not None and len(self.alpha) != fields:
            return f"alpha has {len(self.alpha)} weights, and there are {fields} fields: write one a field, or none"
        return ""

    def costs(self, shape: Shape) -> Costs:
        first, codes = self.widths[0], 2 * self.latent
        products = sum(a * b for a, b in pairwise((*self.widths, codes)))
        return Costs(
            "fvae",
            wire=f"{first}",
            id_flops="D",
            pair_flops=f"2*D*{first}",
            finish_flops=f"{8 * self.latent}",
            pair_floats="D",
            shared_weights="0" if shape.by_field else f"{first}*F*D",
            owned_weights=f"{first}*F*D" if shape.by_field else "0",
            # Mean and log variance; deviation, noise and code; their squares and exponentials.
            dense=Dense(products, products + sum(self.widths) + codes, sum(self.widths) + 4 * codes),
            output=Output(self.latent),
        )
