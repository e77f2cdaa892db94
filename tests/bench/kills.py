"""Kill a training at random moments, resume it, and compare its parameters with an uninterrupted run.

    python tests/bench/kills.py     # 25 kills on 2 ranks, 25 on 4, 3 under torchrun; writes the table of
                                    # docs/checkpoints.md
    python tests/bench/kills.py --ranks 2 --kills 50 --seed 7 --strategy table_wise

One run in float64 is left alone. The same run is then repeated with SIGKILLs of one rank or of all: in three of ten
cases while it starts, otherwise a random moment after its newest checkpoint has reached a random step. After each kill
the surviving ranks must end by themselves, every checkpoint with a final name must be complete, and the run is started
again with --resume. At the end its last checkpoint and its epoch log are compared with those of the uninterrupted run,
and no partly written file may remain. The test is repeated under `torchrun --max-restarts`, which restarts all ranks
when one is killed, and with a run that moves from 2 ranks to 4 and to 1. Exits 3 when a check fails.
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

TOLERANCE = 1e-12
SILENCE_S = 20.0  # the ranks' timeout_s: how long a peer may be silent
LIMIT_S = 120.0  # longest run, and longest wait for its end
POLL_S = 0.01
TORCHRUN_KILLS = 3
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
    """A training of `steps` steps of a strategy, with a checkpoint each `every` steps, in `folder`.

    `silence` are the seconds that a rank waits for a silent peer.
    """

    folder: Path
    strategy: str
    steps: int
    every: int
    silence: float = SILENCE_S

    def start(self, name: str, ranks: int, steps: int = 0) -> Run:
        """Start the run of this name, or resume it from its newest checkpoint."""
        return Run(ranks, self.arguments(name, steps), self.output(name))

    def arguments(self, name: str, steps: int = 0) -> list[str]:
        """Return the trainer's arguments for the run of this name; writes its model and settings files."""
        model = self.folder / "model.toml"
        config = self.folder / "run.toml"
        model.write_text(MODEL)
        config.write_text(SETTINGS.format(model=model, strategy=self.strategy, silence=self.silence, every=self.every))
        folder = str(self.checkpoints(name))
        arguments = ["--config", str(config), "--device", "cpu", "--checkpoint", folder, "--resume"]
        return [*arguments, "--epoch-log", str(self.log(name)), "--steps", str(steps or self.steps)]

    def finish(self, name: str, ranks: int, steps: int = 0) -> None:
        """Run to the end. Raises RuntimeError with the run's output when it fails."""
        if any(self.start(name, ranks, steps).wait(LIMIT_S)):
            raise RuntimeError(self.output(name).read_text())

    def checkpoints(self, name: str) -> Path:
        return self.folder / name

    def output(self, name: str) -> Path:
        return self.folder / f"{name}.txt"

    def log(self, name: str) -> Path:
        return self.folder / f"{name}.jsonl"

    def newest(self, name: str) -> int:
        """Return the step of the newest checkpoint, 0 if there is none."""
        kept = checkpoints.newest_first(self.checkpoints(name))
        return int(kept[0].name.rpartition("-")[2]) if kept else 0


@dataclass(frozen=True)
class Outcome:
    """A run, the ranks killed in it, and the largest difference of its parameters from the uninterrupted run's."""

    run: str
    killed: str
    difference: float


def kill_often(case: Case, name: str, ranks: int, kills: int, rng: random.Random) -> Counter[str]:
    """Run to the end through `kills` kills; count the kinds of kill. Raises RuntimeError when a check fails."""
    kinds: Counter[str] = Counter()
    for left in range(kills, 0, -1):
        before = case.newest(name)
        run = case.start(name, ranks)
        started = time.monotonic()
        killed = [rng.randrange(ranks)] if rng.random() < 0.5 else list(range(ranks))
        if rng.random() < 0.3:
            kind = "while it starts"
            delay_s = rng.uniform(0, 1)
        else:
            target = before + rng.randint(1, max((case.steps - before) // (left + 1), 1))
            while case.newest(name) < target and not run.has_ended:
                if time.monotonic() - started > LIMIT_S:
                    raise RuntimeError(f"no checkpoint from step {target} on within {LIMIT_S:g} s")
                time.sleep(POLL_S)
            kind = "while it trains"
            delay_s = rng.uniform(0, 0.05)
        time.sleep(delay_s)
        if run.has_ended:
            raise RuntimeError(f"ended before kill {kills - left + 1}: {case.output(name).read_text()}")
        run.kill(killed)
        codes = run.wait(LIMIT_S)
        # The surviving ranks end by themselves: with an error, or because they have finished.
        if any(codes[rank] != -9 for rank in killed) or any(code not in (-9, 0, 1) for code in codes):
            raise RuntimeError(f"exit codes {codes} after killing ranks {killed}")
        for checkpoint in checkpoints.newest_first(case.checkpoints(name)):
            checkpoints.check(checkpoint)
        kinds[f"{'all ranks' if len(killed) == ranks else 'one rank'} {kind}"] += 1
    case.finish(name, ranks)
    return kinds


def kill_under_torchrun(case: Case, name: str, ranks: int, kills: int, rng: random.Random) -> int:
    """Kill ranks under one torchrun, which restarts them; return torchrun's exit code."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
    command = [*launcher, f"--max-restarts={kills}", "-m", "des_ref.train", *case.arguments(name)]
    with case.output(name).open("w") as log, subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log) as torchrun:
        try:
            for kill in range(1, kills + 1):
                # Beyond the step of the last kill, so that the restarted run has made progress.
                target = max(case.steps * kill // (kills + 1), case.newest(name) + 2 * case.every)
                deadline = time.monotonic() + LIMIT_S
                while case.newest(name) < target or not (ranks_now := children(torchrun.pid)):
                    if torchrun.poll() is not None or time.monotonic() > deadline:
                        raise RuntimeError(f"no kill {kill} under torchrun: {case.output(name).read_text()}")
                    time.sleep(POLL_S)
                os.kill(rng.choice(ranks_now), signal.SIGKILL)
            return torchrun.wait(LIMIT_S)
        finally:
            torchrun.kill()


def children(parent: int) -> list[int]:
    """Return the process ids of the children of a process, on Linux."""
    pids = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # the process has ended since the listing
            # The parent follows the state, which follows the name; the name may contain spaces and parentheses.
            if int((folder / "stat").read_text().rpartition(")")[2].split()[1]) == parent:
                pids.append(int(folder.name))
    return sorted(pids)


def parameters(folder: Path) -> dict[str, Tensor]:
    """Return the newest checkpoint: rows sorted by key over all ranks, and the dense parameters."""
    newest = checkpoints.newest_first(folder)[0]
    parts = [read_rows(newest / name) for name in checkpoints.check(newest)["files"] if name.startswith("rows-")]
    tensors = dict(read_dense(newest))
    for group, lines in parts[0].items():
        order = torch.cat([part[group]["keys"] for part in parts]).argsort()
        tensors |= {f"{group}/{name}": torch.cat([part[group][name] for part in parts])[order] for name in lines}
    return tensors


def difference(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    """Return the largest difference of any element; infinite if names, keys or shapes differ."""
    if a.keys() != b.keys() or any(a[name].shape != b[name].shape for name in a):
        return float("inf")
    exact = [name for name in a if not a[name].is_floating_point()]
    if not all(torch.equal(a[name], b[name]) for name in exact):
        return float("inf")
    return max(float((a[name] - b[name]).abs().max()) for name in a if name not in exact and a[name].numel())


def leftovers(folder: Path) -> list[str]:
    """Return the names of files in the folder that are no checkpoints."""
    return sorted({path.name for path in folder.iterdir()} - {path.name for path in checkpoints.newest_first(folder)})


def compare(case: Case, name: str, against: str) -> tuple[float, list[str]]:
    """Print and return the largest difference between two runs, and return the problems found."""
    gap = difference(parameters(case.checkpoints(name)), parameters(case.checkpoints(against)))
    logs = [[json.loads(line) for line in case.log(run).read_text().splitlines()] for run in (name, against)]
    say(f"  largest difference in {case.newest(name)} steps' parameters: {gap:.1e}")
    problems = [] if gap <= TOLERANCE else [f"{name}: parameters differ by {gap:.1e}"]
    if [line["epoch"] for line in logs[0]] != [line["epoch"] for line in logs[1]]:
        problems.append(f"{name}: the epoch logs list different epochs")
    if max(abs(a["loss"] - b["loss"]) for a, b in zip(*logs, strict=False)) > TOLERANCE:
        problems.append(f"{name}: the epoch logs differ in their losses")
    return gap, problems + [f"{name}: {left} remains" for left in leftovers(case.checkpoints(name))]


def say(line: str) -> None:
    print(line, flush=True)  # noqa: T201


def go(case: Case, numbers: Sequence[int], kills: int, seed: int) -> tuple[list[Outcome], list[str]]:
    """Make all runs; return their outcomes and the problems found."""
    outcomes = []
    problems = []
    for ranks in numbers:
        say(f"{ranks} ranks, {case.strategy}, {kills} kills in {case.steps} steps")
        start = time.monotonic()
        case.finish(f"uninterrupted-{ranks}", ranks)
        alone = time.monotonic() - start
        kinds = kill_often(case, f"killed-{ranks}", ranks, kills, random.Random(seed * 1000 + ranks))
        took = time.monotonic() - start - alone
        say(f"  {alone:.0f} s uninterrupted, {took:.0f} s with all kills")
        gap, wrong = compare(case, f"killed-{ranks}", f"uninterrupted-{ranks}")
        killed = ", ".join(f"{n} of {kind}" for kind, n in sorted(kinds.items()))
        outcomes.append(Outcome(f"{ranks} ranks, {kills} kills", killed, gap))
        problems += wrong
    ranks = numbers[0]
    say(f"torchrun --max-restarts={TORCHRUN_KILLS}, one of {ranks} ranks killed each time")
    code = kill_under_torchrun(case, "torchrun", ranks, TORCHRUN_KILLS, random.Random(seed))
    gap, wrong = compare(case, "torchrun", f"uninterrupted-{ranks}")
    killed = "one of the ranks, which torchrun starts again by itself"
    outcomes.append(Outcome(f"`torchrun --max-restarts={TORCHRUN_KILLS}`, {ranks} ranks", killed, gap))
    problems += wrong if code == 0 else [*wrong, f"torchrun: exit code {code}"]
    say("2 -> 4 -> 1 ranks, a third of the steps on each")
    for third, ranks in enumerate((2, 4, 1), start=1):
        case.finish("resharded", ranks, case.steps * third // 3)
    gap, wrong = compare(case, "resharded", f"uninterrupted-{numbers[0]}")
    outcomes.append(Outcome("2, then 4, then 1 ranks", "none; a third of the steps on each", gap))
    return outcomes, problems + wrong


def markdown(outcomes: Sequence[Outcome], case: Case) -> str:
    """Return the table in Markdown."""
    lines = ["| run | killed | largest difference of any parameter |", "|---|---|---:|"]
    lines += [f"| {o.run} | {o.killed} | {o.difference:.1e} |" for o in outcomes]
    caption = (
        f"{case.strategy}, {case.steps:,} steps, a checkpoint every {case.every}; float64, torch {torch.__version__}."
    )
    return "\n".join(lines) + f"\n\n{caption}"


def main(argv: Sequence[str] | None = None) -> int:
    p = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    p.add_argument("--ranks", default="2,4", help="numbers of ranks (default: 2,4)")
    p.add_argument("--kills", type=int, default=25, help="kills per number of ranks (default: 25)")
    p.add_argument("--seed", type=int, default=0, help="seed for the choice of ranks and moments")
    p.add_argument("--strategy", default="des_all_reduce")
    p.add_argument("--steps", type=int, default=2000, help="steps of the run (default: 2000)")
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
