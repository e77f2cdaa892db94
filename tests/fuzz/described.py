"""Files that describe a cluster, a model or a job: TOML, a plan of TorchRec, and what clusters' tools write."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from dessim.calibrate.profile import with_profile
from dessim.cluster import Cluster, Gpu, describe, load_cluster
from dessim.cluster.drawing.draw import draw
from dessim.cluster.load import load_device
from dessim.commands.collective import run_collective
from dessim.commands.support.tenants_file import load_tenants_file
from dessim.commands.tenants import TenantsRequest, run_tenants
from dessim.commands.topo_diff import run_diff
from dessim.commands.topo_import import ImportRequest, run_import
from dessim.files import dump_json
from dessim.plan.pinned import load_pinned
from dessim.plan.prices import load_prices
from dessim.sim.faults.fault_file import Scenario, load_faults
from dessim.trace.schema import Collective
from dessim.workload.composed import TablePlan
from dessim.workload.describe_model import describe as describe_model
from dessim.workload.id_logs.in_model import model_with_ids
from dessim.workload.model import Model, load_model
from dessim.workload.plan_file import JobPlan, read_plan, write_plan
from dessim.workload.scale import Job
from dessim.workload.torchrec_plan import read_torchrec, write_torchrec
from tests.cluster.importers import fuzz as imported
from tests.fuzz.formats import SMALL, Format, Seeds, budget, files, projected, shipped
from tests.fuzz.mutate import mutated_json, mutated_lines, mutated_toml
from tests.plan.small import model_of

_SERVERS = "h100-8x_railonly_64"
_MODELS = ("deepfm_ml100k", "fvae", "two_tower", "dlrm_dcnv2", "xdeepfm", "pnn", "wide_deep", "criteo_kaggle")
_FAULTY = "h100-8x_rail_128"


def _use_cluster(cluster: Cluster) -> None:
    dump_json(describe(cluster))
    gpus = min(cluster.n_gpus, 8)
    if gpus > 1:
        for op, size in ((Collective.ALL_TO_ALL, 65_536.0), (Collective.ALL_REDUCE, 2.0**26)):
            dump_json(run_collective(cluster, op, gpus, size, progress=budget()).to_json())
    if cluster.n_gpus <= 64:
        draw(cluster)
        run_diff(str(cluster.path), SMALL)


def _collective_on(cluster: Cluster) -> None:
    gpus = min(cluster.n_gpus, 8)
    dump_json(run_collective(cluster, Collective.ALL_REDUCE, gpus, 2.0**20, progress=budget()).to_json())


def _use_model(model: Model) -> None:
    dump_json(describe_model(model))
    projected(Job.of_model(model))


def _tenants(path: Path) -> TenantsRequest:
    jobs = load_tenants_file(path)
    return TenantsRequest(tenants=jobs, cluster=load_cluster(jobs.cluster))


def _use_tenants(request: TenantsRequest) -> None:
    dump_json(run_tenants(request, budget()).to_json())


def _with_transport(path: Path) -> Cluster:
    return with_profile(shipped(_SERVERS), path)


def _plan(path: Path) -> JobPlan:
    return read_plan(path, model_of(), shipped(_SERVERS))


def _torchrec(path: Path) -> JobPlan:
    return read_torchrec(path, model_of(), None, shipped(_SERVERS))


def _plans(torchrec: bool) -> Seeds:
    def seeds() -> list[bytes]:
        tables = (
            TablePlan("row_wise"),
            TablePlan("table_wise", (6,), (64,)),
            TablePlan("table_wise", (1, 5), (32, 32)),
            TablePlan("data_parallel"),
            TablePlan("row_wise"),
        )
        plan = JobPlan(8, 65_536, tables)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "plan.json" if torchrec else "plan.toml")
            if torchrec:
                write_torchrec(path, plan, model_of(), np.zeros(8, dtype=np.int64))
            else:
                write_plan(path, plan, model_of(), shipped(_SERVERS))
            return [path.read_bytes()]

    return seeds


def _use_plan(plan: JobPlan) -> None:
    job = Job.of_model(model_of())
    projected(job, _SERVERS, plan.gpus, strategies=plan.strategies, composed=plan.composed(model_of()))


def _importer(option: str) -> Callable[[Path], Cluster]:
    def read(path: Path) -> Cluster:
        inputs: dict[str, Any] = {option: path}
        out = path.with_name("imported.toml")
        for earlier in (out, out.with_suffix(".graphml")):
            earlier.unlink(missing_ok=True)
        return run_import(ImportRequest(out, **inputs)).cluster

    return read


@lru_cache
def _samples() -> dict[str, tuple[str, str]]:
    return imported.samples()


def _sample(name: str) -> Seeds:
    return lambda: [_samples()[name][1].encode()]


def _use_device(gpu: Gpu) -> None:
    projected(Job.of_model(load_model("deepfm_ml100k")), on=shipped().with_gpu(gpu))


def _use_faults(scenario: Scenario) -> None:
    model = load_model("deepfm_ml100k")
    projected(Job.of_model(model), _FAULTY, 8, strategies=("table_wise",), scenario=scenario)


_IDS = b"""
[[tables]]
name = "C1"
rows = 5000
ids = 1.0
skew = 1.1
offset = 2.5
[[tables]]
name = "C2"
rows = 300
ids = 2.0
skew = 0.5
offset = 7.0
"""
_PINNED = b"""
[[tables]]
name = "t0"
strategy = "column_wise"
parts = 4
[[tables]]
table = 3
strategy = "data_parallel"
"""
_PRICES = b'schema_version = 1\ngpu = "2.50 $/h"\nsource = "offer of 3 March"\n'
_DEVICE = b"""
[gpu]
name = "ours"
flops = {fp32 = "19.5 TFLOP/s", bf16 = "312 TFLOP/s"}
efficiency_flops = {fp32 = 0.76, bf16 = 0.87}
memory_bandwidth = "2039 GB/s"
efficiency_memory = 0.9
memory = "80 GB"
launch_overhead = "5 us"
source = "here"
[gpu.kernels]
processors = 108
tile = 128
floor = "2 us"
graph_launch = "0.5 us"
gather = [["64 B", 0.43], ["256 B", 0.77]]
pool = [["64 B", 0.43], ["256 B", 0.77]]
scatter = [["64 B", 0.27], ["256 B", 0.49]]
"""
_TENANTS = b"""
cluster = "lab/switch_6"
[[job]]
name = "ranker"
model = "deepfm_ml100k"
strategy = "des_reduce_scatter"
gpus = 2
placement = "spread"
steps = 10
[[job]]
name = "late"
model = "fm"
strategy = "table_wise"
placement = [1, 3]
arrival = "1 ms"
steps = 4
batch_per_worker = 64
"""

FORMATS = (
    Format(
        "topology",
        ".toml",
        mutated_toml,
        files("topologies/lab/*.toml", "topologies/*.toml"),
        load_cluster,
        _use_cluster,
        use_every=16,
    ),
    Format(
        "device",
        ".toml",
        mutated_toml,
        lambda: [_DEVICE],
        lambda path: load_device(str(path)),
        _use_device,
        use_every=16,
    ),
    Format("transport", ".toml", mutated_toml, files("tests/golden/inputs/*.toml"), _with_transport, _collective_on),
    Format(
        "model",
        ".toml",
        mutated_toml,
        files(*(f"dessim/workload/models/{name}.toml" for name in _MODELS)),
        load_model,
        _use_model,
        use_every=16,
    ),
    Format(
        "ids",
        ".toml",
        mutated_toml,
        lambda: [_IDS],
        lambda path: model_with_ids("criteo_kaggle", path),
        _use_model,
        use_every=16,
    ),
    Format("plan", ".toml", mutated_toml, _plans(torchrec=False), _plan, _use_plan, use_every=16),
    Format("torchrec_plan", ".json", mutated_json, _plans(torchrec=True), _torchrec, _use_plan, use_every=16),
    Format("pinned", ".toml", mutated_toml, lambda: [_PINNED], lambda path: load_pinned(path, model_of())),
    Format(
        "prices", ".toml", mutated_toml, lambda: [_PRICES], load_prices, lambda prices: prices.of(shipped(_SERVERS), 12)
    ),
    Format("tenants", ".toml", mutated_toml, lambda: [_TENANTS], _tenants, _use_tenants, use_every=16),
    Format(
        "faults",
        ".toml",
        mutated_toml,
        files("docs/faults/*.toml"),
        lambda path: load_faults(path, shipped(_FAULTY)),
        _use_faults,
        use_every=16,
    ),
    *(
        Format(f"import_{name}", ".txt", mutated_lines, _sample(name), _importer(option), _use_cluster)
        for name, option in (
            ("ibnetdiscover", "fabric"),
            ("nccl", "node"),
            ("nvidia-smi", "node"),
            ("slurm", "fabric"),
            ("graphml", "fabric"),
            ("infragraph", "fabric"),
        )
    ),
)
