"""`make kills`: training that is killed at random moments, again and again, and goes on to the same parameters.

    python tests/bench/kills.py                          # 25 kills on 2 ranks, 25 on 4, then 2 -> 4 -> 1 ranks
    python tests/bench/kills.py --ranks 2 --kills 50 --seed 7 --strategy table_wise

A run in float64 that nobody disturbs, and the same run with SIGKILLs: of one rank or of all, in three of ten cases
while it starts, else when its newest checkpoint is of a random step, plus a random moment. After each kill the ranks
that are left must end by themselves, every checkpoint that has its name must be whole, and the run is started again
with --resume. At the end its last checkpoint and its epoch log are compared with those of the undisturbed run, and
nothing half-written may be left. Exits 3 when something is not as it should be.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402
from torch import Tensor  # noqa: E402

from des_ref.checkpoint import folder as checkpoints  # noqa: E402
from des_ref.checkpoint.files import read_dense, read_rows  # noqa: E402
from tests.bench.trainers import Run  # noqa: E402

CLOSE = 1e-12
SILENCE_S = 20.0  # that ranks bear
LIMIT_S = 120.0  # of a run, or of its end
MODEL = """
schema_version = 1
name = "killed"
[input]
fields = 6
ids_per_sample = 9.0
vocabulary = 5000
[embedding]
width = 8
[[operators]]
kind = "lr"
[[operators]]
kind = "fm"
[[operators]]
kind = "mlp"
widths = [16, 8]
dropout = 0.2
"""
SETTINGS = """
model = "{model}"
strategy = "{strategy}"
dtype = "float64"
timeout_s = {silence}
[data]
source = "synthetic"
samples = 4000
[training]
batch = 64
epochs = 1000
patience = 1000
[checkpoint]
every = {every}
keep = 3
"""


@dataclass(frozen=True)
class Case:
    """What is trained: `steps` steps of a strategy, a checkpoint each `every`, in `folder`."""

    folder: Path
    strategy: str
    steps: int
    every: int

    def start(self, name: str, ranks: int, steps: int = 0, **environment: str) -> Run:
        """The run of this name, from the start or from where it is."""
        model, config = self.folder / "model.toml", self.folder / "run.toml"
        model.write_text(MODEL)
        config.write_text(SETTINGS.format(model=model, strategy=self.strategy, silence=SILENCE_S, every=self.every))
        kept = str(self.checkpoints(name))
        arguments = ["--config", str(config), "--device", "cpu", "--checkpoint", kept, "--resume"]
        arguments += ["--epoch-log", str(self.log(name)), "--steps", str(steps or self.steps)]
        return Run(ranks, arguments, self.folder / f"{name}.txt", environment)

    def whole(self, name: str, ranks: int, steps: int = 0) -> None:
        """The run of this name to its end. Raises RuntimeError with what it said when it fails."""
        if any(self.start(name, ranks, steps).wait(LIMIT_S)):
            raise RuntimeError((self.folder / f"{name}.txt").read_text())

    def checkpoints(self, name: str) -> Path:
        return self.folder / name

    def log(self, name: str) -> Path:
        return self.folder / f"{name}.jsonl"

    def newest(self, name: str) -> int:
        """The step of the newest checkpoint, 0 where there is none."""
        found = checkpoints.found(self.checkpoints(name))
        return int(found[0].name.rpartition("-")[2]) if found else 0


def kill_often(case: Case, name: str, ranks: int, kills: int, rng: random.Random) -> Counter[str]:
    """Run to the end through so many kills: how often which kind. Raises RuntimeError where something is wrong."""
    done: Counter[str] = Counter()
    for left in range(kills, 0, -1):
        before = case.newest(name)
        run, started = case.start(name, ranks), time.monotonic()
        whom = [rng.randrange(ranks)] if rng.random() < 0.5 else list(range(ranks))
        if rng.random() < 0.3:
            kind, moment = "while it starts", rng.uniform(0, 1)
        else:
            target = before + rng.randint(1, max((case.steps - before) // (left + 1), 1))
            while case.newest(name) < target and not run.is_over:
                if time.monotonic() - started > LIMIT_S:
                    raise RuntimeError(f"no checkpoint from step {target} on within {LIMIT_S:g} s")
                time.sleep(0.002)
            kind, moment = "while it trains", rng.uniform(0, 0.05)
        time.sleep(moment)
        if run.is_over:
            raise RuntimeError(f"ended before kill {kills - left + 1}: {(case.folder / f'{name}.txt').read_text()}")
        run.kill(whom)
        codes = run.wait(LIMIT_S)
        # The others end by themselves: with an error, or by having finished.
        if any(codes[rank] != -9 for rank in whom) or any(code not in (-9, 0, 1) for code in codes):
            raise RuntimeError(f"exit codes {codes} after killing ranks {whom}")
        for checkpoint in checkpoints.found(case.checkpoints(name)):
            checkpoints.check(checkpoint)
        done[f"{'all ranks' if len(whom) == ranks else 'one rank'} {kind}"] += 1
    case.whole(name, ranks)
    return done


def parameters(folder: Path) -> dict[str, Tensor]:
    """Everything in the newest checkpoint: rows by key, whoever has them, and the dense part."""
    newest = checkpoints.found(folder)[0]
    parts = [read_rows(newest / name) for name in checkpoints.check(newest)["files"] if name.startswith("rows-")]
    everything = dict(read_dense(newest))
    for group, lines in parts[0].items():
        order = torch.cat([part[group]["keys"] for part in parts]).argsort()
        everything |= {f"{group}/{name}": torch.cat([part[group][name] for part in parts])[order] for name in lines}
    return everything


def difference(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    """The largest in any element; infinite where not even names, keys and shapes agree."""
    if a.keys() != b.keys() or any(a[name].shape != b[name].shape for name in a):
        return float("inf")
    exact = [name for name in a if not a[name].is_floating_point()]
    if not all(torch.equal(a[name], b[name]) for name in exact):
        return float("inf")
    return max(float((a[name] - b[name]).abs().max()) for name in a if name not in exact and a[name].numel())


def leftovers(folder: Path) -> list[str]:
    """What is in the folder besides checkpoints."""
    return sorted({path.name for path in folder.iterdir()} - {path.name for path in checkpoints.found(folder)})


def compare(case: Case, name: str, against: str) -> list[str]:
    """What is wrong with one run, held against another; the figure goes to stdout."""
    gap = difference(parameters(case.checkpoints(name)), parameters(case.checkpoints(against)))
    logs = [[json.loads(line) for line in case.log(run).read_text().splitlines()] for run in (name, against)]
    say(f"  largest difference in {case.newest(name)} steps' parameters: {gap:.1e}")
    problems = [] if gap <= CLOSE else [f"{name}: parameters differ by {gap:.1e}"]
    if [line["epoch"] for line in logs[0]] != [line["epoch"] for line in logs[1]]:
        problems.append(f"{name}: the epoch log has other epochs")
    if max(abs(a["loss"] - b["loss"]) for a, b in zip(*logs, strict=False)) > CLOSE:
        problems.append(f"{name}: the epoch log has other losses")
    return problems + [f"{name}: {left} is left" for left in leftovers(case.checkpoints(name))]


def say(line: str) -> None:
    print(line, flush=True)  # noqa: T201


def main(argv: Sequence[str] | None = None) -> int:
    p = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    p.add_argument("--ranks", default="2,4", help="numbers of ranks (default: 2,4)")
    p.add_argument("--kills", type=int, default=25, help="on each (default: 25)")
    p.add_argument("--seed", type=int, default=0, help="of whom and when")
    p.add_argument("--strategy", default="des_all_reduce")
    p.add_argument("--steps", type=int, default=2000, help="of the run (default: 2000)")
    p.add_argument("--every", type=int, default=5, help="steps between checkpoints (default: 5)")
    args = p.parse_args(argv)
    problems: list[str] = []
    with tempfile.TemporaryDirectory() as work:
        case = Case(Path(work), args.strategy, args.steps, args.every)
        numbers = [int(ranks) for ranks in args.ranks.split(",")]
        for ranks in numbers:
            say(f"{ranks} ranks, {args.strategy}, {args.kills} kills in {args.steps} steps")
            start = time.monotonic()
            case.whole(f"undisturbed-{ranks}", ranks)
            alone = time.monotonic() - start
            done = kill_often(case, f"killed-{ranks}", ranks, args.kills, random.Random(args.seed * 1000 + ranks))
            say(f"  {', '.join(f'{n} of {kind}' for kind, n in sorted(done.items()))}")
            say(f"  {alone:.0f} s undisturbed, {time.monotonic() - start - alone:.0f} s with all kills")
            problems += compare(case, f"killed-{ranks}", f"undisturbed-{ranks}")
        say("2 -> 4 -> 1 ranks, a third of the steps on each")
        for third, ranks in enumerate((2, 4, 1), start=1):
            case.whole("resharded", ranks, args.steps * third // 3)
        problems += compare(case, "resharded", f"undisturbed-{numbers[0]}")
    for problem in problems:
        say(f"WRONG: {problem}")
    return 3 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
