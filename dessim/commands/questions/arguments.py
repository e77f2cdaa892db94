"""The arguments of commands, besides job and cluster, in plain values.

A command line, a Python call and a golden file all state their question with these values, so each becomes a request in
one place. Messages name the options of the command line.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import get_args

from dessim.cluster import Cluster
from dessim.cluster.parts import Transport
from dessim.collectives import Options
from dessim.collectives.nccl.model import protocol_named
from dessim.collectives.timing import Timing
from dessim.commands.collective import CollectiveRequest
from dessim.commands.questions.what_if import AnyChange, parse_changes
from dessim.commands.replay import ReplayRequest
from dessim.commands.support.dedicated_servers import parse_servers
from dessim.commands.support.plain import Plain
from dessim.commands.support.project_request import ProjectRequest, check_packet
from dessim.commands.support.server_defaults import AUTO, SERVER_DEVICE
from dessim.errors import UsageError
from dessim.sim.engine import NetworkName
from dessim.sim.faults.fault_file import Scenario, load_faults
from dessim.trace.io import Trace
from dessim.trace.schema import COLLECTIVES, Collective
from dessim.wording import choose_from, did_you_mean
from dessim.workload.codecs import CodecConfig, parse_codecs
from dessim.workload.model import Model
from dessim.workload.plan_file import JobPlan, read_plan
from dessim.workload.scale import Job
from dessim.workload.torchrec_plan import SUFFIX as TORCHREC
from dessim.workload.torchrec_plan import read_torchrec

_MOST_CHUNKS = 10**12
_MOST_JITTER = 3
_LEAST = {"batch_per_worker": 1, "server_threads": 1, "staleness": 0, "jitter": 0, "seed": 0}


@dataclass(frozen=True, slots=True, kw_only=True)
class ProjectArguments(Plain):
    """The question of `dessim project`. `plan` and `faults` are files; the other values are those of ProjectRequest."""

    FILES = ("plan", "faults", "server_device")

    strategies: tuple[str, ...] = ()
    gpus: tuple[int, ...] = ()
    batch_per_worker: int | None = None
    plan: str | None = None
    what_if: str | None = None
    codecs: str | None = None
    servers: str = AUTO
    server_device: str = SERVER_DEVICE
    server_threads: int = 1
    staleness: int | None = None
    jitter: float = 0.0
    seed: int = 0
    faults: str | None = None
    algorithms: Mapping[str, str] = field(default_factory=dict)
    spill: bool = False
    pipeline: bool = True
    graphs: bool = False
    network: NetworkName = "fluid"
    folding: bool = True

    def check(self) -> None:
        """Raise UsageError for values that are missing or out of range."""
        if self.plan is None and not (self.strategies and self.gpus):
            raise UsageError("name strategies and numbers of GPUs with --strategy and --gpus, or give a --plan")
        for name, least in _LEAST.items():
            value = getattr(self, name)
            if value is not None and value < least:
                raise UsageError(f"--{name.replace('_', '-')} {value}: at least {least}")
        if self.jitter > _MOST_JITTER:
            raise UsageError(f"--jitter {self.jitter}: at most {_MOST_JITTER}")
        check_network(self.network)

    def request(self, job: Job, cluster: Cluster) -> ProjectRequest:
        """The request about a job on a cluster. Raises UsageError, and FileError for its files."""
        self.check()
        planned = self._planned(job.model, cluster)
        return ProjectRequest(
            job=job,
            cluster=cluster,
            strategies=[*self.strategies, *(planned.strategies if planned is not None else ())],
            gpus=[planned.gpus] if planned is not None else list(self.gpus),
            batch_per_worker=planned.batch_per_worker if planned is not None else self.batch_per_worker,
            composed=planned.composed(job.model) if planned is not None else (),
            algorithms=named_algorithms(self.algorithms),
            folding=self.folding,
            network=self.network,
            spill=self.spill,
            pipeline=self.pipeline,
            graphs=self.graphs,
            servers=parse_servers(
                self.servers,
                self.server_device,
                self.server_threads,
                staleness=self.staleness,
                jitter=self.jitter,
                seed=self.seed,
            ),
            codecs=_codecs(self.codecs) if self.codecs is not None else None,
            scenario=_scenario(self.faults, cluster),
        )

    def changes(self, cluster: Cluster) -> tuple[AnyChange, ...]:
        """The changes of `what_if`. Raises UsageError."""
        return parse_changes(self.what_if, cluster)

    def _planned(self, model: Model, cluster: Cluster) -> JobPlan | None:
        if self.plan is None:
            return None
        path = Path(self.plan)
        if path.suffix == TORCHREC:
            planned = read_torchrec(path, model, self.batch_per_worker, cluster)
        else:
            planned = read_plan(path, model, cluster)
        planned.require(self.plan, self.gpus, self.batch_per_worker)
        if planned.codecs and self.codecs is not None:
            raise UsageError(
                f"--codec {self.codecs}: {self.plan} names codecs {planned.codecs}; leave --codec out, or plan again"
            )
        return planned


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayArguments(Plain):
    """The question of `dessim replay`; the values are those of ReplayRequest."""

    what_if: str | None = None
    algorithms: Mapping[str, str] = field(default_factory=dict)
    network: NetworkName = "fluid"
    folding: bool = True

    def request(self, trace: Trace, cluster: Cluster) -> ReplayRequest:
        """The request about a trace on a cluster. Raises UsageError."""
        check_network(self.network)
        algorithms = named_algorithms(self.algorithms)
        if self.network == "packet":
            check_packet(cluster, algorithms, fold_off=not self.folding)
        return ReplayRequest(
            trace=trace,
            cluster=cluster,
            algorithms=algorithms,
            folding=self.folding,
            network=self.network,
        )

    def changes(self, cluster: Cluster) -> tuple[AnyChange, ...]:
        """The changes of `what_if`. Raises UsageError."""
        return parse_changes(self.what_if, cluster, recorded=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectiveArguments(Plain):
    """The question of `dessim collective`. The values are those of CollectiveRequest and of its options.

    `protocol`, `channels` and `gpus_per_process` are NCCL's.
    """

    op: str
    gpus: int
    size: float
    algorithm: str = "auto"
    protocol: str = ""
    channels: int | None = None
    gpus_per_process: int = 1
    chunks: int | None = None
    root: int = 0
    dims: tuple[int, ...] = ()
    uneven: int | None = None
    tolerance: float = 0.0
    faults: str | None = None
    network: NetworkName = "fluid"
    folding: bool = True

    def request(self, cluster: Cluster) -> CollectiveRequest:
        """The request about a cluster. Raises UsageError, and FileError for the faults."""
        check_network(self.network)
        if self.protocol or self.channels is not None or self.gpus_per_process > 1:
            _check_nccl(self.protocol, cluster.transport, self.network)
        op = _collective(self.op, f"{self.op!r}")
        if self.network == "packet":
            given = {"chunks": self.chunks is not None, "dims": bool(self.dims), "root": self.root != 0}
            given |= {"tolerance": self.tolerance > 0, "faults": self.faults is not None, "fold_off": not self.folding}
            check_packet(cluster, {op: self.algorithm}, **given)
        if self.chunks is not None and self.chunks > _MOST_CHUNKS:
            raise UsageError(f"--chunks: at most {_MOST_CHUNKS:,}")
        return CollectiveRequest(
            cluster=cluster,
            op=op,
            gpus=self.gpus,
            size=self.size,
            algorithm=self.algorithm,
            folding=self.folding,
            network=self.network,
            options=Options(
                self.chunks,
                self.root,
                self.dims,
                protocol=self.protocol,
                channels=self.channels,
                timing=Timing.REPEATED,
                gpus_per_process=self.gpus_per_process,
            ),
            uneven=self.uneven,
            tolerance=self.tolerance,
            scenario=_scenario(self.faults, cluster),
        )


def _codecs(text: str) -> CodecConfig:
    try:
        return parse_codecs(text)
    except UsageError as error:
        raise UsageError(f"--codec: {error}") from None


def check_network(network: str) -> None:
    """Raise UsageError for a network model that does not exist."""
    if network not in get_args(NetworkName):
        raise UsageError(f"--network {network}: choose from {', '.join(get_args(NetworkName))}")


def parse_algorithms(texts: Iterable[str], what: str = "--algorithm") -> dict[str, str]:
    """The algorithm of each collective in texts `OP=NAME`. Raises UsageError; `what`: their option or key."""
    chosen: dict[str, str] = {}
    for text in texts:
        op, equals, name = (piece.strip() for piece in text.partition("="))
        if not equals or not name or op not in COLLECTIVES:
            raise UsageError(f"{what} {text!r}: {did_you_mean(op, COLLECTIVES)}write OP=NAME, such as all_reduce=ring")
        chosen[op] = name
    return chosen


def named_algorithms(algorithms: Mapping[str, str]) -> dict[Collective, str]:
    """The algorithm of each collective, by its name. Raises UsageError."""
    return {_collective(op, f"--algorithm {op}={name}"): name for op, name in algorithms.items()}


def _collective(name: str, what: str) -> Collective:
    """The collective `name`. Raises UsageError, which names `what`."""
    if name not in COLLECTIVES:
        raise UsageError(f"{what}: no such collective; {choose_from(name, COLLECTIVES)}")
    return Collective(name)


def _scenario(faults: str | None, cluster: Cluster) -> Scenario | None:
    return load_faults(Path(faults), cluster) if faults is not None else None


def _check_nccl(protocol: str, transport: Transport, network: NetworkName) -> None:
    """Refuse options of NCCL where its model does not run."""
    if protocol:
        protocol_named(protocol)
    options = "--protocol, --channels and --gpus-per-process"
    if transport.nccl is None:
        raise UsageError(f"{options} need an NCCL transport, such as nccl-ib, and not {transport.name}")
    if network != "fluid":
        raise UsageError(f"{options} need --network fluid; the packet model runs textbook algorithms")
