"""Measure samples per second of every strategy, of plain torch and of TorchRec, in one run on this machine.

    python tests/bench/training.py                       # everything, a few minutes; writes docs/training_speed.md
    python tests/bench/training.py --model fm --only des # writes nothing
    python tests/bench/training.py --profile des_all_reduce --model fm --ranks 1   # where the time goes

Contenders of a model and a number of ranks take turns in the same processes, ROUNDS times STEPS steps each, one core
per process; the result is the median round. Absolute numbers on a shared machine mean little: read the ratios.
"""

from __future__ import annotations

import argparse
import functools
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402

from des_ref.comm import Comm  # noqa: E402
from des_ref.data.batch import Batch  # noqa: E402
from des_ref.data.synthetic import Zipf  # noqa: E402
from des_ref.embedding.optim import Adagrad, RowAdagrad  # noqa: E402
from des_ref.strategies import STRATEGIES  # noqa: E402
from dessim.files import write_text  # noqa: E402
from dessim.workload.model import Model, parse_model  # noqa: E402
from tests.bench import contenders  # noqa: E402
from tests.bench.measure import cpu_name  # noqa: E402
from tests.bench.tables import with_tables  # noqa: E402
from tests.des_ref import torchrec_peer  # noqa: E402
from tests.des_ref.ranks import on_ranks  # noqa: E402

PAGE = ROOT / "docs" / "training_speed.md"
FIELDS = 39
WIDTH = 16
VOCABULARY = 1e6
SKEW = 1.05
RATE = 0.05
BATCH = 4096
BATCHES = 24
WARM_UP = 24
STEPS = 16
ROUNDS = 5
SERVER_TIMEOUT_S = 300.0
BEGIN = "<!-- begin: written by tests/bench/training.py -->"
OPERATORS: dict[str, list[dict[str, Any]]] = {
    "fm": [{"kind": "lr"}, {"kind": "fm"}],
    "deepfm": [{"kind": "lr"}, {"kind": "fm"}, {"kind": "mlp", "widths": [400, 400, 400]}],
}
DES = ("des_all_reduce", "des_reduce_scatter")
PLAIN = "plain nn.EmbeddingBag"
TORCHREC = "TorchRec table-wise"
DEDICATED_SERVER = "ps_async"


Maker = Callable[[list[Batch], Comm], contenders.Step]


def model_of(name: str, placement: str = "hash") -> Model:
    """Return the model with one id for each of Criteo's 39 fields, as in most click data."""
    data = {"fields": FIELDS, "ids_per_sample": FIELDS, "vocabulary": VOCABULARY, "skew": SKEW}
    raw = {"schema_version": 1, "name": name, "input": data, "embedding": {}}
    raw["embedding"] = {"width": WIDTH, "pooling": "sum", "placement": placement}
    return parse_model(raw | {"operators": OPERATORS[name]}, name)


def draw() -> list[Batch]:
    """Draw the global batches that all contenders train on."""
    examples = Zipf(FIELDS, vocabulary=VOCABULARY, skew=SKEW).examples(BATCH * BATCHES)
    return [examples.take(torch.arange(BATCH) + i * BATCH) for i in range(BATCHES)]


def contenders_of(name: str, ranks: int, only: str) -> dict[str, Maker]:
    """Return the contenders for a model whose names contain `only`."""
    model = model_of(name)
    field_placed = model_of(name, placement="field")

    def ours(strategy: str, rows: Any, model: Model = model, ahead: bool = False) -> Maker:
        return lambda batches, comm: contenders.strategy(strategy, model, rows, batches, comm, ahead)

    if ranks == 1:
        makers = {
            PLAIN: lambda batches, comm: contenders.plain(model, RATE, batches),
            "des_all_reduce": ours("des_all_reduce", Adagrad(RATE)),
        }
    else:
        rows = RowAdagrad(RATE)
        makers = {s: ours(s, rows) for s in STRATEGIES if s != DEDICATED_SERVER}
        makers |= {f"{s}, pipelined": ours(s, rows, ahead=True) for s in DES}
        makers |= {f"{s}, whole fields": ours(s, rows, field_placed) for s in DES}
        if not torchrec_peer.why_not():
            makers[TORCHREC] = lambda batches, comm: contenders.torchrec(model, rows, batches, comm)
    return {contender: make for contender, make in makers.items() if only in contender}


def race(comm: Comm, name: str, only: str) -> dict[str, list[float]]:
    """Return samples per second of each contender in each round."""
    batches = draw()
    makers = contenders_of(name, comm.world_size, only)
    return rounds(comm, {contender: make(batches, comm) for contender, make in makers.items()})


def race_servers(comm: Comm, name: str) -> dict[str, list[float]]:
    """Return samples per second of the asynchronous server, which is the last process."""
    comm = comm.with_servers(1, SERVER_TIMEOUT_S)
    if comm.rank == comm.world_size:
        contenders.serve(model_of(name), RowAdagrad(RATE), comm)
        return {}
    strategy, step = contenders.build_strategy(DEDICATED_SERVER, model_of(name), RowAdagrad(RATE), draw(), comm)
    speeds = rounds(comm, {f"{DEDICATED_SERVER}, one process more": step})
    strategy.close()
    return speeds


def rounds(comm: Comm, steps: dict[str, contenders.Step]) -> dict[str, list[float]]:
    """Warm every contender up, then time it; return samples per second of each contender in each round."""
    speeds: dict[str, list[float]] = {contender: [] for contender in steps}
    for step in steps.values():
        for number in range(WARM_UP):
            step(number % BATCHES)
    for turn in range(ROUNDS):
        for contender, step in steps.items():
            comm.barrier()
            start = time.perf_counter()
            for number in range(STEPS):
                step((turn * STEPS + number) % BATCHES)
            comm.barrier()
            speeds[contender].append(STEPS * BATCH / (time.perf_counter() - start))
    return speeds


def run(name: str, ranks: int, only: str = "") -> dict[str, list[float]]:
    """Run `race` on `ranks` processes; return rank 0's result."""
    with tempfile.TemporaryDirectory() as folder:
        speeds = on_ranks(ranks, Path(folder), functools.partial(race, name=name, only=only), limit_s=900)[0]
    if ranks > 1 and only in DEDICATED_SERVER:
        with tempfile.TemporaryDirectory() as folder:
            speeds |= on_ranks(ranks + 1, Path(folder), functools.partial(race_servers, name=name), limit_s=900)[0]
    return speeds


def table(name: str, ranks: int, speeds: dict[str, list[float]], beside: str) -> str:
    """Return a Markdown table, fastest first; the last column is the ratio to `beside`."""
    reference = statistics.median(speeds[beside]) if beside in speeds else None
    title = f"{name}, {ranks} {'ranks' if ranks > 1 else 'process'}"
    lines = [f"| {title} | samples/s, median | least to most | to {beside} |", "|---|---|---|---|"]
    for contender in sorted(speeds, key=lambda name: -statistics.median(speeds[name])):
        rounds = speeds[contender]
        middle = statistics.median(rounds)
        ratio = f"{middle / reference:.2f}" if reference else "-"
        lines.append(f"| {contender} | {middle:,.0f} | {min(rounds):,.0f} to {max(rounds):,.0f} | {ratio} |")
    return "\n".join(lines)


def profile(name: str, ranks: int, contender: str) -> str:
    """Return torch's table of the operators that take most of a contender's time, on rank 0."""
    work = functools.partial(_profiled, name=name, contender=contender)
    with tempfile.TemporaryDirectory() as folder:
        return str(on_ranks(ranks, Path(folder), work, limit_s=900)[0])


def _profiled(comm: Comm, name: str, contender: str) -> str:
    batches = draw()
    step = contenders_of(name, comm.world_size, "")[contender](batches, comm)
    for number in range(WARM_UP):
        step(number % BATCHES)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
        for number in range(STEPS):
            step(number % BATCHES)
    return profiler.key_averages().table(sort_by="self_cpu_time_total", row_limit=30, max_name_column_width=60)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", choices=tuple(OPERATORS), help="one model (default: all)")
    parser.add_argument("--ranks", type=int, choices=(1, 2), help="number of ranks (default: both)")
    parser.add_argument("--only", default="", help="contenders whose name contains this; writes nothing")
    parser.add_argument("--profile", metavar="CONTENDER", help="profile one contender instead")
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    parts = []
    for ranks in (1, 2):
        for name in OPERATORS:
            if options.model in (None, name) and options.ranks in (None, ranks):
                if options.profile:
                    print(profile(name, ranks, options.profile))  # noqa: T201
                    continue
                speeds = run(name, ranks, options.only)
                parts.append(table(name, ranks, speeds, PLAIN if ranks == 1 else TORCHREC))
                print(f"{parts[-1]}\n", flush=True)  # noqa: T201
    if not (options.model or options.ranks or options.only or options.profile):
        caption = f"{cpu_name()}, one core a process of {os.cpu_count()}; torch {torch.__version__}; batch {BATCH:,}."
        write_text(PAGE, with_tables(PAGE.read_text(), "\n\n".join([*parts, caption]), BEGIN))
    return 0


if __name__ == "__main__":
    sys.exit(main())
