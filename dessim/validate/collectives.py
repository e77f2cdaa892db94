"""Collectives of gloo on emulated clusters: alone, by two jobs at once, or with a late rank.

Measured: the seconds from the last rank's start to the last rank's end, median over iterations. Predicted: the same
time in the simulator, from the bed's topology file and the calibrated transport.

Where a hash chooses the routes, the ports of connections and thus the routes are unknown in advance. The measurement is
then the median over several sets of connections, and the prediction the median over hash seeds. Ranks start an exchange
in a seeded order, another one in each iteration, and the prediction uses the same orders.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from dessim.cluster import Cluster, load_cluster
from dessim.collectives import Options
from dessim.collectives.schedule import ArrivalTimes
from dessim.commands.support.lab_bench import bench_on_lab
from dessim.sim.engine import simulate
from dessim.sim.fluid.route_cache import RouteCache
from dessim.trace.schema import Collective
from dessim.validate.beds import at_scale, cores, scale_for
from dessim.validate.cases import CollectiveCase, collective_cases
from dessim.validate.outcome import Outcome
from dessim.validate.request import CaseRequest, OnStatus
from dessim.workload.dag import Workload
from dessim.workload.one_collective import collective_task, collectives_at_once

HASH_SEEDS = 51
_TIMEOUT_S = 400.0  # of a launch, one per bed


def run_collectives(request: CaseRequest) -> tuple[list[Outcome], dict[str, Any]]:
    """Return the outcomes of `[[collectives]]`, and the measurements.

    Those are the `scale` of each bed, and the `seconds` of each case's iterations by name.
    """
    cases = [
        case for case in collective_cases(request.table, request.splits, request.quick) if request.only in case.name
    ]
    measured = request.measured or _measure(cases, request.on_status)
    seconds = measured["seconds"]
    clusters = {bed: at_scale(load_cluster(bed), scale, request.transport) for bed, scale in measured["scale"].items()}
    outcomes = [
        Outcome(
            name=case.name,
            kind="collectives",
            split=case.split,
            predicted_s=predict(clusters[case.bed], case),
            measured_s=float(np.median(seconds[case.name])),
            spread=_spread(clusters[case.bed], case),
        )
        for case in cases
        if case.name in seconds
    ]
    return outcomes, measured


def _spread(cluster: Cluster, case: CollectiveCase) -> float | None:
    """The spread of a case, whose ranks are on a host each."""
    ranks = len(case.jobs[0])
    known = cluster.transport.spread_of(str(case.op), float(case.size), gpus=ranks, servers=ranks)
    return None if known is None else known[1]


def predict(cluster: Cluster, case: CollectiveCase) -> float:
    """Simulate a case. Returns the seconds from the last rank's start to the last rank's end.

    The result is the median over the orders in which ranks start, and over hash seeds where a hash chooses the routes.
    """
    workload = _workload(case)
    delays = case.delays() or [()]
    by_hash = cluster.routing.policy == "ecmp"
    seeds: Sequence[int] = range(HASH_SEEDS) if by_hash else [cluster.routing.seed]
    # Runs with the same seed take the same routes.
    routes = {seed: RouteCache(replace(cluster, routing=replace(cluster.routing, seed=seed))) for seed in seeds}
    times = []
    for run in range(max(len(seeds), len(delays))):
        routed = routes[seeds[run % len(seeds)]]
        run_delays = delays[run % len(delays)]
        options = Options(arrivals=ArrivalTimes(times=run_delays))
        record = simulate(routed.cluster, workload, {}, routed=routed, options=options)
        began = min(span.start for span in record.spans)
        if case.op is Collective.ALL_TO_ALL:  # spans of other ops begin when their last rank has arrived
            began += max(run_delays, default=0.0)
        times.append(max(span.end for span in record.spans) - began)
    return float(np.median(times))


def _workload(case: CollectiveCase) -> Workload:
    """The jobs of a case, each with its group. Ranks in no job are idle and have no class."""
    groups = {f"job{number}": ranks for number, ranks in enumerate(case.jobs)}
    tasks = [(ranks, collective_task(case.op, float(case.size), group=group)) for group, ranks in groups.items()]
    world_size = 1 + max(rank for ranks in case.jobs for rank in ranks)
    return collectives_at_once(tasks, groups, world_size, name=case.name)


def _measure(cases: Sequence[CollectiveCase], on_status: OnStatus) -> dict[str, Any]:
    """Run all cases, in one launch per bed."""
    seconds: dict[str, list[float]] = {}
    scales: dict[str, float] = {}
    by_bed: dict[str, list[CollectiveCase]] = {}
    for case in cases:
        by_bed.setdefault(case.bed, []).append(case)
    for number, (bed, bed_cases) in enumerate(by_bed.items(), 1):
        cluster = load_cluster(bed)
        scale = scale_for(cluster, cores())
        slower = "" if scale == 1 else f", at {scale:g} of its rates: this machine has {cores()} cores"
        on_status(f"measuring {len(bed_cases)} collectives on {bed} ({number} of {len(by_bed)} beds{slower})")
        bench_cases = [case.to_bench(cluster.n_gpus) for case in bed_cases]
        results: Sequence[Mapping[str, Any]] = bench_on_lab(bed, bench_cases, _TIMEOUT_S, scale)["results"]
        seconds |= {case.name: result["all_seconds"] for case, result in zip(bed_cases, results, strict=True)}
        scales[bed] = scale
    return {"scale": scales, "seconds": seconds}
