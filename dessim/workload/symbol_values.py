"""The values that the symbols of formulas (dessim.workload.symbols) have in a job."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from dessim.arrays import Floats
from dessim.workload.operators import Dense, Mlp, hidden_layers
from dessim.workload.symbols import ONE_WIDTH

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
        # The operand with its output is a copy.
        joined = Dense(units=sum(model.widths) + model.bottom_width)
        dense += hidden_layers(model.dense.features, model.dense.widths) + joined
    first_layer = next((o.widths[0] for o in model.operators if isinstance(o, Mlp)), 0)
    if model.by_field:
        owned_pairs = fields / workers
    else:
        # Under hash placement each of a field's m/F ids belongs to a given worker with probability 1/N.
        owned_pairs = fields * -((1 - 1 / workers) ** (ids_per_sample / fields) - 1)
    values = {
        "N": workers,
        "B": samples,
        "F": fields,
        **{name: float(floats.mean()) for name, floats in floats_by_table(model).items()},
        "E": float(model.bag_floats),
        "H1": float(first_layer),
        "A": float(dense.multiply_adds),
        "P": float(dense.weights),
        "Z": float(dense.units),
        "V": float(given.vocabulary),
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
    return values if model.tables_have_one_width else values | _means(model, values)


def counts_by_table(model: Model, symbols: Mapping[str, float]) -> dict[str, Floats]:
    """Each table's part [F] of the symbols that count fields, pairs, ids and rows, in a job of `symbols`."""
    tables = model.law.tables()
    share = np.array([share for _, share, _ in tables])
    draws = symbols["B"] * symbols["m"] * share
    workers = symbols["N"]
    one_each = np.ones(len(tables))
    return {
        "F": one_each,
        "q": one_each if model.by_field else -((1 - 1 / workers) ** (symbols["m"] * share) - 1),
        "m": share,
        "V": np.array([law.vocabulary for law, _, _ in tables]),
        "u": np.array([law.unique(n / workers) for (law, _, _), n in zip(tables, draws, strict=True)]),
        "U": np.array([law.unique(n) for (law, _, _), n in zip(tables, draws, strict=True)]),
    }


def floats_by_table(model: Model) -> dict[str, Floats]:
    """Floats of each table's embedding D, row W and row's optimizer state O [F], by symbol."""
    return floats_of(model, model.widths)


def floats_of(model: Model, widths: Sequence[int]) -> dict[str, Floats]:
    """The same for tables of these numbers of columns [tables]."""
    row = {
        width: (sum(model.row_widths_of(width).values()), model.row_slots_of(width)) for width in dict.fromkeys(widths)
    }
    rows = [row[width][0] for width in widths]
    slots = [row[width][1] for width in widths]
    return {name: np.array(floats, dtype=np.float64) for name, floats in (("D", widths), ("W", rows), ("O", slots))}


def _means(model: Model, symbols: Mapping[str, float]) -> dict[str, float]:
    """The means of D, W and O where tables differ in width, by their symbols."""
    counts = counts_by_table(model, symbols)
    floats = floats_by_table(model)
    return {name: float((counts[name[1]] * floats[name[0]]).sum() / counts[name[1]].sum()) for name in ONE_WIDTH}
