"""Cases: what a point of the grid asks the simulator, and the key of its content.

The key is a digest of the resolved request: the model with its ids, the cluster with its transport, device and changes,
all options, and dessim's code. Two points with the same content, under whatever names, are one case.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from dessim.cluster import Cluster
from dessim.collectives.algorithms import require_algorithm
from dessim.commands.project import plans_of
from dessim.commands.questions.arguments import ProjectArguments, parse_algorithms
from dessim.commands.questions.what_if import Change, parse_change, require
from dessim.commands.support.inputs import NamedCluster, NamedJob
from dessim.commands.support.project_request import ProjectRequest, check_gpus, check_request
from dessim.commands.support.server_defaults import AUTO, IDEAL
from dessim.commands.support.step import to_host
from dessim.errors import DessimError, FileError, UsageError, one_line
from dessim.files import read_text
from dessim.sim.core.kernel_times import launched
from dessim.sim.fluid.route_cache import RouteCache
from dessim.sweep.axes import KNOBS, NONE, Plain
from dessim.sweep.content import cluster_digest, code_version, digest, model_digest
from dessim.sweep.grid import Point, Study
from dessim.workload.scale import Job
from dessim.workload.strategies import spec_of

_CLUSTER = ("cluster", "transport", "device")
_SETTING = (*_CLUSTER, "what_if", *KNOBS)
"""The axes that determine the cluster of a case."""
_KEPT = 2  # clusters in memory; one of 65,536 GPUs has some 100 MB
_USES = 256  # cases that share the routes of a cluster, which take more and more memory
_Kept = TypeVar("_Kept")


@dataclass(frozen=True, slots=True)
class Case:
    """A case: plain values only, so that it can be sent to another process."""

    key: str
    settings: Mapping[str, Plain]


@dataclass(frozen=True, slots=True)
class Row:
    """A row of the results: a point of the grid, and the case that answers it."""

    point: Point
    key: str
    batch_per_gpu: int


@dataclass(slots=True, eq=False)
class _Setting:
    """A cluster with all changes, its digest, the factor on the batch, and its routes after some `uses`."""

    cluster: Cluster
    digest: str
    of_batch: float
    routed: RouteCache
    uses: int = 0


@dataclass(slots=True, eq=False)
class Resolver:
    """Makes requests of settings. It keeps all models, the last clusters, and their routes."""

    _jobs: dict[tuple[Plain, ...], tuple[Job, str]] = field(default_factory=dict)
    _clusters: OrderedDict[tuple[Plain, ...], tuple[Cluster, str]] = field(default_factory=OrderedDict)
    _settings: OrderedDict[tuple[Plain, ...], _Setting] = field(default_factory=OrderedDict)

    def request(self, settings: Mapping[str, Plain]) -> tuple[ProjectRequest, str]:
        """The request of settings and its key. Raises DessimError for inputs that are wrong or contradict another."""
        model = tuple(settings[name] for name in ("model", "ids", "precision"))
        if model not in self._jobs:
            self._jobs[model] = _job(*model)
        job, job_digest = self._jobs[model]
        setting = self._setting(settings)
        arguments = _arguments(settings, job, setting.of_batch)
        request = arguments.request(job, setting.cluster)
        faults = "" if arguments.faults is None else read_text(Path(arguments.faults))
        key = digest(
            *(code_version(), job_digest, setting.digest, arguments.strategies, arguments.gpus),
            *(request.batch_per_worker, request.algorithms, request.network, request.spill, request.servers),
            *(request.pipeline, request.graphs, faults, arguments.codecs),
        )
        return request, key

    def routes(self, settings: Mapping[str, Plain]) -> RouteCache:
        """Routes on the cluster of these settings, for reuse by the next case."""
        setting = self._setting(settings)
        setting.uses += 1
        if setting.uses > _USES:
            setting.routed = RouteCache(setting.cluster)
            setting.uses = 1
        return setting.routed

    def _setting(self, settings: Mapping[str, Plain]) -> _Setting:
        def make() -> _Setting:
            base, base_digest = _kept(
                self._clusters, tuple(settings[name] for name in _CLUSTER), lambda: _cluster(settings)
            )
            what_if = str(settings["what_if"])
            changes = [] if what_if == NONE else [parse_change(what_if, base)]
            for name in KNOBS:
                if settings[name] != 1:
                    knob = Change(float(settings[name]), name)
                    require(knob, base)
                    changes.append(knob)
            cluster = base
            of_batch = 1.0
            for change in changes:
                cluster = change.on(cluster)
                of_batch *= change.of_batch
            changed = cluster_digest(cluster) if changes else base_digest
            return _Setting(cluster, changed, of_batch, RouteCache(cluster))

        return _kept(self._settings, tuple(settings[name] for name in _SETTING), make)


def _arguments(settings: Mapping[str, Plain], job: Job, of_batch: float) -> ProjectArguments:
    """The settings of a case as the arguments of `dessim project`. Raises UsageError."""
    strategy = str(settings["strategy"])
    gpus = int(settings["gpus"])
    algorithms = _stated(settings["algorithm"])
    return ProjectArguments(
        strategies=(strategy,),
        gpus=(gpus,),
        batch_per_worker=_batch_per_worker(settings["batch"], gpus, job, of_batch),
        codecs=_stated(settings["codec"]),
        faults=_stated(settings["faults"]),
        algorithms=parse_algorithms(algorithms.split(",") if algorithms else (), "algorithm ="),
        spill=bool(settings["spill"]),
        pipeline=bool(settings["pipeline"]),
        graphs=settings["launch"] == "graph",
        network="packet" if settings["network"] == "packet" else "fluid",
        **_of_servers(settings, strategy),
    )


def _of_servers(settings: Mapping[str, Plain], strategy: str) -> dict[str, Any]:
    """The arguments about servers. A strategy without servers ignores what the grid says of them, and
    servers that answer at once have neither a device nor threads.
    """
    spec = spec_of(strategy)
    if not spec.has_servers:
        return {}
    staleness = settings["staleness"]
    asked = {
        "servers": str(settings["servers"]),
        "staleness": None if spec.synchronous or staleness == NONE else int(staleness),
        "jitter": float(settings["jitter"]),
    }
    if settings["servers"] == IDEAL:
        return asked
    return asked | {
        "server_device": str(settings["server_device"]),
        "server_threads": int(settings["server_threads"]),
        "seed": int(settings["seed"]),
    }


def _stated(value: Plain) -> str | None:
    """The text of an option, None where it is left out."""
    return None if value == NONE else str(value)


def _kept(memory: OrderedDict[tuple[Plain, ...], _Kept], key: tuple[Plain, ...], make: Callable[[], _Kept]) -> _Kept:
    """The value that `make` makes for the key; the last ones are kept."""
    if key not in memory:
        memory[key] = make()
        if len(memory) > _KEPT:
            memory.popitem(last=False)
    memory.move_to_end(key)
    return memory[key]


def _job(*settings: Plain) -> tuple[Job, str]:
    """The job of a model, a file of ids, and a precision."""
    model, ids, precision = map(_stated, settings)
    job = NamedJob(model=model, ids=ids, precision=precision).load()
    return job, model_digest(job.model)


def _cluster(settings: Mapping[str, Plain]) -> tuple[Cluster, str]:
    name, transport, device = (_stated(settings[key]) for key in _CLUSTER)
    cluster = NamedCluster(name=name or "", transport=transport, device=device).load()
    return cluster, cluster_digest(cluster)


def _batch_per_worker(batch: Plain, gpus: int, job: Job, factor: float) -> int:
    """Samples of a GPU and step. Raises UsageError for a batch that the GPUs cannot share equally."""
    if batch == NONE:
        per_worker = job.model.input.batch_per_worker
    elif isinstance(batch, str):
        per_worker = int(batch.partition("/")[0])
    elif int(batch) % gpus:
        raise UsageError(
            f"batch = {batch} is no multiple of gpus = {gpus}; write the samples of each, such as '512/gpu'"
        )
    else:
        per_worker = int(batch) // gpus
    return max(round(per_worker * factor), 1)


def cluster_key(settings: Mapping[str, Plain]) -> tuple[str, ...]:
    """The settings that determine the cluster of a case, with its changes."""
    return tuple(str(settings[name]) for name in _SETTING)


def _order(settings: Mapping[str, Plain]) -> tuple[object, ...]:
    """The order in which a process simulates cases: those of one cluster, and of one scale, in a row."""
    return (cluster_key(settings), int(settings["gpus"]), str(settings["model"]))


def resolve(study: Study) -> tuple[list[Row], list[Case]]:
    """The rows of a study in the order of its grid, and their different cases in the order to simulate them.

    Every input is read and every request checked. Raises FileError, which names the point.
    """
    resolver = Resolver()
    checked: set[tuple[Plain, ...]] = set()
    rows: dict[int, Row] = {}
    cases: dict[str, tuple[int, Case]] = {}
    numbered = sorted(enumerate(study.points), key=lambda entry: _order(entry[1].settings))
    problems: list[tuple[int, str]] = []
    for number, point in numbered:
        try:
            request, key = resolver.request(point.settings)
            check_request(request)
            check_gpus(request)
            _check_parts(request)
            planned = tuple(point.settings[name] for name in ("model", "ids", "precision", "strategy", "codec"))
            if planned not in checked:
                plans_of(request)
                checked.add(planned)
        except DessimError as error:
            problems.append((number, one_line(error)))
            continue
        assert request.batch_per_worker is not None
        rows[number] = Row(point, key, request.batch_per_worker)
        # The first of the points with the same content names the case, whatever the order of simulation.
        if key not in cases or number < cases[key][0]:
            cases[key] = (number, Case(key, point.settings))
    if problems:
        raise _refused(study, problems)
    return [rows[number] for number in range(len(rows))], [case for _, case in cases.values()]


def _check_parts(request: ProjectRequest) -> None:
    """Raise UsageError for what the cluster's parts lack, which a simulation would find out later."""
    cluster = request.cluster
    gpus = max(request.gpus)
    if request.spill:
        to_host(cluster, gpus, "spill")
    if request.graphs:
        for gpu, _ in cluster.devices(range(gpus)):
            launched(gpu, kernels=1, busy=0.0, graphs=True)
    for op, name in (request.algorithms or {}).items():
        if cluster.transport.nccl is None and name != AUTO:  # NCCL has its own names
            require_algorithm(op, name)


def _refused(study: Study, problems: Sequence[tuple[int, str]]) -> FileError:
    number, line = min(problems)
    others = f"; {len(problems) - 1:,} more points have errors" if len(problems) > 1 else ""
    return FileError(study.path, "grid", f"point {study.points[number]}: {line}{others}; [[exclude]] leaves points out")


def shard_of(cases: Sequence[Case], number: int, of: int) -> list[Case]:
    """Shard `number` (from 1) `of` several: every `of`-th block of cases, so that a shard has few clusters."""
    block = max(len(cases) // (8 * of), 1)
    return [case for i, case in enumerate(cases) if i // block % of == number - 1]


def without(cases: Iterable[Case], done: Mapping[str, object]) -> list[Case]:
    """The cases whose keys are not among `done`."""
    return [case for case in cases if case.key not in done]
