"""Three tests of NCCL's model on readings that its constants were not fitted to; prints a table of errors.

    python studies/published/hold_out.py         all three, in about five minutes

(a) calibrated on every second size of a cluster, predicted for the other sizes
(b) calibrated on few GPUs of a cluster, predicted for more
(c) nothing of the cluster: constants from NCCL's source and from the other clusters over InfiniBand and inside servers,
    as leave_out.py has predicted them
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean, median, quantiles
from typing import NamedTuple

from fit_transports import FOLDER, Factors, shared_factors
from leave_out import factors_without, read_left_out, shared_readings

from dessim.calibrate.nccl.calibration import calibrated, expected
from dessim.calibrate.nccl.published import read_published
from dessim.calibrate.nccl.readings import Reading
from dessim.calibrate.profile import load_transport
from dessim.calibrate.spreads import halves
from dessim.cluster.parts import Nccl, Transport
from dessim.cluster.spread import BAND_NAMES, Z80, Spread, band
from dessim.collectives.nccl.constants import factors_of

FEWER = (
    ("abci_v", (4, 8), (16,)),
    ("abci_a", (4, 8, 16), (32,)),
    ("h100_cluster01", (4,), (8,)),
    ("h100_cluster01", (10,), (20,)),
)
"""Cluster, numbers of GPUs that are fitted, and those that are predicted."""


class Held(NamedTuple):
    """A predicted reading: its relative error, and the spread of its prediction (None: not known)."""

    op: str
    size: float
    error: float
    spread: float | None


def after_calibration(
    start: Factors, fitted: Sequence[Reading], held: Sequence[Reading], shipped: Spread
) -> list[Held]:
    """The errors of `held` after a calibration on `fitted`, as `dessim calibrate --nccl-tests` does it."""
    network = fitted[0].setup.network
    found = calibrated(fitted, factors_of(start, fitted[0].setup), network, shipped)
    transport = Transport(name="", nccl=Nccl(network, curves=found.curves), spread=found.spread)
    return [
        Held(
            op=str(r.op),
            size=r.size,
            error=expected(r, found.factors, found.curves) / r.microseconds - 1,
            spread=_deviation(transport, r),
        )
        for r in held
    ]


def _deviation(transport: Transport, r: Reading) -> float | None:
    setup = r.setup
    found = transport.spread_of(
        str(r.op), r.size, gpus=setup.n, servers=setup.nodes, gpus_per_process=setup.gpus_per_process
    )
    return None if found is None else found[1]


def every_second_size(readings: Sequence[Reading], start: Factors, shipped: Spread) -> list[Held]:
    held: list[Held] = []
    # A calibration is of one release of NCCL (dessim.calibrate.nccl.profile).
    for where, version in sorted({(r.where, r.setup.version) for r in readings}):
        own = [r for r in readings if (r.where, r.setup.version) == (where, version)]
        fitted, others = next(halves(own, lambda r: r.size, lambda r: (r.op, r.setup.n)))
        held += after_calibration(start, fitted, others, shipped)
    return held


def fewer_gpus(readings: Sequence[Reading], starts: dict[str, Factors], shipped: Spread) -> list[Held]:
    held: list[Held] = []
    for where, few, more in FEWER:
        own = [reading for reading in readings if reading.where == where]
        fitted = [r for r in own if r.setup.n in few]
        held += after_calibration(starts[where], fitted, [r for r in own if r.setup.n in more], shipped)
    return held


def another_cluster(shipped: Spread) -> list[Held]:
    """The readings that leave_out.py predicted without their cluster."""
    found = []
    for r in read_left_out():
        known = shipped.of(r.op, r.size, across=r.across, gpus=r.gpus)
        found.append(Held(r.op, r.size, math.expm1(r.error), None if known is None else known[1]))
    return found


def table(name: str, held: list[Held]) -> None:
    """One line per op, one for all: the median error in each band, and the number of readings; then the coverage."""
    print(f"{name}: 95th percentile {quantiles([abs(h.error) for h in held], n=20)[-1]:.0%}")
    for op in ["all", *sorted({h.op for h in held})]:
        chosen = [h for h in held if op in ("all", h.op)]
        print(f"    {op:16s} {_cells(chosen, lambda found: median(abs(h.error) for h in found))}")
    known = [h for h in held if h.spread is not None]
    print(f"    {'in 80 % interval':16s} {_cells(known, lambda found: fmean(map(_is_inside, found)))}")


def _is_inside(h: Held) -> bool:
    return h.spread is not None and abs(math.log1p(h.error)) <= Z80 * h.spread


def _cells(held: list[Held], statistic: Callable[[list[Held]], float]) -> str:
    """A statistic of the readings of each band, and their number."""
    cells = []
    for number in range(len(BAND_NAMES)):
        found = [h for h in held if band(h.size) == number]
        cells.append(f"{statistic(found):6.1%} ({len(found):3d})" if found else "           -")
    return "  ".join(cells)


def main() -> None:
    readings = [published.reading for published in read_published(FOLDER) if not published.suspect]
    core = shared_readings(readings)
    shipped = load_transport(Path("nccl-ib")).spread or Spread()
    print(f"median errors of sizes {', '.join(BAND_NAMES)} (readings)", flush=True)
    table("(a) every second size", every_second_size(readings, shared_factors(core), shipped))
    without = factors_without(core, sorted({where for where, *_ in FEWER}))
    table("(b) more GPUs", fewer_gpus(readings, without, shipped))
    table("(c) another cluster", another_cluster(shipped))


if __name__ == "__main__":
    main()
