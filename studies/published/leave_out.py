"""Predict each cluster's readings with constants from NCCL's source and the other clusters, and derive the spreads.

    python studies/published/leave_out.py              fit without each cluster, write left_out.csv (minutes)
    python studies/published/leave_out.py --kept       use left_out.csv as it is

A spread (dessim.cluster.spread) puts 80 % of the left-out readings of an op and a band of sizes into their interval.
Coverage is stated twice: with these spreads, and, for each cluster, with spreads from the other clusters alone.
"""

from __future__ import annotations

import argparse
import csv
import math
import sys
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from statistics import median

from fit_transports import ALONE, FOLDER, Factors, shared_factors

from dessim.calibrate.nccl.fit import predict
from dessim.calibrate.nccl.published import read_published
from dessim.calibrate.nccl.readings import Reading
from dessim.calibrate.spreads import LeftOut, covered, spread_of, toml_of
from dessim.cluster.spread import BAND_NAMES, band
from dessim.collectives.nccl.constants import values
from dessim.files import write_text
from dessim.results.rows import data_csv
from dessim.units import percent

ROUNDS = 6
"""Rounds of a fit without a cluster; further ones change little."""
KEPT = FOLDER / "left_out.csv"
COLUMNS = ("cluster", "op", "gpus", "nodes", "bytes", "measured_us", "predicted_us")


def cluster_of(where: str) -> str:
    return where.split()[0]


def shared_readings(readings: Sequence[Reading]) -> list[Reading]:
    """The readings over InfiniBand or inside a server."""
    return [reading for reading in readings if cluster_of(reading.where) not in ALONE.values()]


def factors_without(readings: Sequence[Reading], clusters: Sequence[str]) -> dict[str, Factors]:
    """By cluster, the factors that a fit to the readings of all other clusters finds."""
    found = {}
    for cluster in clusters:
        found[cluster] = shared_factors([r for r in readings if cluster_of(r.where) != cluster], ROUNDS)
        print(f"left out {cluster}", file=sys.stderr, flush=True)
    return found


def leave_out() -> list[dict[str, object]]:
    """Every reading over InfiniBand or inside a server, predicted without its cluster."""
    core = shared_readings([p.reading for p in read_published(FOLDER) if not p.suspect])
    rows = []
    clusters = sorted({cluster_of(reading.where) for reading in core})
    for cluster, factors in factors_without(core, clusters).items():
        for r in (r for r in core if cluster_of(r.where) == cluster):
            predicted = predict(r, values(r.setup, factors))
            cells = (cluster, str(r.op), r.setup.n, r.setup.nodes, round(r.size), r.microseconds, round(predicted, 3))
            rows.append(dict(zip(COLUMNS, cells, strict=True)))
    return rows


def read_left_out(path: Path = KEPT) -> list[LeftOut]:
    """The readings of left_out.csv."""
    return [
        LeftOut(
            op=row["op"],
            size=float(row["bytes"]),
            across=int(row["nodes"]) > 1,
            error=math.log(float(row["predicted_us"]) / float(row["measured_us"])),
            where=row["cluster"],
            gpus=int(row["gpus"]),
        )
        for row in csv.DictReader(path.read_text("utf-8").splitlines())
    ]


def coverage_of_others(readings: Sequence[LeftOut]) -> list[float]:
    """For each band, the share of readings within intervals that the other clusters' spreads give."""
    inside = [0.0] * len(BAND_NAMES)
    counts = [0] * len(BAND_NAMES)
    for cluster in sorted({r.where for r in readings}):
        own = [r for r in readings if r.where == cluster]
        shares = covered(own, spread_of([r for r in readings if r.where != cluster]))
        for number, share in enumerate(shares):
            n = sum(band(r.size) == number for r in own)
            if n:
                inside[number] += share * n
                counts[number] += n
    return [share / count for share, count in zip(inside, counts, strict=True)]


def errors_table(readings: Sequence[LeftOut]) -> str:
    """Median errors by op and band."""

    def key(r: LeftOut) -> tuple[str, int]:
        return r.op, band(r.size)

    lines = []
    for (op, number), group in groupby(sorted(readings, key=key), key):
        errors = [abs(math.expm1(r.error)) for r in group]
        lines.append(f"{op:15} {BAND_NAMES[number]:14} {len(errors):4}  median {percent(median(errors))}")
    for number, name in enumerate(BAND_NAMES):
        errors = [abs(math.expm1(r.error)) for r in readings if band(r.size) == number]
        lines.append(f"{'all':15} {name:14} {len(errors):4}  median {percent(median(errors))}")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kept", action="store_true", help="use left_out.csv as it is")
    if not parser.parse_args(arguments).kept:
        write_text(KEPT, data_csv(leave_out(), COLUMNS))
    readings = read_left_out()
    spread = spread_of(readings)
    print(errors_table(readings))
    print("\n".join(toml_of(spread, "nccl-ib.spread")))
    for what, shares in (("own", covered(readings, spread)), ("others'", coverage_of_others(readings))):
        text = ", ".join(f"{name}: {percent(share)}" for name, share in zip(BAND_NAMES, shares, strict=True))
        print(f"within 80 % intervals of {what} spreads: {text}")


if __name__ == "__main__":
    main()
