"""Training that is killed at random moments, again and again, and goes on to the same parameters.

    python tests/bench/kills.py     # 25 kills on 2 ranks, 25 on 4, 3 under torchrun; writes the table of
                                    # docs/checkpoints.md
    python tests/bench/kills.py --ranks 2 --kills 50 --seed 7 --strategy table_wise

A run in float64 that nobody disturbs, and the same run with SIGKILLs: of one rank or of all, in three of ten cases
while it starts, else when its newest checkpoint is of a random step, plus a random moment. After each kill the ranks
that are left must end by themselves, every checkpoint that has its name must be whole, and the run is started again
with --resume. At the end its last checkpoint and its epoch log are compared with those of the undisturbed run, and
nothing half-written may be left. The same under `torchrun --max-restarts`, which starts all ranks again by itself when
one is killed, and for a run that is moved from 2 ranks to 4 and to 1. Exits 3 when something is not as it should be.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402
from torch import Tensor  # noqa: E402

from des_ref.checkpoint import folder as checkpoints  # noqa: E402
from des_ref.checkpoint.files import read_dense, read_rows  # noqa: E402
from dessim.files import write_text  # noqa: E402
from tests.bench.tables import with_tables  # noqa: E402
from tests.bench.trainers import Run  # noqa: E402

PAGE = ROOT / "docs" / "checkpoints.md"
BEGIN = "<!-- begin: written by tests/bench/kills.py -->"

CLOSE = 1e-12
SILENCE_S = 20.0  # that ranks bear
LIMIT_S = 120.0  # of a run, or of its end
LOOK_S = 0.002
UNDER_TORCHRUN = 3  # kills
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

    def start(self, name: str, ranks: int, steps: int = 0) -> Run:
        """The run of this name, from the start or from where it is."""
        return Run(ranks, self.arguments(name, steps), self.said(name))

    def arguments(self, name: str, steps: int = 0) -> list[str]:
        """Of the trainer, for the run of this name."""
        model, config = self.folder / "model.toml", self.folder / "run.toml"
        model.write_text(MODEL)
        config.write_text(SETTINGS.format(model=model, strategy=self.strategy, silence=SILENCE_S, every=self.every))
        kept = str(self.checkpoints(name))
        arguments = ["--config", str(config), "--device", "cpu", "--checkpoint", kept, "--resume"]
        return [*arguments, "--epoch-log", str(self.log(name)), "--steps", str(steps or self.steps)]

    def whole(self, name: str, ranks: int, steps: int = 0) -> None:
        """The run of this name to its end. Raises RuntimeError with what it said when it fails."""
        if any(self.start(name, ranks, steps).wait(LIMIT_S)):
            raise RuntimeError(self.said(name).read_text())

    def checkpoints(self, name: str) -> Path:
        return self.folder / name

    def said(self, name: str) -> Path:
        return self.folder / f"{name}.txt"

    def log(self, name: str) -> Path:
        return self.folder / f"{name}.jsonl"

    def newest(self, name: str) -> int:
        """The step of the newest checkpoint, 0 where there is none."""
        found = checkpoints.newest_first(self.checkpoints(name))
        return int(found[0].name.rpartition("-")[2]) if found else 0


@dataclass(frozen=True)
class Outcome:
    """A run, who was killed in it, and the largest difference of its parameters from those of the undisturbed one."""

    run: str
    killed: str
    difference: float


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
                time.sleep(LOOK_S)
            kind, moment = "while it trains", rng.uniform(0, 0.05)
        time.sleep(moment)
        if run.is_over:
            raise RuntimeError(f"ended before kill {kills - left + 1}: {case.said(name).read_text()}")
        run.kill(whom)
        codes = run.wait(LIMIT_S)
        # The others end by themselves: with an error, or by having finished.
        if any(codes[rank] != -9 for rank in whom) or any(code not in (-9, 0, 1) for code in codes):
            raise RuntimeError(f"exit codes {codes} after killing ranks {whom}")
        for checkpoint in checkpoints.newest_first(case.checkpoints(name)):
            checkpoints.check(checkpoint)
        done[f"{'all ranks' if len(whom) == ranks else 'one rank'} {kind}"] += 1
    case.whole(name, ranks)
    return done


def kill_under_torchrun(case: Case, name: str, ranks: int, kills: int, rng: random.Random) -> int:
    """torchrun is started once and starts the ranks again by itself: its exit code."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
    command = [*launcher, f"--max-restarts={kills}", "-m", "des_ref.train", *case.arguments(name)]
    with case.said(name).open("w") as said, subprocess.Popen(command, cwd=ROOT, stdout=said, stderr=said) as torchrun:
        try:
            for kill in range(1, kills + 1):
                # Past where it was at the last kill: it has been started again and goes on.
                target = max(case.steps * kill // (kills + 1), case.newest(name) + 2 * case.every)
                deadline = time.monotonic() + LIMIT_S
                while case.newest(name) < target or not (ranks_now := children(torchrun.pid)):
                    if torchrun.poll() is not None or time.monotonic() > deadline:
                        raise RuntimeError(f"no kill {kill} under torchrun: {case.said(name).read_text()}")
                    time.sleep(LOOK_S)
                os.kill(rng.choice(ranks_now), signal.SIGKILL)
            return torchrun.wait(LIMIT_S)
        finally:
            torchrun.kill()


def children(parent: int) -> list[int]:
    """Processes of a process, in Linux."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # one that has ended meanwhile
            # The parent stands after the name, which may have anything in it, and the state.
            if int((folder / "stat").read_text().rpartition(")")[2].split()[1]) == parent:
                found.append(int(folder.name))
    return sorted(found)


def parameters(folder: Path) -> dict[str, Tensor]:
    """Everything in the newest checkpoint: rows by key, whoever has them, and the dense part."""
    newest = checkpoints.newest_first(folder)[0]
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
    return sorted({path.name for path in folder.iterdir()} - {path.name for path in checkpoints.newest_first(folder)})


def compare(case: Case, name: str, against: str) -> tuple[float, list[str]]:
    """The largest difference of one run from another, which goes to stdout too, and what is wrong."""
    gap = difference(parameters(case.checkpoints(name)), parameters(case.checkpoints(against)))
    logs = [[json.loads(line) for line in case.log(run).read_text().splitlines()] for run in (name, against)]
    say(f"  largest difference in {case.newest(name)} steps' parameters: {gap:.1e}")
    problems = [] if gap <= CLOSE else [f"{name}: parameters differ by {gap:.1e}"]
    if [line["epoch"] for line in logs[0]] != [line["epoch"] for line in logs[1]]:
        problems.append(f"{name}: the epoch log has other epochs")
    if max(abs(a["loss"] - b["loss"]) for a, b in zip(*logs, strict=False)) > CLOSE:
        problems.append(f"{name}: the epoch log has other losses")
    return gap, problems + [f"{name}: {left} is left" for left in leftovers(case.checkpoints(name))]


def say(line: str) -> None:
    print(line, flush=True)  # noqa: T201


def go(case: Case, numbers: Sequence[int], kills: int, seed: int) -> tuple[list[Outcome], list[str]]:
    """All runs: what came of them, and what is not as it should be."""
    outcomes, problems = [], []
    for ranks in numbers:
        say(f"{ranks} ranks, {case.strategy}, {kills} kills in {case.steps} steps")
        start = time.monotonic()
        case.whole(f"undisturbed-{ranks}", ranks)
        alone = time.monotonic() - start
        done = kill_often(case, f"killed-{ranks}", ranks, kills, random.Random(seed * 1000 + ranks))
        took = time.monotonic() - start - alone
        say(f"  {alone:.0f} s undisturbed, {took:.0f} s with all kills")
        gap, wrong = compare(case, f"killed-{ranks}", f"undisturbed-{ranks}")
        how = ", ".join(f"{n} of {kind}" for kind, n in sorted(done.items()))
        outcomes.append(Outcome(f"{ranks} ranks, {kills} kills", how, gap))
        problems += wrong
    ranks = numbers[0]
    say(f"torchrun --max-restarts={UNDER_TORCHRUN}, one of {ranks} ranks killed as often")
    code = kill_under_torchrun(case, "torchrun", ranks, UNDER_TORCHRUN, random.Random(seed))
    gap, wrong = compare(case, "torchrun", f"undisturbed-{ranks}")
    how = "one of the ranks, which torchrun starts again by itself"
    outcomes.append(Outcome(f"`torchrun --max-restarts={UNDER_TORCHRUN}`, {ranks} ranks", how, gap))
    problems += wrong if code == 0 else [*wrong, f"torchrun: exit code {code}"]
    say("2 -> 4 -> 1 ranks, a third of the steps on each")
    for third, ranks in enumerate((2, 4, 1), start=1):
        case.whole("resharded", ranks, case.steps * third // 3)
    gap, wrong = compare(case, "resharded", f"undisturbed-{numbers[0]}")
    outcomes.append(Outcome("2, then 4, then 1 ranks", "none; a third of the steps on each", gap))
    return outcomes, problems + wrong


def markdown(outcomes: Sequence[Outcome], case: Case) -> str:
    """The table."""
    lines = ["| run | killed | largest difference of any parameter |", "|---|---|---:|"]
    lines += [f"| {o.run} | {o.killed} | {o.difference:.1e} |" for o in outcomes]
    about = (
        f"{case.strategy}, {case.steps:,} steps, a checkpoint every {case.every}; float64, torch {torch.__version__}."
    )
    return "\n".join(lines) + f"\n\n{about}"


def main(argv: Sequence[str] | None = None) -> int:
    p = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    p.add_argument("--ranks", default="2,4", help="numbers of ranks (default: 2,4)")
    p.add_argument("--kills", type=int, default=25, help="on each (default: 25)")
    p.add_argument("--seed", type=int, default=0, help="of whom and when")
    p.add_argument("--strategy", default="des_all_reduce")
    p.add_argument("--steps", type=int, default=2000, help="of the run (default: 2000)")
    p.add_argument("--every", type=int, default=5, help="steps between checkpoints (default: 5)")
    args = p.parse_args(argv)
    with tempfile.TemporaryDirectory() as work:
        case = Case(Path(work), args.strategy, args.steps, args.every)
        outcomes, problems = go(case, [int(ranks) for ranks in args.ranks.split(",")], args.kills, args.seed)
    if args == p.parse_args([]):
        write_text(PAGE, with_tables(PAGE.read_text(), markdown(outcomes, case), BEGIN))
    for problem in problems:
        say(f"WRONG: {problem}")
    return 3 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
