"""Train on a stream of 30 million rows: throughput, table and memory from the first row to the last.

    python tests/bench/stream.py                  # ten minutes; writes docs/streaming.{json,csv,svg} and its table
    python tests/bench/stream.py --rows 3e6       # shorter; writes nothing

One worker of the trainer runs as a separate process, with one thread for tensor arithmetic besides those that read and
prefetch. It learns a factorisation machine over 39 fields from synthetic rows whose ids drift. A warm-up runs until as
many ids leave the table as enter it. Then each tenth of the rows is timed in wall seconds and in CPU seconds of the
process, which hardly change on a busy machine. Finally rows of text arrive through a pipe that is always full. Exits 3
when the last tenth is more than 10 % slower or faster than the first by both measures, or memory exceeds
MEMORY_LIMIT.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402

from dessim.files import write_json, write_text  # noqa: E402
from dessim.units import format_count, format_size, percent  # noqa: E402
from tests.bench.measure import ONE_CORE, cpu_name  # noqa: E402
from tests.bench.stream_figure import stream_figure  # noqa: E402
from tests.bench.tables import with_tables  # noqa: E402

PAGE = ROOT / "docs" / "streaming.md"
BEGIN = "<!-- begin: written by tests/bench/stream.py -->"
BATCH = 15_000
EVERY = 50  # steps between reports
TENTHS = 10
ROWS = 30_000_000
WARM_UP = 6_000_000
MEMORY_LIMIT = 2 << 30  # bytes
ALLOWED_CHANGE = 0.1  # of the throughput, from the first tenth to the last
TEXT_ROWS = 1_200_000
LIMIT_S = 1800.0
MODEL = """
schema_version = 1
name = "fm4"
[input]
fields = 39
ids_per_sample = 39
vocabulary = 1_000_000
skew = 1.05
[embedding]
width = 4
[[operators]]
kind = "lr"
[[operators]]
kind = "fm"
"""
SETTINGS = """
model = "{model}"
[data]
source = "stream"
[stream]
id_life = 4_000_000
report_every = {every}
[training]
batch = {batch}
[rows]
admit_after = 2
expire_after = 200
[optimizer.rows]
name = "rowwise_adagrad"
rate = 0.05
"""


def train(folder: Path, *arguments: str, rows: int, feed: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Run the trainer, with the output of the program `feed` as its input if given; return its reports."""
    model = folder / "model.toml"
    config = folder / "run.toml"
    log = folder / "log.jsonl"
    model.write_text(MODEL)
    config.write_text(SETTINGS.format(model=model, batch=BATCH, every=EVERY))
    command = [sys.executable, "-m", "des_ref.train", "--config", str(config), "--device", "cpu", "--steps"]
    command += [str(rows // BATCH), "--report-log", str(log), *arguments]
    source = subprocess.Popen(feed, stdout=subprocess.PIPE) if feed else None
    try:
        stdin = source.stdout if source is not None else subprocess.DEVNULL
        environment = os.environ | ONE_CORE
        subprocess.run(command, check=True, cwd=ROOT, env=environment, stdin=stdin, timeout=LIMIT_S)
    finally:
        if source is not None:
            source.kill()
            source.wait()
    return [json.loads(line) for line in log.read_text().splitlines()]


def tenth(reports: Sequence[dict[str, Any]], before: dict[str, Any]) -> dict[str, Any]:
    """Summarise consecutive reports; `before` is the report that precedes them."""
    rows = reports[-1]["rows"] - before["rows"]
    seconds = reports[-1]["seconds"] - before["seconds"]
    return {
        "rows": reports[-1]["rows"],
        "rows_per_s": rows / seconds,
        "rows_per_cpu_s": rows / sum(r["cpu_s"] for r in reports),
        "table_rows": reports[-1]["table_rows"],
        "candidates": reports[-1]["candidates"],
        "memory_bytes": max(r["memory_bytes"] for r in reports),
        "auc": sum(r["auc"] for r in reports) / len(reports),
        "logloss": sum(r["logloss"] for r in reports) / len(reports),
    }


def tenths(reports: Sequence[dict[str, Any]], rows: int) -> list[dict[str, Any]]:
    """Summarise each tenth of the last `rows` rows."""
    count = rows // BATCH // EVERY // TENTHS
    kept = reports[-count * TENTHS - 1 :]
    return [tenth(kept[1 + n * count : 1 + (n + 1) * count], kept[n * count]) for n in range(TENTHS)]


def from_text(folder: Path) -> dict[str, Any]:
    """Train on rows in Criteo's format from a pipe that its writer keeps full; return the rates and the memory."""
    rng = random.Random(0)
    file = folder / "rows.tsv"
    with file.open("w") as out:
        for _ in range(100_000):
            integers = [str(int(rng.expovariate(0.01))) if rng.random() < 0.8 else "" for _ in range(13)]
            ids = [f"{int(rng.paretovariate(0.5)) & 0xFFFFFFFF:08x}" for _ in range(26)]
            out.write("\t".join([str(int(rng.random() < 0.25)), *integers, *ids]) + "\n")
    writer = ["sh", "-c", f"while cat {file}; do :; done 2>/dev/null"]
    reports = train(folder, "--input", "-", rows=TEXT_ROWS, feed=writer)
    half = reports[len(reports) // 2 :]
    whole = tenth(half, reports[len(reports) // 2 - 1])
    return {key: whole[key] for key in ("rows_per_s", "rows_per_cpu_s", "memory_bytes")}


def change(parts: Sequence[dict[str, Any]], key: str) -> float:
    """Return the relative change from the first tenth to the last."""
    return float(parts[-1][key] / parts[0][key] - 1)


def problems(result: dict[str, Any]) -> list[str]:
    """Return a sentence for each limit that is exceeded."""
    parts = result["tenths"]
    sentences = []
    if all(abs(change(parts, key)) > ALLOWED_CHANGE for key in ("rows_per_s", "rows_per_cpu_s")):
        sentences.append(f"throughput changed by {percent(change(parts, 'rows_per_s'), signed=True)}")
    if result["memory_bytes"] > MEMORY_LIMIT:
        sentences.append(f"{format_size(result['memory_bytes'])} of memory were in use")
    return sentences


def markdown(result: dict[str, Any]) -> str:
    """Return the table in Markdown, with the machine it was measured on."""
    columns = "| rows so far | rows/s | rows a CPU second | AUC | log loss | rows of the table | waiting ids | memory |"
    lines = [columns, "|" + "---:|" * 8]
    for part in result["tenths"]:
        rates = (f"{part[key]:,.0f}" for key in ("rows_per_s", "rows_per_cpu_s"))
        counts = (format_count(part[key], 3) for key in ("table_rows", "candidates"))
        cells = (format_count(part["rows"]), *rates, f"{part['auc']:.4f}", f"{part['logloss']:.4f}", *counts)
        lines.append(f"| {' | '.join(cells)} | {format_size(part['memory_bytes'], 3)} |")
    parts = result["tenths"]
    text = result["text"]
    m = result["machine"]
    changes = [percent(change(parts, key), signed=True) for key in ("rows_per_s", "rows_per_cpu_s")]
    summary = f"From the first tenth to the last: {changes[0]} rows/s, {changes[1]} rows a CPU second. "
    summary += (
        f"At most {format_size(result['memory_bytes'], 3)} of memory, of {format_size(MEMORY_LIMIT)} that it may have."
    )
    if text is not None:
        summary += (
            f"\n\nRows of text, through a pipe that is always full: {text['rows_per_s']:,.0f} rows/s, "
            f"{text['rows_per_cpu_s']:,.0f} a CPU second, {format_size(text['memory_bytes'], 3)}."
        )
    where = f"{m['cpu']}, {m['cores']} cores, load average {m['load_average']:.1f} at the start; "
    return "\n".join(lines) + f"\n\n{summary}\n\n{where}Python {m['python']}, torch {m['torch']}."


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--rows", type=lambda text: int(float(text)), help=f"rows after the warm-up (default: {ROWS:,})"
    )
    parser.add_argument(
        "--redraw", action="store_true", help="rewrite the page and the figure from docs/streaming.json"
    )
    options = parser.parse_args()
    if options.redraw:
        result = json.loads(PAGE.with_suffix(".json").read_text())
    else:
        rows = options.rows or ROWS
        load = os.getloadavg()[0]
        step = BATCH * EVERY * TENTHS
        rows = max(rows // step, 1) * step
        warm_up = WARM_UP // (BATCH * EVERY) * BATCH * EVERY
        with tempfile.TemporaryDirectory() as work:
            reports = train(Path(work), rows=rows + warm_up)
            text = from_text(Path(work)) if not options.rows else None
        machine = {"cpu": cpu_name(), "cores": os.cpu_count(), "load_average": load}
        machine |= {"python": platform.python_version(), "torch": torch.__version__}
        over_time = ("rows", "rows_per_s", "cpu_s", "auc", "table_rows", "candidates", "memory_bytes")
        result = {
            "schema_version": 1,
            "machine": machine,
            "warm_up_rows": warm_up,
            "tenths": tenths(reports, rows),
            "memory_bytes": max(r["memory_bytes"] for r in reports),
            "text": text,
            "reports": [{key: report[key] for key in over_time} for report in reports],
        }
    print(markdown(result))  # noqa: T201
    if not options.rows:
        write_json(PAGE.with_suffix(".json"), result)
        write_text(PAGE.with_suffix(".svg"), stream_figure(result, PAGE.with_suffix(".csv")))
        write_text(PAGE, with_tables(PAGE.read_text(), markdown(result), BEGIN))
    for problem in problems(result):
        print(f"WRONG: {problem}")  # noqa: T201
    return 3 if problems(result) else 0


if __name__ == "__main__":
    sys.exit(main())
