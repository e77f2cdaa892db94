"""The field-aware variational autoencoder: a whole model, whose output layer is as weights-rich as its input."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from dessim.workload.formula import ZERO, number
from dessim.workload.operators.base import Costs, Dense, OperatorSpec, Output, Positive, Shape, Widths
from dessim.workload.symbols import D, F

Weight = Annotated[float, Field(ge=0, le=1e6)]


class Fvae(OperatorSpec):
    """FVAE. The encoder is an mlp whose first layer is substituted like that of `mlp`. It ends in the mean and log
    variance of a code z. The decoder is a softmax for each field over the ids of that field in the global batch, with
    logits z . w_i + b_i.

    `latent`: floats of a code. `beta`: weight of the divergence of codes from N(0, 1). `alpha`: the weight of each
    field's negative log likelihood, 1 by default.
    """

    kind: Literal["fvae"]
    sums_only: ClassVar[bool] = True
    alone: ClassVar[str] = "it learns the ids of a sample, not whether it was clicked"
    widths: Widths
    latent: Positive
    beta: Weight = 1.0
    alpha: tuple[Weight, ...] | None = None

    def misfit(self, shape: Shape) -> str:
        if self.alpha is not None and len(self.alpha) != shape.fields:
            return f"alpha has {len(self.alpha)} weights for {shape.fields} fields: write one a field, or none"
        return ""

    def costs(self, shape: Shape) -> Costs:
        first = self.widths[0]
        codes = 2 * self.latent
        products = sum(a * b for a, b in pairwise((*self.widths, codes)))
        return Costs(
            "fvae",
            wire=number(first),
            id_flops=D,
            pair_flops=2 * D * first,
            finish_flops=number(8 * self.latent),
            pair_floats=D,
            shared_weights=ZERO if shape.by_field else first * F * D,
            owned_weights=first * F * D if shape.by_field else ZERO,
            # Activations of the code: mean and log variance; deviation, noise and code; their squares and exponentials.
            dense=Dense(products, products + sum(self.widths) + codes, sum(self.widths) + 4 * codes),
            output=Output(self.latent),
        )
