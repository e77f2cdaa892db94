"""Three tests of NCCL's model on readings that its constants were not fitted to; prints a table of errors.

    python studies/published/hold_out.py         all three, in about five minutes

(a) calibrated on every second size of a cluster, predicted for the other sizes
(b) calibrated on few GPUs of a cluster, predicted for more
(c) nothing of the cluster: constants from NCCL's source and from the other clusters over InfiniBand and inside servers
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median, quantiles

from fit_transports import FOLDER, Factors, shared_factors
from leave_out import cluster_of, factors_without, shared_readings

from dessim.calibrate.nccl.fit import fit, predict, with_solution
from dessim.calibrate.nccl.profile import parameters
from dessim.calibrate.nccl.published import read_published
from dessim.calibrate.nccl.readings import Reading
from dessim.cluster.spread import BAND_NAMES, band
from dessim.collectives.nccl.constants import factor_of, values

FEWER = (
    ("abci_v", (4, 8), (16,)),
    ("abci_a", (4, 8, 16), (32,)),
    ("h100_cluster01", (4,), (8,)),
    ("h100_cluster01", (10,), (20,)),
)
"""Cluster, numbers of GPUs that are fitted, and those that are predicted."""
Held = list[tuple[Reading, float]]


def calibrated(start: Factors, fitted: Sequence[Reading], held: Sequence[Reading]) -> Held:
    """The errors of `held` after a calibration on `fitted`, as `dessim calibrate --nccl-tests` does it."""
    own = {name: factor_of(factor, fitted[0].setup) for name, factor in start.items()}
    found = with_solution(own, fit(fitted, parameters(fitted[0].setup.network), own))
    return errors(held, found)


def errors(held: Sequence[Reading], factors: Factors) -> Held:
    known = {reading.setup: values(reading.setup, factors) for reading in held}
    return [(reading, predict(reading, known[reading.setup]) / reading.microseconds - 1) for reading in held]


def every_second_size(readings: Sequence[Reading], start: Factors) -> Held:
    held: Held = []
    for where in sorted({reading.where for reading in readings}):
        own = [reading for reading in readings if reading.where == where]
        sizes: dict[tuple[str, int], set[float]] = {}
        for r in own:
            sizes.setdefault((r.op, r.setup.n), set()).add(r.size)
        even = {key: set(sorted(found)[::2]) for key, found in sizes.items()}
        fitted = [r for r in own if r.size in even[r.op, r.setup.n]]
        held += calibrated(start, fitted, [r for r in own if r.size not in even[r.op, r.setup.n]])
    return held


def fewer_gpus(readings: Sequence[Reading], starts: dict[str, Factors]) -> Held:
    held: Held = []
    for where, few, more in FEWER:
        own = [reading for reading in readings if reading.where == where]
        fitted = [r for r in own if r.setup.n in few]
        held += calibrated(starts[where], fitted, [r for r in own if r.setup.n in more])
    return held


def table(name: str, held: Held) -> None:
    """One line per op, one for all: the median error in each band, and the number of readings."""
    ops = sorted({str(reading.op) for reading, _ in held})
    absolute = [abs(error) for _, error in held]
    print(f"{name}: 95th percentile {quantiles(absolute, n=20)[-1]:.0%}")
    for op in ["all", *ops]:
        cells = []
        for number in range(len(BAND_NAMES)):
            found = [abs(e) for r, e in held if band(r.size) == number and op in ("all", str(r.op))]
            cells.append(f"{median(found):6.1%} ({len(found):3d})" if found else "           -")
        print(f"    {op:16s} {'  '.join(cells)}")


def main() -> None:
    readings = [published.reading for published in read_published(FOLDER) if not published.suspect]
    core = shared_readings(readings)
    without = factors_without(core)
    print(f"median errors of sizes {', '.join(BAND_NAMES)} (readings)")
    table("(a) every second size", every_second_size(readings, shared_factors(core)))
    table("(b) more GPUs", fewer_gpus(readings, without))
    left_out = [errors([r for r in core if cluster_of(r.where) == name], without[name]) for name in without]
    table("(c) another cluster", [held for part in left_out for held in part])


if __name__ == "__main__":
    main()
