"""The tables of a click log on the terminal: what `dessim ids` prints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dessim.results.show import print_text
from dessim.results.tables import print_table, table_of
from dessim.units import percent


def print_ids(log: Mapping[str, Any], out: str) -> None:
    """Print each table of `MeasuredLog.to_json`, then the error of each batch size in the half that was not fitted."""
    tables = log["tables"]
    cells = [
        (
            table["name"],
            f"{'' if table['different_ids_exact'] else '~'}{table['different_ids']:,}",
            f"{table['rows']:,}",
            f"{table['ids']:g}",
            f"{table['skew']:g}",
            f"{table['offset']:g}",
            percent(table["largest_error"], signed=True),
        )
        for table in tables
    ]
    columns = ("table", "different ids", "rows", "ids a sample", "skew", "offset", "worst error")
    print_table(table_of(columns, cells, folds={"table": 20}))
    errors = []
    for checks in zip(*(table["batches"] for table in tables), strict=True):
        worst = max(range(len(checks)), key=lambda table: abs(checks[table]["error"]))
        error = percent(checks[worst]["error"], signed=True)
        errors.append((f"{checks[0]['batch']:,}", error, tables[worst]["name"]))
    print_table(table_of(("batch", "worst error", "of table"), errors, left=("of table",)))
    print_text(f"{log['samples']:,} samples; wrote {out}")
