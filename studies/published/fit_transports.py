"""Fits the NCCL transports that ship with dessim to the published readings, and prints their tables for transport.toml.

    python studies/published/fit_transports.py            all of them
    python studies/published/fit_transports.py --leave-out b200_1cc    without one cluster

The readings over InfiniBand and inside servers make one fit: shared factors, deviations of each architecture, and of
each cluster; the last are not shipped, they keep one cluster from bending the others. The other networks start from it.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path

from dessim.calibrate.nccl.fit import Parameter, cluster_parameters, fit, with_solution
from dessim.calibrate.nccl.published import read_published
from dessim.calibrate.nccl.readings import Reading
from dessim.collectives.nccl.constants import CONSTANTS
from dessim.collectives.nccl.setup import ARCHITECTURES

FOLDER = Path(__file__).resolve().parent
ALONE = {"nccl-efa": "p4de", "nccl-tcpxo": "a3_mega", "nccl-slingshot": "sirius"}
GROUP = 0.4
"""How far an architecture or a cluster may differ, as a share of the spread of the constant."""
RATE = 0.35
"""Spread of the rate that a cluster's network reaches: some never reach their nominal one."""
WIDE = {
    "network_efficiency": RATE,
    **{name: 0.8 for name in CONSTANTS if name.startswith(("network_ring", "network_tree", "p2p_network"))},
    "p2p_network_channel": 0.3,
    "message": 1.0,
    "p2p_message": 1.5,
}
"""Spreads for a network of another kind."""

Factors = dict[str, float | dict[str, float]]


def parameters(readings: Sequence[Reading]) -> list[Parameter]:
    """Shared, by architecture and by cluster."""
    architectures = sorted({reading.setup.architecture for reading in readings})
    clusters = sorted({reading.where for reading in readings})
    found = []
    for name, constant in CONSTANTS.items():
        found.append(Parameter(name, "", constant.spread))
        if constant.by == "architecture":
            found += [Parameter(name, architecture, GROUP * constant.spread) for architecture in architectures]
        if not name.startswith(("p2p", "fill", "nvls")):
            spread = max(RATE if name == "network_efficiency" else 0.0, GROUP * constant.spread)
            found += [Parameter(name, f"@{cluster}", spread) for cluster in clusters]
    return found


def shared_factors(readings: Sequence[Reading], rounds: int = 10) -> Factors:
    """The factors of the transport for InfiniBand, without what is peculiar to one cluster."""
    solution = fit(readings, parameters(readings), rounds=rounds)
    factors: Factors = {}
    for name, constant in CONSTANTS.items():
        shared = solution[name, ""]
        if constant.by == "architecture":
            factors[name] = {a: _rounded(shared + solution.get((name, a), 0.0)) for a in ARCHITECTURES}
        else:
            factors[name] = _rounded(shared)
    return factors


def all_factors(leave_out: str = "") -> dict[str, Factors]:
    """Transport -> factors."""
    published = [p.reading for p in read_published(FOLDER) if not p.suspect]
    kept = [reading for reading in published if reading.where.split()[0] != leave_out]
    alone = tuple(ALONE.values())
    core = shared_factors([reading for reading in kept if reading.where.split()[0] not in alone])
    found = {"nccl-ib": core}
    for transport, cluster in ALONE.items():
        own = [reading for reading in kept if reading.where.split()[0] == cluster]
        if own:
            found[transport] = with_solution(core, fit(own, cluster_parameters(WIDE), core))
    return found


def toml_of(factors: Factors) -> str:
    lines = []
    for name, value in factors.items():
        if isinstance(value, dict):
            lines.append(f"{name} = {{{', '.join(f'{key} = {number}' for key, number in value.items())}}}")
        else:
            lines.append(f"{name} = {value}")
    return "\n".join(lines)


def _rounded(logarithm: float) -> float:
    return round(math.exp(logarithm), 4)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--leave-out", default="", help="name of a cluster that is not fitted")
    for transport, factors in all_factors(parser.parse_args(arguments).leave_out).items():
        print(f"[{transport}.nccl.factors]\n{toml_of(factors)}\n")


if __name__ == "__main__":
    main()
