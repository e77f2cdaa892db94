"""What size formulas are written in: the symbols of a model in a job, and their values.

N  world size                          m  ids a sample, mean
B  samples in the global batch         u  different ids among one worker's B/N samples
F  fields                              U  different ids in the global batch
D  embedding width                     q  (sample, field) pairs a sample with an id on one worker
W  floats a row (D, +1 with lr)        k  bytes of an id (8)
E  floats a bag needs beside its rows' sum (1 with fm, D with nfm; 1 more for a mean)
H1 width of the first FC layer         c  bytes of an id's (sample, field) coordinate or length (4)
A  multiply-adds a sample of the tail  s  bytes of a value (4)
P  parameters of the dense tail        Z  activations a sample of the dense tail
V  rows of all tables: the vocabulary  O  floats of optimizer state a row

With fvae a row is wider by its output, weights and bias; how wide stands in formulas as a number.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from dessim.workload.ids import expected_unique
from dessim.workload.operators import Dense, Mlp

if TYPE_CHECKING:
    from dessim.workload.model import Model

ID_BYTES = 8  # 64-bit feature ids
COORDINATE_BYTES = 4  # an int32 beside each id
VALUE_BYTES = 4  # float32 on the wire


def symbols_of(
    model: Model, world_size: int, batch: float | None, unique: Callable[[float], float] | None
) -> dict[str, float]:
    """Values of all symbols; arguments as of `Model.symbols`."""
    given = model.input
    n, f, m = float(world_size), float(given.fields), float(given.ids_per_sample)
    b = float(batch) if batch is not None else float(given.batch_per_worker) * n

    def by_zipf(draws: float) -> float:
        return expected_unique(draws, given.vocabulary, given.skew)

    unique = unique or by_zipf
    bias = Dense(weights=int(model.output is None))  # of the logit
    dense = sum((c.dense for c in model.costs), bias)
    first = next((o.widths[0] for o in model.operators if isinstance(o, Mlp)), 0)
    return {
        "N": n,
        "B": b,
        "F": f,
        "D": float(model.embedding.width),
        "W": float(model.row_width),
        "E": float(model.bag_floats),
        "H1": float(first),
        "A": float(dense.multiply_adds),
        "P": float(dense.weights),
        "Z": float(dense.units),
        "V": float(given.vocabulary),
        "O": float(model.row_slots),
        "m": m,
        "u": float(unique(b / n * m)),
        "U": float(unique(b * m)),
        # By hash, a field's m/F ids fall on this worker or not, each with probability 1/N.
        "q": f / n if model.by_field else f * -((1 - 1 / n) ** (m / f) - 1),
        "k": float(ID_BYTES),
        "c": float(COORDINATE_BYTES),
        "s": float(VALUE_BYTES),
    }
