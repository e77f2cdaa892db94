"""The weights-rich operators of a model: their entries in a model file, and what each costs when substituted.

DES replaces an operator y = f(w; x) by g(f_1(w_1; x) + ... + f_N(w_N; x)). Worker p computes its partial f_p from the
rows it owns, a collective sums the partials over the workers, and g finishes on every worker. `wire` is the number of
floats a sample that the sum moves: K in the paper (Rong et al., SIGIR 2020; formulas derived and tested in
des_ref/substitution).

Costs are formulas over dessim.workload.symbols. An operator's own settings, such as its number of cross layers, stand
in them as numbers.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from dessim.workload.operators.additive import Fm, Lr, Nfm
from dessim.workload.operators.base import (
    Costs,
    Dense,
    Layer,
    Output,
    Positive,
    Round,
    Shape,
    Widths,
    hidden_layers,
    largest,
    stack,
    terms,
    total,
)
from dessim.workload.operators.crossed import Cin, Cross, CrossV2
from dessim.workload.operators.fvae import Fvae
from dessim.workload.operators.over_operand import Dot, Head
from dessim.workload.operators.pooled import WHOLE_POOLS, FmFields, Mlp, pooling_costs
from dessim.workload.operators.towers import Towers

__all__ = [
    "KINDS",
    "WHOLE_POOLS",
    "AnySpec",
    "Cin",
    "Costs",
    "Cross",
    "CrossV2",
    "Dense",
    "Dot",
    "Fm",
    "FmFields",
    "Fvae",
    "Head",
    "Layer",
    "Lr",
    "Mlp",
    "Nfm",
    "Output",
    "Positive",
    "Round",
    "Shape",
    "Spec",
    "Towers",
    "Widths",
    "hidden_layers",
    "largest",
    "pooling_costs",
    "stack",
    "terms",
    "total",
]

AnySpec = Lr | Fm | FmFields | Nfm | Cross | Mlp | CrossV2 | Dot | Cin | Fvae | Towers | Head
Spec = Annotated[AnySpec, Field(discriminator="kind")]
KINDS = (
    "lr",
    "fm",
    "fm_fields",
    "nfm",
    "cross",
    "mlp",
    "cross_v2",
    "dot",
    "inner",
    "cin",
    "fvae",
    "towers",
    "head",
)  # in the order of their parts in the buffer of partials
