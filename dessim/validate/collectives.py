"""Collectives of gloo on beds of the lab, each on its own, by two jobs at once, or with a rank that comes late.

Measured: the median over iterations of the seconds from the last rank's start to the last rank's end. Predicted: the
simulator's time from when the last rank has come, from the bed's topology file and the calibrated transport. Where ways
are chosen by a hash the measurement takes the median over several sets of connections, whose ports nobody knows
beforehand, and the prediction the median over hash seeds. Ranks start an exchange in an order drawn beforehand, another
in each iteration, and the prediction takes the same ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from dessim.cluster import Cluster, load_cluster
from dessim.collectives import Options
from dessim.collectives.schedule import Coming
from dessim.commands.support.lab_bench import bench_on_lab
from dessim.sim.engine import simulate
from dessim.sim.fluid.route_cache import RouteCache
from dessim.trace.schema import Collective
from dessim.validate.beds import at_scale, cores, scale_for
from dessim.validate.cases import CollectiveCase, collective_cases
from dessim.validate.outcome import Outcome
from dessim.validate.request import Request, Say
from dessim.workload.dag import Workload
from dessim.workload.one_collective import collective_task, collectives_at_once

HASH_SEEDS = 51
_TIMEOUT_S = 400.0  # of a bed


def run_collectives(request: Request) -> tuple[list[Outcome], dict[str, Any]]:
    """Outcomes of `[[collectives]]`; the scale of each bed, and the seconds of each case's iterations by name."""
    cases = collective_cases(request.table, request.splits, request.quick)
    measured = request.measured or _measure(cases, request.say)
    scales, seconds = measured["scale"], measured["seconds"]
    clusters = {bed: at_scale(load_cluster(bed), scale, request.transport) for bed, scale in scales.items()}
    outcomes = [
        Outcome(
            case.name,
            "collectives",
            case.split,
            predict(clusters[case.bed], case),
            float(np.median(seconds[case.name])),
        )
        for case in cases
        if case.name in seconds
    ]
    return outcomes, measured


def predict(cluster: Cluster, case: CollectiveCase) -> float:
    """Seconds from the last rank's start on, by the simulator: the median over the orders in which ranks start, and
    over hash seeds where ways are chosen by a hash."""
    workload = _workload(case)
    turns = case.delays() or [()]
    hashes: Sequence[int] = range(HASH_SEEDS) if cluster.routing.policy == "ecmp" else [cluster.routing.seed]
    runs = [(hashes[i % len(hashes)], turns[i % len(turns)]) for i in range(max(len(hashes), len(turns)))]
    times = []
    for seed, turn in runs:
        routed = RouteCache(replace(cluster, routing=replace(cluster.routing, seed=seed)))
        options = Options(coming=Coming(times=turn))
        record = simulate(routed.cluster, workload, {}, routed=routed, options=options)
        exchange = case.op is Collective.ALL_TO_ALL  # other ops begin when their last rank has come
        began = min(span.start for span in record.spans) + (max(turn, default=0.0) if exchange else 0.0)
        times.append(max(span.end for span in record.spans) - began)
    return float(np.median(times))


def _workload(case: CollectiveCase) -> Workload:
    """The collectives of all jobs of a case at once."""
    groups = {f"job{number}": ranks for number, ranks in enumerate(case.jobs)}
    tasks = [(ranks, collective_task(case.op, float(case.size), group=group)) for group, ranks in groups.items()]
    n_ranks = 1 + max(rank for ranks in case.jobs for rank in ranks)
    return collectives_at_once(tasks, groups, n_ranks, name=case.name)


def _measure(cases: Sequence[CollectiveCase], say: Say) -> dict[str, Any]:
    """One launch a bed."""
    seconds: dict[str, list[float]] = {}
    by_bed: dict[str, list[CollectiveCase]] = {}
    for case in cases:
        by_bed.setdefault(case.bed, []).append(case)
    clusters = {bed: load_cluster(bed) for bed in by_bed}
    scales = {bed: scale_for(cluster, cores()) for bed, cluster in clusters.items()}
    for number, (bed, here) in enumerate(by_bed.items(), 1):
        slower = "" if scales[bed] == 1 else f", at {scales[bed]:g} of its rates: this machine has {cores()} cores"
        say(f"measuring {len(here)} collectives on {bed} ({number} of {len(by_bed)} beds{slower})")
        asked = [case.to_bench(clusters[bed].n_gpus) for case in here]
        results: Sequence[Mapping[str, Any]] = bench_on_lab(bed, asked, _TIMEOUT_S, scales[bed])["results"]
        seconds |= {case.name: result["all_seconds"] for case, result in zip(here, results, strict=True)}
    return {"scale": scales, "seconds": seconds}
