"""The arguments of `dessim plan`, besides job and cluster, in plain values. Messages name its options."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dessim.cluster import Cluster
from dessim.commands.support.plain import Plain
from dessim.commands.support.project_request import check_packet
from dessim.errors import UsageError
from dessim.plan.coded import EXACT, NONE, Allowed, parse_allowed
from dessim.plan.loads import STRATEGIES
from dessim.plan.pinned import load_pinned
from dessim.plan.prices import load_prices
from dessim.plan.scales import PlanRequest
from dessim.sim.engine import NetworkName
from dessim.wording import choose_from
from dessim.workload.composed import SPILT
from dessim.workload.scale import Job
from dessim.workload.torchrec_plan import EXPRESSIBLE


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanArguments(Plain):
    """The question of `dessim plan`. `prices` and `keep` are files; the other values are those of PlanRequest.

    `without` are strategies that no table may have. `for_torchrec`: the plan must be one that TorchRec can express.
    """

    FILES = ("prices", "keep")

    gpus: tuple[int, ...]
    batch: int
    per_gpu: bool = False
    target: float | None = None
    budget: float | None = None
    prices: str | None = None
    keep: str | None = None
    without: tuple[str, ...] = ()
    codecs: str | None = None
    replicas: tuple[int, ...] | None = None
    graphs: bool = False
    network: NetworkName = "fluid"
    for_torchrec: bool = False

    def check(self) -> None:
        """Raise UsageError for options that contradict each other."""
        if not self.gpus or min(self.gpus) < 1:
            raise UsageError(f"--gpus {','.join(map(str, self.gpus)) or 'none'}: write whole numbers of at least 1")
        if self.batch < 1:
            raise UsageError(f"--batch {self.batch}: at least 1")
        allowed = self._allowed()
        if self.for_torchrec and allowed != NONE:
            raise UsageError("--codecs: TorchRec's plans name no codecs; leave --codecs or --to out")
        if self.for_torchrec and self.replicas not in (None, (1,)):
            raise UsageError("--replicas: TorchRec's plans name no replicas; leave --replicas or --to out")
        for count in self.replicas or ():
            if count < 1 or all(gpus % count for gpus in self.gpus):
                raise UsageError(f"--replicas {count}: no number of --gpus divides evenly into {count} blocks")
        if max(self.replicas or (1,)) > 1 and any(EXACT not in codecs for codecs in allowed.values()):
            raise UsageError(f"--replicas: plans with replicas are tried without codecs; add {EXACT} to --codecs")
        self._strategies()

    def request(self, job: Job, cluster: Cluster) -> PlanRequest:
        """The request about a job on a cluster. Raises UsageError, and FileError for its files."""
        self.check()
        if self.network == "packet":
            check_packet(cluster)
        return PlanRequest(
            job=job,
            cluster=cluster,
            gpus=self.gpus,
            batch=self.batch,
            per_gpu=self.per_gpu,
            target=self.target,
            budget=self.budget,
            prices=load_prices(Path(self.prices)) if self.prices is not None else None,
            pinned=load_pinned(Path(self.keep), job.model) if self.keep is not None else {},
            graphs=self.graphs,
            network=self.network,
            strategies=self._strategies(),
            by_table=self.for_torchrec,
            codecs=self._allowed(),
            replicas=self.replicas,
        )

    def _allowed(self) -> Allowed:
        try:
            return parse_allowed(self.codecs) if self.codecs is not None else NONE
        except UsageError as error:
            raise UsageError(f"--codecs: {error}") from None

    def _strategies(self) -> tuple[str, ...]:
        """The strategies that tables may have. Raises UsageError for an unknown one, and if none is left."""
        for name in self.without:
            if name not in STRATEGIES:
                raise UsageError(f"--without {name}: {choose_from(name, STRATEGIES)}")
        left = tuple(name for name in STRATEGIES if name not in self.without)
        if not set(left) - {SPILT}:
            raise UsageError(f"--without {','.join(self.without)}: leaves no strategy for tables")
        return tuple(name for name in left if name in EXPRESSIBLE) if self.for_torchrec else left
