"""A model on the terminal: what `dessim model show` prints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dessim.results.show import print_facts
from dessim.results.tables import print_table, table_of
from dessim.units import format_count, format_size


def print_model(described: Mapping[str, Any]) -> None:
    """Print the numbers of `dessim.workload.describe_model.describe`, and each table of a version 2 file."""
    differ = len({table["width"] for table in described["each_table"]}) > 1
    pairs: list[tuple[str, object]] = [
        ("tables", f"{described['tables']:,}"),
        ("rows", f"{described['rows']:,.0f}"),
        ("ids a sample", f"{described['ids_per_sample']:,g}"),
        ("widest row" if differ else "row", f"{described['row_bytes']} B with {described['row_optimizer']} state"),
        ("embeddings", format_size(described["embedding_bytes"])),
        ("largest table", format_size(described["largest_table_bytes"])),
        ("operators", ", ".join(described["operators"])),
        ("dense weights", format_count(described["dense_weights"])),
        ("samples a worker", f"{described['batch_per_worker']:,}"),
        ("distinct ids a worker", f"{described['distinct_ids_per_worker']:,.0f}"),
        ("strategies", ", ".join(described["strategies"]) or "none"),
    ]
    print_facts(described["name"], pairs)
    if not described["each_table"]:
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
        for number, table in enumerate(described["each_table"])
    ]
    columns = ("table", "rows", "ids a sample", "skew", *(("columns",) if differ else ()), "size")
    print_table(table_of(columns, cells))
