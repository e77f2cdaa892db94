"""Studies: a projection, a replay, a plan, a collective, and the goodput of a long run.

Jobs and clusters may be named, by a shipped name or a file, or given as loaded objects. Wherever a command has an
option of the same name, its values mean the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from operator import index
from pathlib import Path
from typing import Literal

from dessim import deprecation
from dessim.cluster import Cluster, load_cluster
from dessim.commands.collective import time_collective
from dessim.commands.goodput import GoodputArguments
from dessim.commands.questions.arguments import CollectiveArguments, ProjectArguments, ReplayArguments, check_network
from dessim.commands.questions.question import Arguments, NamedQuestion, Question
from dessim.commands.support.inputs import NamedCluster, NamedJob
from dessim.commands.support.server_defaults import SERVER_DEVICE
from dessim.errors import UsageError
from dessim.plan.arguments import PlanArguments
from dessim.plan.scales import run_plan
from dessim.results.flat.collectives import CollectiveResult
from dessim.results.flat.goodput import GoodputResult
from dessim.results.flat.plans import PlanResult
from dessim.results.flat.steps import MisfitRow, ProjectResult, ReplayResult, StepRow, step_or_misfit
from dessim.sim.progress import Progress
from dessim.trace.io import Trace, load_trace
from dessim.units import parse_size
from dessim.workload.model import Model, load_model
from dessim.workload.plan_file import write_plan
from dessim.workload.scale import Job

TRACE_SUFFIX = ".trace"


def project(
    job: Job | Model | Trace | str | Path,
    cluster: Cluster | str | Path,
    strategies: str | Sequence[str] = (),
    gpus: int | Sequence[int] = (),
    batch_per_worker: int | None = None,
    *,
    plan: str | Path | None = None,
    what_if: str | None = None,
    codecs: str | None = None,
    servers: int | Literal["auto", "ideal"] | None = "auto",
    server_device: str = SERVER_DEVICE,
    server_threads: int = 1,
    staleness: int | None = None,
    jitter: float = 0.0,
    seed: int = 0,
    faults: str | Path | None = None,
    algorithms: Mapping[str, str] | None = None,
    spill: bool = False,
    pipeline: bool = True,
    graphs: bool = False,
    network: Literal["fluid", "packet"] = "fluid",
    folding: bool = True,
    progress: Progress | None = None,
    on_row: Callable[[StepRow | MisfitRow], None] | None = None,
) -> ProjectResult:
    """Predict a step of a job with each strategy at each number of GPUs: `dessim project`.

    `job` is a model or the trace of a recorded run. `batch_per_worker` is in samples (default: the job's own). `plan`
    is a plan file of `plan_job`, in place of, or beside, strategies. `what_if` changes the cluster, such as
    `"2x:nic_rate,0:latency"` or `"all"`. `codecs` encode values on the wire, such as `"bf16"`. `servers` is the number
    of CPU hosts that hold the tables of `ps_*`, `"auto"`, or `"ideal"`, a lower bound. `faults` is a file of faults.
    `algorithms` fixes the algorithm of a collective, such as `{"all_reduce": "ring"}`. `spill` puts rows for which a
    GPU has no room into the host's memory. `pipeline` prefetches the next step's ids. `graphs` launches kernels in CUDA
    graphs. `folding` simulates identical flows once. `on_row` receives each row as soon as it is ready.

    Raises UsageError, CapacityError where nothing fits, and OutOfTime when `progress` ends the run.

    >>> import dessim
    >>> steps = dessim.project("deepfm", "h100-8x_rail_128", ["des_reduce_scatter", "table_wise"], [8, 64])
    >>> for step in steps:
    ...     print(f"{step.gpus:2} {step.strategy:18} {1e3 * step.step_time_s:.2f} ms, bound by {step.bound_by}")
     8 des_reduce_scatter 1.22 ms, bound by compute
     8 table_wise         1.02 ms, bound by compute
    64 des_reduce_scatter 4.32 ms, bound by nic_up
    64 table_wise         1.75 ms, bound by compute
    >>> best = max(steps, key=lambda step: step.samples_per_s)
    >>> [op.name for op in best.ops if op.exposed_s > 1e-4]
    ['pooled', 'pooled_grad']
    >>> steps.to_frame().groupby("gpus")["step_time_s"].min().round(5).to_dict()
    {8: 0.00102, 64: 0.00175}
    """
    if servers is None:
        deprecation.warn("servers=None", "servers='ideal'")
        servers = "ideal"
    check_network(network)
    arguments = ProjectArguments(
        strategies=_names(strategies, "strategies"),
        gpus=_counts(gpus),
        batch_per_worker=batch_per_worker,
        plan=_name(plan),
        what_if=what_if,
        codecs=codecs,
        servers=str(servers),
        server_device=server_device,
        server_threads=server_threads,
        staleness=staleness,
        jitter=jitter,
        seed=seed,
        faults=_name(faults),
        algorithms=algorithms or {},
        spill=spill,
        pipeline=pipeline,
        graphs=graphs,
        network=network,
        folding=folding,
    ).checked()
    arguments.check()
    question = _question(job, cluster, arguments)
    ready = None if on_row is None else lambda row: on_row(step_or_misfit(row))
    return replace(ProjectResult.from_json(question.answer(progress, ready)), _question=question)


def replay(
    trace: Trace | str | Path,
    cluster: Cluster | str | Path,
    algorithms: Mapping[str, str] | None = None,
    folding: bool = True,
    progress: Progress | None = None,
    *,
    what_if: str | None = None,
    network: Literal["fluid", "packet"] = "fluid",
) -> ReplayResult:
    """Replay a recorded trace on a cluster, and compare with the measured steps: `dessim replay`.

    Compute takes its recorded time, collectives the simulator's. The other arguments are those of `project`. Raises
    UsageError, TraceError, CapacityError where the cluster is too small, and OutOfTime.

    >>> import dessim
    >>> result = dessim.replay("tests/golden/inputs/tiny.trace", "lab/switch_4")
    >>> result.ranks, result.steps, result.bound_by, f"{result.self_replay_error:+.0%}"
    (2, 3, 'compute', '+11%')
    """
    check_network(network)
    arguments = ReplayArguments(
        what_if=what_if, algorithms=algorithms or {}, network=network, folding=folding
    ).checked()
    question = _question(trace, cluster, arguments)
    return replace(ReplayResult.from_json(question.answer(progress)), _question=question)


def plan_job(
    job: Job | Model | str | Path,
    cluster: Cluster | str | Path,
    gpus: int | Sequence[int],
    batch: int,
    *,
    per_gpu: bool = False,
    target_samples_per_s: float | None = None,
    budget_dollars_per_h: float | None = None,
    prices: str | Path | None = None,
    keep: str | Path | None = None,
    without: Sequence[str] = (),
    codecs: str | None = None,
    replicas: Sequence[int] | None = None,
    graphs: bool = False,
    network: Literal["fluid", "packet"] = "fluid",
    out: str | Path | None = None,
    progress: Progress | None = None,
) -> PlanResult:
    """Choose a strategy and owners for each table: `dessim plan`.

    `batch`: samples a step of all GPUs, or with `per_gpu` of each. With `target_samples_per_s` the fewest GPUs that
    reach it are chosen, otherwise the fastest plan is. `budget_dollars_per_h` leaves out numbers of GPUs that cost more
    than that, by the file `prices`. `keep` is a file of tables whose strategy is fixed; `without` are strategies that
    no table may have; `codecs` are those that values may have, such as `"fp32,bf16"`; `replicas` are numbers of
    replicas to try. `out` is the plan file to write, for `plan` of `project`.

    Raises UsageError, CapacityError where nothing fits, reaches the target or keeps the budget, and OutOfTime.

    >>> import dessim
    >>> best = dessim.plan_job("deepfm", "one-switch_16", gpus=4, batch=4096).chosen
    >>> best.strategy, len(best.tables), best.tables[0].ranks
    ('39 table_wise', 39, (0,))
    """
    check_network(network)
    arguments = PlanArguments(
        gpus=_counts(gpus),
        batch=batch,
        per_gpu=per_gpu,
        target=target_samples_per_s,
        budget=budget_dollars_per_h,
        prices=_name(prices),
        keep=_name(keep),
        without=_names(without, "without"),
        codecs=codecs,
        replicas=_counts(replicas, "replicas") if replicas is not None else None,
        graphs=graphs,
        network=network,
    ).checked()
    arguments.check()
    loaded = _job(job)
    machine = _cluster(cluster)
    planned = run_plan(arguments.request(loaded, machine), progress)
    if out is not None:
        write_plan(Path(out), planned.job_plan(), loaded.model, machine)
    return PlanResult.from_json({"cluster": machine.name, "model": loaded.model.name, **planned.to_json()})


def collective(
    cluster: Cluster | str | Path,
    op: str,
    gpus: int,
    size: float | str,
    algorithm: str = "auto",
    *,
    protocol: str = "",
    channels: int | None = None,
    gpus_per_process: int = 1,
    chunks: int | None = None,
    root: int = 0,
    dims: Sequence[int] = (),
    uneven: int | None = None,
    tolerance: float = 0.0,
    faults: str | Path | None = None,
    network: Literal["fluid", "packet"] = "fluid",
    folding: bool = True,
    progress: Progress | None = None,
) -> CollectiveResult:
    """Time one collective on an otherwise idle cluster: `dessim collective`, a simulated nccl-tests.

    `size` is S as nccl-tests counts it, in bytes or as text such as `"64MiB"`. `protocol`, `channels` and
    `gpus_per_process` are NCCL's, and need a cluster with an NCCL transport. `chunks`, `root` and `dims` are options of
    textbook algorithms. `uneven` is the seed of random sizes for each pair of an all_to_all; `tolerance` is the
    relative error that such a run may have. `faults`, `network` and `folding` are those of `project`.

    Raises UsageError, CapacityError, SimulationError where a fault disconnects GPUs, and OutOfTime.

    >>> import dessim
    >>> result = dessim.collective("h100-8x_rail_128", "all_reduce", 64, "256MiB")
    >>> result.algorithm, f"{1e3 * result.time_s:.2f} ms", result.bound_by
    ('nvls_tree simple', '1.90 ms', 'nic_up')
    """
    machine = _cluster(cluster)
    check_network(network)
    arguments = CollectiveArguments(
        op=op,
        gpus=gpus,
        size=parse_size(size) if isinstance(size, str) else size,
        algorithm=algorithm,
        protocol=protocol,
        channels=channels,
        gpus_per_process=gpus_per_process,
        chunks=chunks,
        root=root,
        dims=_counts(dims, "dims"),
        uneven=uneven,
        tolerance=tolerance,
        faults=_name(faults),
        network=network,
        folding=folding,
    ).checked()
    measured = time_collective(arguments.request(machine), progress)
    return CollectiveResult.from_json({"cluster": machine.name, **measured.to_json()})


def goodput(
    nodes: int,
    mtbf_s: float,
    checkpoint_s: float,
    restart_s: float,
    *,
    every_s: float | None = None,
    days: float = 30,
    runs: int = 20,
    seed: int = 0,
    progress: Progress | None = None,
) -> GoodputResult:
    """Find the checkpoint interval that loses least to failures: `dessim goodput`.

    Each of `nodes` fails every `mtbf_s` seconds on average; a checkpoint and a restart take `checkpoint_s` and
    `restart_s`. `every_s` adds an interval of your own; `seed` draws the failures. Raises UsageError and OutOfTime.

    >>> import dessim
    >>> result = dessim.goodput(64, mtbf_s=90 * 86400, checkpoint_s=120, restart_s=300, runs=4)
    >>> result[0].interval, f"{result[0].interval_s / 60:.0f} min", f"{result[0].goodput:.0%}"
    ('best, simulated', '85 min', '96%')
    """
    arguments = GoodputArguments(
        nodes=nodes,
        mtbf_s=mtbf_s,
        checkpoint_s=checkpoint_s,
        restart_s=restart_s,
        every_s=every_s,
        days=days,
        runs=runs,
        seed=seed,
    )
    return GoodputResult.from_json(arguments.checked().run(progress).to_json())


def _question(job: Job | Model | Trace | str | Path, cluster: Cluster | str | Path, arguments: Arguments) -> Question:
    """The question; one that can be written to a golden file where both job and cluster are named."""
    if isinstance(job, str | Path) and isinstance(cluster, str | Path):
        is_trace = isinstance(arguments, ReplayArguments) or _is_trace(job)
        named_job = NamedJob(trace=str(job)) if is_trace else NamedJob(model=str(job))
        return NamedQuestion(named_job, NamedCluster(name=str(cluster)), arguments).load()
    loaded = _trace(job) if isinstance(arguments, ReplayArguments) else _job(job)
    return Question(loaded, _cluster(cluster), arguments)


def _is_trace(name: str | Path) -> bool:
    return Path(name).suffix == TRACE_SUFFIX or Path(name).is_dir()


def _job(job: Job | Model | Trace | str | Path) -> Job:
    if isinstance(job, str | Path):
        job = load_trace(job) if _is_trace(job) else load_model(job)
    if isinstance(job, Trace):
        return Job.of_trace(job)
    if not isinstance(job, Job | Model):
        raise UsageError(f"a job is a Job, Model or Trace, a shipped name or a file, not of type {type(job).__name__}")
    return Job.of_model(job) if isinstance(job, Model) else job


def _trace(job: Job | Model | Trace | str | Path) -> Trace:
    if isinstance(job, str | Path):
        return load_trace(job)
    if not isinstance(job, Trace):
        raise UsageError(f"a replay needs a trace, not a {type(job).__name__}")
    return job


def _cluster(cluster: Cluster | str | Path) -> Cluster:
    if not isinstance(cluster, Cluster | str | Path):
        raise UsageError(f"a cluster is a Cluster, a shipped name or a file, not of type {type(cluster).__name__}")
    return cluster if isinstance(cluster, Cluster) else load_cluster(cluster)


def _counts(counts: int | Sequence[int], what: str = "gpus") -> tuple[int, ...]:
    """Numbers, as of GPUs. Raises UsageError for text, which is a sequence too, and for what holds no whole numbers."""
    try:
        if isinstance(counts, str):
            raise TypeError
        return tuple(map(index, counts)) if isinstance(counts, Iterable) else (index(counts),)
    except TypeError:
        raise UsageError(f"{what} {counts!r}: write numbers, such as 8 or [8, 64]") from None


def _names(names: str | Sequence[str], what: str) -> tuple[str, ...]:
    """Names, or a single one. Raises UsageError for what holds none."""
    if not isinstance(names, Iterable):
        raise UsageError(f"{what} {names!r}: write a name, or a list of names")
    return (names,) if isinstance(names, str) else tuple(names)


def _name(file: str | Path | None) -> str | None:
    return None if file is None else str(file)
