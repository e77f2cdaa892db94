"""The weights-rich operators of a model: what a model file may say of each, and what each costs when substituted.

An operator y = f(w; x) is replaced by g(f_1(w_1; x) + ... + f_N(w_N; x)): worker p computes its partial from the rows
it owns, the partials are summed over the workers, g finishes on every worker. `wire` is the number of floats a sample
the sum moves: K in the paper's terms (Rong et al., SIGIR 2020; formulas derived and tested in des_ref/substitution).

Formulas are strings over dessim.workload.symbols. Where an operator has numbers of its own (how many cross
layers), they stand in the formula as numbers.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from dessim.workload.operators.additive import Fm, Lr, Nfm
from dessim.workload.operators.base import Costs, Dense, Output, Positive, Round, Shape, largest, total
from dessim.workload.operators.crossed import Cin, Cross, CrossV2
from dessim.workload.operators.fvae import Fvae
from dessim.workload.operators.over_operand import Dot, Head
from dessim.workload.operators.pooled import WHOLE_POOLS, FmFields, Mlp, pooling_costs

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
    "Lr",
    "Mlp",
    "Nfm",
    "Output",
    "Positive",
    "Round",
    "Shape",
    "Spec",
    "largest",
    "pooling_costs",
    "total",
]

AnySpec = Lr | Fm | FmFields | Nfm | Cross | Mlp | CrossV2 | Dot | Cin | Fvae | Head
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
    "head",
)  # the order of the buffer
