"""The values that the symbols of formulas (dessim.workload.symbols) have in a job."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from dessim.workload.operators import Dense, Mlp, bottom

if TYPE_CHECKING:
    from dessim.workload.model import Model

ID_BYTES = 8  # 64-bit feature ids
COORDINATE_BYTES = 4  # an int32 beside each id
VALUE_BYTES = 4  # float32


def value_bytes(of_all: float) -> dict[str, float]:
    """The symbols of the bytes of a value, where all values have the same."""
    return dict.fromkeys(("s", "sr", "sd", "so"), float(of_all))


def symbols_of(
    model: Model, world_size: int, batch: float | None, unique: Callable[[float], float] | None
) -> dict[str, float]:
    """Values of all symbols of a model's job, by name; the arguments are those of `Model.symbols`."""
    given = model.input
    workers = float(world_size)
    fields = float(given.fields)
    ids_per_sample = float(given.ids_per_sample)
    samples = float(batch) if batch is not None else float(given.batch_per_worker) * workers

    unique = unique or model.law.unique
    logit_bias = Dense(weights=int(model.output is None))
    dense = sum((c.dense for c in model.costs), logit_bias)
    if model.dense is not None:
        dense += bottom(model.dense.features, model.dense.widths, given.fields)
    first_layer = next((o.widths[0] for o in model.operators if isinstance(o, Mlp)), 0)
    if model.by_field:
        owned_pairs = fields / workers
    else:
        # Under hash placement each of a field's m/F ids belongs to a given worker with probability 1/N.
        owned_pairs = fields * -((1 - 1 / workers) ** (ids_per_sample / fields) - 1)
    return {
        "N": workers,
        "B": samples,
        "F": fields,
        "D": float(model.embedding.width),
        "W": float(model.row_width),
        "E": float(model.bag_floats),
        "H1": float(first_layer),
        "A": float(dense.multiply_adds),
        "P": float(dense.weights),
        "Z": float(dense.units),
        "V": float(given.vocabulary),
        "O": float(model.row_slots),
        "m": ids_per_sample,
        "u": float(unique(samples / workers * ids_per_sample)),
        "U": float(unique(samples * ids_per_sample)),
        "q": owned_pairs,
        "k": float(ID_BYTES),
        "c": float(COORDINATE_BYTES),
        "s": float(model.precision.wire.bytes),
        "sr": float(model.precision.rows.bytes),
        "sd": float(model.precision.dense.bytes),
        "so": float(VALUE_BYTES),
    }
