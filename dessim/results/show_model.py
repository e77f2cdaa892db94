"""A model on the terminal: what `dessim model show` prints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dessim.results.style import strategy_label
from dessim.results.tables import key_value_table, print_table, table_of
from dessim.units import format_count, format_size


def print_model(found: Mapping[str, Any]) -> None:
    """Print the numbers of `dessim.workload.describe_model.describe`, and each table of a version 2 file."""
    differ = len({table["width"] for table in found["each_table"]}) > 1
    pairs: list[tuple[str, object]] = [
        ("tables", f"{found['tables']:,}"),
        ("rows", f"{found['rows']:,.0f}"),
        ("ids a sample", f"{found['ids_per_sample']:,g}"),
        ("widest row" if differ else "row", f"{found['row_bytes']} B with {found['row_optimizer']} state"),
        ("embeddings", format_size(found["embedding_bytes"])),
        ("largest table", format_size(found["largest_table_bytes"])),
        ("operators", ", ".join(found["operators"])),
        ("dense weights", format_count(found["dense_weights"])),
        ("samples a worker", f"{found['batch_per_worker']:,}"),
        ("distinct ids of them", f"{found['distinct_ids_per_worker']:,.0f}"),
        ("strategies", ", ".join(strategy_label(name) for name in found["strategies"]) or "none"),
    ]
    print_table(key_value_table(found["name"], pairs))
    if not found["each_table"]:
        return
    cells = [
        (
            table["name"] or str(number),
            f"{table['rows']:,.0f}",
            f"{table['ids']:g}",
            f"{table['skew']:g}",
            *([f"{table['width']:,}"] if differ else []),
            format_size(table["bytes"]),
        )
        for number, table in enumerate(found["each_table"])
    ]
    columns = ("table", "rows", "ids a sample", "skew", *(("columns",) if differ else ()), "size")
    print_table(table_of(columns, cells))
