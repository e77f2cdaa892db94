"""Compare RowTable with a dict, pandas' Index and a search in sorted keys: lookups, inserts, pauses, memory.

    python tests/bench/table.py               # two minutes, 2 GB; writes docs/table.json and the table of docs/table.md
    python tests/bench/table.py --rows 1e5    # other sizes; writes nothing

Each contender runs as a separate process on one core with one thread. Ids are spread over all 64 bits. They are
inserted in batches of BATCH new ids up to the given number of rows, and then looked up in random order. Exits 3 when a
lookup returns a wrong row.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from des_ref.embedding.hash_table import RowTable  # noqa: E402
from des_ref.hashing import mix64  # noqa: E402
from dessim.files import write_json, write_text  # noqa: E402
from tests.bench.measure import cpu_name, measure  # noqa: E402
from tests.bench.tables import with_tables  # noqa: E402

PAGE = ROOT / "docs" / "table.md"
BEGIN = "<!-- begin: written by tests/bench/table.py -->"
ROWS = (100_000, 1_000_000, 10_000_000)
BATCH = 65_536
LOOKUP_BATCHES = (65_536, 1_048_576)  # ids per batch of lookups
MAX_LOOKUPS = 4_000_000

Find = Callable[[Tensor], Tensor]


class Ours:
    """RowTable with one column of one float32."""

    name = "RowTable"

    def __init__(self) -> None:
        self._table = RowTable({"w": 1}, lambda ids: {"w": torch.zeros(len(ids), 1)})

    def insert(self, ids: Tensor) -> None:
        self._table.find_or_insert(ids)
        self._table.end_step()

    def ready(self) -> Find:
        return self._table.find


class Dict:
    """A dict from int to int, looked up through `map`, its fastest bulk access."""

    name = "dict"

    def __init__(self) -> None:
        self._rows: dict[int, int] = {}

    def insert(self, ids: Tensor) -> None:
        rows = self._rows
        for i in ids.tolist():
            rows.setdefault(i, len(rows))

    def ready(self) -> Find:
        return lambda ids: torch.from_numpy(np.fromiter(map(self._rows.__getitem__, ids.tolist()), np.int64, len(ids)))


class Pandas:
    """`Index.get_indexer`. An Index is immutable, so it is built from all ids at the end."""

    name = "pandas.Index"

    def __init__(self) -> None:
        self._parts: list[Tensor] = []

    def insert(self, ids: Tensor) -> None:
        self._parts.append(ids)

    def ready(self) -> Find:
        index = pd.Index(torch.cat(self._parts).numpy())
        self._parts = []
        index.get_indexer(index[:1])  # the first lookup builds the hash table
        return lambda ids: torch.from_numpy(index.get_indexer(ids.numpy()))


class Sorted:
    """`torch.searchsorted` in keys sorted at the end. Sorting each batch first makes the search faster."""

    name = "searchsorted"

    def __init__(self) -> None:
        self._parts: list[Tensor] = []

    def insert(self, ids: Tensor) -> None:
        self._parts.append(ids)

    def ready(self) -> Find:
        keys, rows = torch.cat(self._parts).sort()
        self._parts = []

        def find(ids: Tensor) -> Tensor:
            sorted_ids, order = ids.sort()
            numbers = torch.empty_like(ids)
            numbers[order] = rows[torch.searchsorted(keys, sorted_ids)]
            return numbers

        return find


CONTENDERS: dict[str, type[Ours | Dict | Pandas | Sorted]] = {c.name: c for c in (Ours, Dict, Pandas, Sorted)}


def race(name: str, rows: int) -> dict[str, Any]:
    """Insert and look up; return rates, pauses, memory, and whether every lookup was right."""
    before = _resident_bytes()
    contender = CONTENDERS[name]()
    seconds = []
    for ids in _batches(rows):
        start = time.perf_counter()
        contender.insert(ids)
        seconds.append(time.perf_counter() - start)
    start = time.perf_counter()
    find = contender.ready()
    seconds[-1] += time.perf_counter() - start
    # Freed memory may still be resident, so this is an upper bound of the memory in use.
    size = _resident_bytes() - before
    looked_up = torch.randperm(rows, generator=torch.Generator().manual_seed(0))[: min(rows, MAX_LOOKUPS)]
    lookups = {}
    is_right = True
    for batch in LOOKUP_BATCHES:
        find(mix64(looked_up[:batch]))  # warm-up
        took = 0.0
        for expected in looked_up.split(batch):
            ids = mix64(expected)
            start = time.perf_counter()
            numbers = find(ids)
            took += time.perf_counter() - start
            is_right &= torch.equal(numbers, expected)
        lookups[str(batch)] = len(looked_up) / took
    return {
        "contender": name,
        "rows": rows,
        "inserts_per_s": rows / sum(seconds),
        "median_batch_s": float(np.median(seconds)),
        "longest_batch_s": max(seconds),
        "bytes_per_row": size / rows,
        "lookups_per_s": lookups,
        "right": is_right,
    }


def _batches(rows: int) -> Iterator[Tensor]:
    for start in range(0, rows, BATCH):
        yield mix64(torch.arange(start, min(start + BATCH, rows)))


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def markdown(result: dict[str, Any]) -> str:
    """Return the table in Markdown, with the machine it was measured on."""
    lines = [
        "| rows | | lookups/s, 65,536 at once | lookups/s, 1,048,576 at once | inserts/s | longest batch | "
        "bytes per row |",
        "|---:|---|---:|---:|---:|---:|---:|",
    ]
    for r in result["races"]:
        small, large = (f"{r['lookups_per_s'][str(batch)] / 1e6:.2f} M" for batch in LOOKUP_BATCHES)
        grows = r["contender"] in (Ours.name, Dict.name)
        longest = f"{r['longest_batch_s'] * 1e3:,.0f} ms (median {r['median_batch_s'] * 1e3:.1f})" if grows else "-"
        cells = (f"{r['rows']:,}", r["contender"], small, large, f"{r['inserts_per_s'] / 1e6:.2f} M", longest)
        lines.append(f"| {' | '.join(cells)} | {r['bytes_per_row']:.0f} |")
    m = result["machine"]
    where = f"{m['cpu']}, one core; Python {m['python']}, torch {m['torch']}, pandas {m['pandas']}."
    return "\n".join(lines) + f"\n\n{where}"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--rows",
        type=lambda text: int(float(text)),
        action="append",
        help="number of rows; may be repeated (default: all sizes)",
    )
    parser.add_argument(
        "--one", choices=tuple(CONTENDERS), help="run this contender in this process and print its JSON"
    )
    options = parser.parse_args()
    if options.one:
        torch.set_num_threads(1)
        print(json.dumps(race(options.one, (options.rows or ROWS)[0])))  # noqa: T201
        return 0
    races = []
    for rows in options.rows or ROWS:
        for name in CONTENDERS:
            cost = measure([sys.executable, __file__, "--one", name, "--rows", str(rows)], 300)
            if not cost.ok:
                raise SystemExit(f"{name}, {rows:,} rows: {cost.errors.strip() or 'stopped after 300 s'}")
            races.append(json.loads(cost.output))
            print(f"{name}, {rows:,} rows", file=sys.stderr, flush=True)  # noqa: T201
    machine = {"cpu": cpu_name(), "python": platform.python_version(), "torch": torch.__version__}
    result = {"schema_version": 1, "machine": machine | {"pandas": pd.__version__}, "races": races}
    print(markdown(result))  # noqa: T201
    if not options.rows:
        write_json(PAGE.with_suffix(".json"), result)
        write_text(PAGE, with_tables(PAGE.read_text(), markdown(result), BEGIN))
    return 0 if all(r["right"] for r in races) else 3


if __name__ == "__main__":
    sys.exit(main())
