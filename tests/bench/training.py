"""Samples a second of every strategy, of plain torch and of TorchRec, in one run on this machine.

    python tests/bench/training.py                       # all of it, a few minutes; writes docs/training_speed.md
    python tests/bench/training.py --model fm --only des # writes nothing
    python tests/bench/training.py --profile des_all_reduce --model fm --ranks 1   # where its time goes

Contenders of a model and a number of ranks take turns in the same processes, ROUNDS times STEPS steps each, one core a
process; what is told is the median round. Absolute numbers on a shared machine mean little: read the ratios.
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
FIELDS, WIDTH, VOCABULARY, SKEW, RATE = 39, 16, 1e6, 1.05, 0.05
BATCH, BATCHES, WARM_UP, STEPS, ROUNDS = 4096, 24, 24, 16, 5
PATIENCE_S = 300.0  # of servers
BEGIN = "<!-- begin: written by tests/bench/training.py -->"
OPERATORS: dict[str, list[dict[str, Any]]] = {
    "fm": [{"kind": "lr"}, {"kind": "fm"}],
    "deepfm": [{"kind": "lr"}, {"kind": "fm"}, {"kind": "mlp", "widths": [400, 400, 400]}],
}
DES = ("des_all_reduce", "des_reduce_scatter")
PLAIN, TORCHREC, SERVED = "plain nn.EmbeddingBag", "TorchRec table-wise", "ps_async"


Maker = Callable[[list[Batch], Comm], contenders.Step]


def model_of(name: str, placement: str = "hash") -> Model:
    """One id of each of Criteo's 39 fields, as most click data have."""
    data = {"fields": FIELDS, "ids_per_sample": FIELDS, "vocabulary": VOCABULARY, "skew": SKEW}
    raw = {"schema_version": 1, "name": name, "input": data, "embedding": {}}
    raw["embedding"] = {"width": WIDTH, "pooling": "sum", "placement": placement}
    return parse_model(raw | {"operators": OPERATORS[name]}, name)


def draw() -> list[Batch]:
    """The global batches that all train on."""
    examples = Zipf(FIELDS, vocabulary=VOCABULARY, skew=SKEW).examples(BATCH * BATCHES)
    return [examples.take(torch.arange(BATCH) + i * BATCH) for i in range(BATCHES)]


def field_of(name: str, ranks: int, only: str) -> dict[str, Maker]:
    """Who takes turns at a model, by name."""
    model, fields = model_of(name), model_of(name, "field")

    def ours(strategy: str, rows: Any, model: Model = model, ahead: bool = False) -> Maker:
        return lambda batches, comm: contenders.strategy(strategy, model, rows, batches, comm, ahead)

    if ranks == 1:
        found = {
            PLAIN: lambda batches, comm: contenders.plain(model, RATE, batches),
            "des_all_reduce": ours("des_all_reduce", Adagrad(RATE)),
        }
    else:
        rows = RowAdagrad(RATE)
        found = {s: ours(s, rows) for s in STRATEGIES if s != SERVED}
        found |= {f"{s}, pipelined": ours(s, rows, ahead=True) for s in DES}
        found |= {f"{s}, whole fields": ours(s, rows, fields) for s in DES}
        if not torchrec_peer.why_not():
            found[TORCHREC] = lambda batches, comm: contenders.torchrec(model, rows, batches, comm)
    return {who: make for who, make in found.items() if only in who}


def race(comm: Comm, name: str, only: str) -> dict[str, list[float]]:
    """Samples a second of each round."""
    batches = draw()
    return rounds(comm, {who: make(batches, comm) for who, make in field_of(name, comm.world_size, only).items()})


def served(comm: Comm, name: str) -> dict[str, list[float]]:
    """The same of the asynchronous servers: the last process is one."""
    comm = comm.apart(1, PATIENCE_S)
    if comm.rank == comm.world_size:
        contenders.serve(model_of(name), RowAdagrad(RATE), comm)
        return {}
    strategy, step = contenders.of_strategy(SERVED, model_of(name), RowAdagrad(RATE), draw(), comm)
    found = rounds(comm, {f"{SERVED}, one process more": step})
    strategy.close()
    return found


def rounds(comm: Comm, steps: dict[str, contenders.Step]) -> dict[str, list[float]]:
    """Samples a second of each contender in each round."""
    found: dict[str, list[float]] = {who: [] for who in steps}
    for step in steps.values():
        for number in range(WARM_UP):
            step(number % BATCHES)
    for turn in range(ROUNDS):
        for who, step in steps.items():
            comm.barrier()
            start = time.perf_counter()
            for number in range(STEPS):
                step((turn * STEPS + number) % BATCHES)
            comm.barrier()
            found[who].append(STEPS * BATCH / (time.perf_counter() - start))
    return found


def run(name: str, ranks: int, only: str = "") -> dict[str, list[float]]:
    """`race` on so many processes; what rank 0 read."""
    with tempfile.TemporaryDirectory() as folder:
        speeds = on_ranks(ranks, Path(folder), functools.partial(race, name=name, only=only), limit_s=900)[0]
    if ranks > 1 and only in SERVED:
        with tempfile.TemporaryDirectory() as folder:
            speeds |= on_ranks(ranks + 1, Path(folder), functools.partial(served, name=name), limit_s=900)[0]
    return speeds


def table(name: str, ranks: int, speeds: dict[str, list[float]], beside: str) -> str:
    """Markdown, the fastest first; the ratio is to `beside`."""
    ours = statistics.median(speeds[beside]) if beside in speeds else None
    title = f"{name}, {ranks} {'ranks' if ranks > 1 else 'process'}"
    lines = [f"| {title} | samples/s, median | least to most | to {beside} |", "|---|---|---|---|"]
    for who in sorted(speeds, key=lambda w: -statistics.median(speeds[w])):
        rounds, middle = speeds[who], statistics.median(speeds[who])
        ratio = f"{middle / ours:.2f}" if ours else "-"
        lines.append(f"| {who} | {middle:,.0f} | {min(rounds):,.0f} to {max(rounds):,.0f} | {ratio} |")
    return "\n".join(lines)


def profile(name: str, ranks: int, who: str) -> str:
    """The operators of torch that take most of a contender's time, on rank 0."""
    with tempfile.TemporaryDirectory() as folder:
        return str(on_ranks(ranks, Path(folder), functools.partial(_profiled, name=name, who=who), limit_s=900)[0])


def _profiled(comm: Comm, name: str, who: str) -> str:
    batches = draw()
    step = field_of(name, comm.world_size, "")[who](batches, comm)
    for number in range(WARM_UP):
        step(number % BATCHES)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as watched:
        for number in range(STEPS):
            step(number % BATCHES)
    return watched.key_averages().table(sort_by="self_cpu_time_total", row_limit=30, max_name_column_width=60)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", choices=tuple(OPERATORS), help="one of them; default: all")
    parser.add_argument("--ranks", type=int, choices=(1, 2), help="default: both")
    parser.add_argument("--only", default="", help="contenders whose name contains this; writes nothing")
    parser.add_argument("--profile", metavar="CONTENDER", help="where the time of one goes")
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
        about = f"{cpu_name()}, one core a process of {os.cpu_count()}; torch {torch.__version__}; batch {BATCH:,}."
        write_text(PAGE, with_tables(PAGE.read_text(), "\n\n".join([*parts, about]), BEGIN))
    return 0


if __name__ == "__main__":
    sys.exit(main())
