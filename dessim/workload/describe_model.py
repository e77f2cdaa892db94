"""A model file in numbers: its tables, operators, weights and bytes, and the strategies that can train it."""

from __future__ import annotations

from typing import Any

from dessim.errors import UsageError
from dessim.workload.model import Model
from dessim.workload.strategies import STRATEGIES, plan
from dessim.workload.strategies.parts import dense_weights
from dessim.workload.symbol_values import floats_by_table
from dessim.workload.symbols import ROW_AND_STATE


def describe(model: Model) -> dict[str, Any]:
    """Plain values, units in the keys. Bytes are those of rows with their optimizer state; width and bytes of a row are
    those of the widest table."""
    symbols = model.symbols(1)
    floats = floats_by_table(model)
    row_bytes = [
        round(ROW_AND_STATE.evaluate({**symbols, "W": w, "O": o}))
        for w, o in zip(floats["W"].tolist(), floats["O"].tolist(), strict=True)
    ]
    fields = model.input.fields
    rows = [table.rows for table in model.tables] or [model.law.vocabulary / fields] * fields
    table_bytes = [count * size for count, size in zip(rows, row_bytes, strict=True)]
    return {
        "name": model.name,
        "schema_version": model.schema_version,
        "tables": fields,
        "rows": sum(rows),
        "ids_per_sample": model.input.ids_per_sample,
        "embedding_width": max(model.widths),
        "row_optimizer": model.embedding.optimizer,
        "row_bytes": max(row_bytes),
        "embedding_bytes": sum(table_bytes),
        "largest_table_bytes": max(table_bytes),
        "operators": list(model.kinds),
        "dense_weights": dense_weights(model).evaluate(symbols),
        "batch_per_worker": model.input.batch_per_worker,
        "distinct_ids_per_worker": symbols["u"],
        "placement": model.embedding.placement,
        "strategies": strategies_for(model),
        "each_table": [
            {
                "name": table.name,
                "rows": table.rows,
                "ids": table.ids,
                "skew": table.skew,
                "width": width,
                "bytes": size,
            }
            for table, width, size in zip(model.tables, model.widths, table_bytes, strict=False)
        ],
    }


def strategies_for(model: Model) -> list[str]:
    """The strategies that can train the model."""
    able = []
    for name in STRATEGIES:
        try:
            plan(name, model)
        except UsageError:
            continue
        able.append(name)
    return able
