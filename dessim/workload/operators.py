"""The weights-rich operators of a model, and what each costs when it is substituted.

An operator y = f(w; x) is replaced by g(f_1(w_1; x) + ... + f_N(w_N; x)): worker p computes its partial from the rows
it owns, the partials are summed over the workers, g finishes on every worker. `wire` is the number of floats a sample
the sum moves: K in the paper's terms (Rong et al., SIGIR 2020; formulas derived and tested in des_ref/substitution).

All strings are formulas over the symbols of dessim.workload.model.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Operator:
    """Costs of one operator kind.

    `wire`: floats a sample in the reduced buffer.
    `id_flops`: FLOPs of the local partial for each id, forward.
    `pair_flops`: the same for each (sample, field) pair that has an id on this worker.
    `finish_flops`: FLOPs a sample of g, forward.
    `pooled_flops`: FLOPs a sample of the whole operator over pooled field vectors, where it is not substituted.
    `id_floats`, `pair_floats`: floats of each id, each such pair, that the local partial keeps for its backward.
    `shared_weights`: floats of replicated weights that feed on local partials, whose gradient is itself a partial sum.
    """

    kind: str
    wire: str
    id_flops: str = "0"
    pair_flops: str = "0"
    finish_flops: str = "0"
    pooled_flops: str = "0"
    id_floats: str = "0"
    pair_floats: str = "0"
    shared_weights: str = "0"


OPERATORS: dict[str, Operator] = {
    # z = sum_i w_i x_i
    "lr": Operator("lr", wire="1", id_flops="2", finish_flops="1", pooled_flops="F"),
    # S = sum_i v_i, q = sum_i |v_i|^2; y = (|S|^2 - q) / 2
    "fm": Operator("fm", wire="(D+1)", id_flops="3*D", finish_flops="2*D+2", pooled_flops="3*F*D", id_floats="D+1"),
    # h = W1 . concat_f(pooled v_f); the layers above W1 are the dense tail
    "mlp": Operator(
        "mlp",
        wire="H1",
        id_flops="D",
        pair_flops="2*D*H1",
        finish_flops="2*A",
        pooled_flops="2*F*D*H1 + 2*A",
        pair_floats="D+H1",
        shared_weights="H1*F*D",
    ),
}


def total(kinds: tuple[str, ...], part: str) -> str:
    """The sum of one cost over several operators, as a formula: `total(("lr", "fm"), "wire")` is `1 + (D+1)`."""
    terms = [text for kind in kinds if (text := getattr(OPERATORS[kind], part)) != "0"]
    return " + ".join(terms) if terms else "0"
