"""A job planned at several numbers of GPUs: the fewest that reach a target, what they cost, and the Pareto front."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dessim.cluster import Cluster
from dessim.errors import CapacityError, UsageError
from dessim.plan.candidates import PlanProblem
from dessim.plan.coded import NONE, Allowed, search_codecs
from dessim.plan.loads import STRATEGIES, Choice
from dessim.plan.prices import Prices
from dessim.plan.search import RankedPlans
from dessim.sim.engine import NetworkName
from dessim.sim.progress import Progress
from dessim.units import format_count
from dessim.workload.plan_file import JobPlan
from dessim.workload.scale import Job

_BILLION = 1e9
_HOUR = 3600.0


@dataclass(frozen=True, slots=True)
class PlanRequest:
    """A job to plan at each number of `gpus`.

    `batch`: samples a step, of all workers (strong scaling) or, with `per_gpu`, of each (weak scaling).
    `target` [samples/s]: the fewest GPUs that reach it are chosen; otherwise the fastest plan is.
    `budget` [$/h] leaves out numbers of GPUs that cost more; it needs `prices`.
    `pinned`, `strategies`: the choice of some tables, by number, and the strategies that all others may have.
    `network`: the model of the network that simulates the finalists.
    `by_table`: leave out strategies that train the whole model in another form.
    `given`: plans to compare with, by the names of their files, each at its own number of GPUs.
    `codecs`: those that each kind of values may have on the wire.
    `replicas`: the numbers of replicas of the tables to try; None: those that may pay.
    """

    job: Job
    cluster: Cluster
    gpus: Sequence[int]
    batch: int
    per_gpu: bool = False
    target: float | None = None
    budget: float | None = None
    prices: Prices | None = None
    pinned: Mapping[int, Choice] = field(default_factory=dict)
    graphs: bool = False
    network: NetworkName = "fluid"
    strategies: Sequence[str] = STRATEGIES
    by_table: bool = False
    given: Mapping[str, JobPlan] = field(default_factory=dict)
    codecs: Allowed = field(default_factory=lambda: NONE)
    replicas: Sequence[int] | None = None

    def at(self, gpus: int) -> PlanProblem:
        """The job on one of `gpus`."""
        return PlanProblem(
            job=self.job,
            cluster=self.cluster,
            gpus=gpus,
            batch=self.batch * gpus if self.per_gpu else self.batch,
            pinned=self.pinned,
            graphs=self.graphs,
            network=self.network,
            strategies=self.strategies,
            by_table=self.by_table,
            given={file: plan for file, plan in self.given.items() if plan.gpus == gpus},
            replicas=self.replicas,
        )


@dataclass(frozen=True, slots=True)
class Scale:
    """The plans of one number of GPUs.

    `dollars_per_h`: None without prices.
    `watts`: the most that the GPUs alone draw; None where a part does not state its power.
    `on_front`: no other scale is as fast and cheaper, or faster at the same price or a lower one.
    """

    plans: RankedPlans
    dollars_per_h: float | None
    watts: float | None
    on_front: bool = False

    @property
    def samples_per_s(self) -> float:
        return self.plans.best.row.samples_per_s

    def probability_of(self, target: float) -> float | None:
        """The probability that the best plan reaches `target` samples/s, by its error bar; None without one."""
        bar = self.plans.best.row.bar
        if bar is None or bar.sigma == 0:
            return None
        return (1 + math.erf(math.log(self.samples_per_s / target) / (bar.sigma * math.sqrt(2)))) / 2

    def per_billion(self, rate: float | None) -> float | None:
        """A quantity per billion samples, from its `rate` per second."""
        return None if rate is None else rate * _BILLION / self.samples_per_s

    def to_json(self) -> dict[str, Any]:
        plans = self.plans
        best = plans.best.row
        leads: dict[str, float] = {}
        for row in (candidate.row for candidate in plans.candidates if not candidate.tables):
            # The fastest come first, and a strategy may be there with several codecs.
            leads.setdefault(row.strategy, best.samples_per_s / row.samples_per_s - 1)
        plain = next((c.row.samples_per_s for c in plans.candidates if not c.codecs), None)
        rows = [c.to_json() | {"tie": tie} for c, tie in zip(plans.candidates, plans.ties(), strict=True)]
        hourly = None if self.dollars_per_h is None else self.dollars_per_h / _HOUR
        return {
            "gpus": plans.gpus,
            "batch": plans.batch,
            "samples_per_s": self.samples_per_s,
            "strategy": best.strategy,
            "bound_s": plans.bound_s,
            "gap": plans.gap,
            "leads": leads,
            "codecs": plans.best.codecs.text,
            "lead_of_codecs": None if plain is None else best.samples_per_s / plain - 1,
            "algorithms": plans.best.algorithms,
            "extremes": plans.by_rank.extremes(),
            "by_rank": plans.by_rank.to_json(),
            "dollars_per_h": self.dollars_per_h,
            "dollars_per_billion": self.per_billion(hourly),
            "watts": self.watts,
            "joules_per_billion": self.per_billion(self.watts),
            "on_front": self.on_front,
            "refused": list(plans.refused),
            "plans": rows,
        }


@dataclass(frozen=True, slots=True)
class Planned:
    """The scales of a request, and the position of the chosen one.

    `left_out`: why a number of GPUs has no plan. `target`: the samples/s that were asked for.
    `price_source`: where the prices are from, if the user says so.
    """

    scales: tuple[Scale, ...]
    chosen: int
    left_out: Mapping[int, str]
    target: float | None = None
    price_source: str = ""

    @property
    def best(self) -> Scale:
        return self.scales[self.chosen]

    def job_plan(self) -> JobPlan:
        """The chosen plan, for its file."""
        return self.best.plans.job_plan()

    def to_json(self) -> dict[str, Any]:
        return {
            "chosen_gpus": self.best.plans.gpus,
            "target": None
            if self.target is None
            else {"samples_per_s": self.target, "probability": self.best.probability_of(self.target)},
            "price_source": self.price_source,
            "scales": [scale.to_json() for scale in self.scales],
            "left_out": {str(gpus): reason for gpus, reason in self.left_out.items()},
        }


def run_plan(
    request: PlanRequest, progress: Progress | None = None, on_scale: Callable[[Scale], None] | None = None
) -> Planned:
    """Plan a job at every number of GPUs. `on_scale` receives each scale as soon as it is ready.

    Raises CapacityError where nothing fits, reaches the target or keeps the budget, UsageError, and OutOfTime.
    """
    if request.budget is not None and request.prices is None:
        raise UsageError("--budget needs --prices, a file with the price of a GPU or of a server")
    for gpus in () if request.per_gpu else request.gpus:
        if request.batch % gpus:
            raise UsageError(
                f"--batch {request.batch:,}: does not divide evenly over {gpus:,} GPUs; use a multiple of {gpus:,}"
            )
    progress = progress or Progress()
    scales: list[Scale] = []
    left_out: dict[int, str] = {}
    for done, gpus in enumerate(request.gpus):
        price = request.prices.of(request.cluster, gpus) if request.prices is not None else None
        if request.budget is not None and price is not None and price > request.budget:
            left_out[gpus] = f"{gpus:,} GPUs cost {price:,.2f} $/h, more than the budget of {request.budget:,.2f} $/h"
            continue
        try:
            of_scale = progress.within(done, len(request.gpus), "numbers of GPUs")
            plans = search_codecs(request.at(gpus), request.codecs, of_scale)
        except CapacityError as error:
            left_out[gpus] = str(error)
            continue
        scales.append(Scale(plans, price, _watts(request.cluster, gpus)))
        if on_scale is not None:
            on_scale(scales[-1])
    if not scales:
        raise CapacityError("; ".join(left_out.values()))
    front = _front(scales)
    marked = tuple(Scale(s.plans, s.dollars_per_h, s.watts, number in front) for number, s in enumerate(scales))
    source = request.prices.source if request.prices is not None else ""
    return Planned(marked, _chosen(request, marked), left_out, request.target, source)


def _chosen(request: PlanRequest, scales: Sequence[Scale]) -> int:
    """The scale with the fewest GPUs that reaches the target; without a target the fastest. Raises CapacityError."""
    fastest = max(range(len(scales)), key=lambda number: scales[number].samples_per_s)
    if request.target is None:
        return fastest
    reach = [number for number, scale in enumerate(scales) if scale.samples_per_s >= request.target]
    if not reach:
        best = scales[fastest]
        raise CapacityError(
            f"--target {format_count(request.target)} samples/s: nothing reaches it; the fastest is "
            f"{format_count(best.samples_per_s)} samples/s on {best.plans.gpus:,} GPUs; use more GPUs or a larger "
            "batch, or lower the target"
        )
    return min(reach, key=lambda number: scales[number].plans.gpus)


def _watts(cluster: Cluster, gpus: int) -> float | None:
    """Watts that the GPUs draw at most; None where a part does not state its power."""
    total = 0.0
    for gpu, positions in cluster.devices(range(gpus)):
        if gpu.power is None:
            return None
        total += gpu.power * len(positions)
    return total


def _front(scales: Sequence[Scale]) -> set[int]:
    """The scales on the Pareto front of samples/s and cost: dollars an hour, or GPUs where there are no prices."""

    def cost(scale: Scale) -> float:
        return float(scale.plans.gpus) if scale.dollars_per_h is None else scale.dollars_per_h

    return {
        number
        for number, scale in enumerate(scales)
        if not any(
            other.samples_per_s >= scale.samples_per_s
            and cost(other) <= cost(scale)
            and (other.samples_per_s > scale.samples_per_s or cost(other) < cost(scale))
            for other in scales
        )
    }
