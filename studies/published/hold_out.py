"""Three tests of NCCL's model on readings that its constants were not fitted to; prints a table of errors.

    python studies/published/hold_out.py         all three, in about five minutes

(a) calibrated on every second size of a cluster, predicted for the other sizes
(b) calibrated on few GPUs of a cluster, predicted for more
(c) nothing of the cluster: constants from NCCL's source and from the other clusters over InfiniBand and inside servers
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, median, quantiles

from fit_transports import FOLDER, Factors, shared_factors
from leave_out import cluster_of, factors_without, shared_readings

from dessim.calibrate.nccl.fit import fit, predict, with_solution
from dessim.calibrate.nccl.profile import left_out, parameters
from dessim.calibrate.nccl.published import read_published
from dessim.calibrate.nccl.readings import Reading
from dessim.calibrate.nccl.spreads import spread_of
from dessim.calibrate.profile import load_transport
from dessim.cluster.spread import BAND_NAMES, Z80, Spread, band
from dessim.collectives.nccl.constants import factor_of, values

FEWER = (
    ("abci_v", (4, 8), (16,)),
    ("abci_a", (4, 8, 16), (32,)),
    ("h100_cluster01", (4,), (8,)),
    ("h100_cluster01", (10,), (20,)),
)
"""Cluster, numbers of GPUs that are fitted, and those that are predicted."""
Held = list[tuple[Reading, float, float | None]]
"""Readings, their relative errors, and the spread of their predictions (None: not known)."""


def calibrated(start: Factors, fitted: Sequence[Reading], held: Sequence[Reading], shipped: Spread) -> Held:
    """The errors of `held` after a calibration on `fitted`, as `dessim calibrate --nccl-tests` does it."""
    network = fitted[0].setup.network
    own = {name: factor_of(factor, fitted[0].setup) for name, factor in start.items()}
    found = with_solution(own, fit(fitted, parameters(network), own))
    return errors(held, found, spread_of(left_out(fitted, own, network), shipped))


def errors(held: Sequence[Reading], factors: Factors, spread: Spread | None = None) -> Held:
    known = {reading.setup: values(reading.setup, factors) for reading in held}
    return [(r, predict(r, known[r.setup]) / r.microseconds - 1, _sigma(r, spread)) for r in held]


def _sigma(r: Reading, spread: Spread | None) -> float | None:
    found = spread.of(str(r.op), r.size, across=r.setup.nodes > 1, gpus=r.setup.n) if spread is not None else None
    return None if found is None else found[1]


def every_second_size(readings: Sequence[Reading], start: Factors, shipped: Spread) -> Held:
    held: Held = []
    # A calibration is of one release of NCCL (dessim.calibrate.nccl.profile).
    for where, version in sorted({(r.where, r.setup.version) for r in readings}):
        own = [r for r in readings if (r.where, r.setup.version) == (where, version)]
        sizes: dict[tuple[str, int], set[float]] = {}
        for r in own:
            sizes.setdefault((r.op, r.setup.n), set()).add(r.size)
        even = {key: set(sorted(found)[::2]) for key, found in sizes.items()}
        fitted = [r for r in own if r.size in even[r.op, r.setup.n]]
        held += calibrated(start, fitted, [r for r in own if r.size not in even[r.op, r.setup.n]], shipped)
    return held


def fewer_gpus(readings: Sequence[Reading], starts: dict[str, Factors], shipped: Spread) -> Held:
    held: Held = []
    for where, few, more in FEWER:
        own = [reading for reading in readings if reading.where == where]
        fitted = [r for r in own if r.setup.n in few]
        held += calibrated(starts[where], fitted, [r for r in own if r.setup.n in more], shipped)
    return held


def table(name: str, held: Held) -> None:
    """One line per op, one for all: the median error in each band, and the number of readings; then the coverage."""
    ops = sorted({str(reading.op) for reading, *_ in held})
    absolute = [abs(error) for _, error, _ in held]
    print(f"{name}: 95th percentile {quantiles(absolute, n=20)[-1]:.0%}")
    for op in ["all", *ops]:
        cells = []
        for number in range(len(BAND_NAMES)):
            found = [abs(e) for r, e, _ in held if band(r.size) == number and op in ("all", str(r.op))]
            cells.append(f"{median(found):6.1%} ({len(found):3d})" if found else "           -")
        print(f"    {op:16s} {'  '.join(cells)}")
    cells = []
    for number in range(len(BAND_NAMES)):
        inside = [abs(math.log1p(e)) <= Z80 * s for r, e, s in held if band(r.size) == number and s is not None]
        cells.append(f"{fmean(inside):6.1%} ({len(inside):3d})" if inside else "           -")
    print(f"    {'in 80 % interval':16s} {'  '.join(cells)}")


def main() -> None:
    readings = [published.reading for published in read_published(FOLDER) if not published.suspect]
    core = shared_readings(readings)
    without = factors_without(core)
    print(f"median errors of sizes {', '.join(BAND_NAMES)} (readings)")
    shipped = load_transport(Path("nccl-ib")).spread or Spread()
    table("(a) every second size", every_second_size(readings, shared_factors(core), shipped))
    table("(b) more GPUs", fewer_gpus(readings, without, shipped))
    parts = [errors([r for r in core if cluster_of(r.where) == name], without[name], shipped) for name in without]
    table("(c) another cluster", [held for part in parts for held in part])


if __name__ == "__main__":
    main()
