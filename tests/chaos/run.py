"""`make chaos`: strikes trainings of every strategy at random moments, and resumes them until they end.

    python -m tests.chaos.run                       100 faults
    python -m tests.chaos.run --kills 20 --seed 7 --strategy ps_sync,mesh
    python -m tests.chaos.run --without-namespace   only faults that need no root

A training is struck, ends or outlasts the fault, and is started again with --resume, until it has taken all its steps;
then its parameters and its epoch log are compared with those of a run that nothing disturbed. The next strategy
follows. After each fault

- every rank has ended by itself, but for those that were killed, within --timeout and some seconds;
- each rank that failed has said why in one line, without a traceback;
- every checkpoint with a final name is whole, and no process is left.

ps_async keeps no checkpoints, and is started from the beginning. Root gives the program a network namespace, in which
it breaks connections and takes the network down, and a small file system for checkpoints. Exits 3 if a check fails.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.chaos.faults import EVERYWHERE, IN_A_NAMESPACE, Strike
from tests.chaos.lives import NO_CHECKPOINTS, Life, Wrong, subreaper

INSIDE = "DESSIM_CHAOS_NAMESPACE"
TAKEN_PORT = "another program at the port"
STEPS = 30
DISK = "2m"
_VARIANTS = ("row_all_to_all+hot_rows=20", "ps_sync+hot_rows=20+look_ahead", "row_all_gather+cache_rows=600")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="make chaos", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--kills", type=int, default=100, help="number of faults (default: 100)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--strategy", default="", help="strategies, separated by commas (default: all)")
    parser.add_argument("--timeout", type=float, default=6.0, help="--timeout of the ranks in seconds (default: 6)")
    parser.add_argument("--without-namespace", action="store_true", help="only faults that need no root")
    arguments = parser.parse_args(argv)
    has_root = os.geteuid() == 0 and not arguments.without_namespace
    if has_root and INSIDE not in os.environ:
        return _in_namespace(sys.argv[1:] if argv is None else list(argv))
    if not has_root:
        print("without a network namespace: connections and the network stay whole", flush=True)
    from des_ref.strategies import STRATEGIES

    strategies = arguments.strategy.split(",") if arguments.strategy else [*STRATEGIES, *_VARIANTS]
    faults = {TAKEN_PORT: None, **EVERYWHERE, **(IN_A_NAMESPACE if has_root else {})}
    with tempfile.TemporaryDirectory(prefix="chaos-") as work:
        return strike(Path(work), strategies, faults, arguments.kills, arguments.seed, arguments.timeout)


def _in_namespace(words: Sequence[str]) -> int:
    """Run this program in a new network namespace, in which only the loopback device is up."""
    inner = [sys.executable, "-m", "tests.chaos.run", *words]
    command = ["unshare", "--net", "--mount", "sh", "-c", 'ip link set lo up && exec "$@"', "sh", *inner]
    return subprocess.run(command, env=os.environ | {INSIDE: "1", "GLOO_SOCKET_IFNAME": "lo"}).returncode


def strike(
    work: Path, strategies: Sequence[str], faults: Mapping[str, Strike | None], kills: int, seed: int, timeout: float
) -> int:
    """Strike `kills` times; print a line for each fault, and the totals. Returns the exit code.

    A fault of None is another program at the port of the rendezvous.
    """
    rng = random.Random(seed)
    subreaper()
    struck: Counter[str] = Counter()
    ends: Counter[str] = Counter()
    problems: list[str] = []
    started = time.monotonic()
    lives = 0
    order: list[str] = []
    while struck.total() < kills:
        strategy = strategies[lives % len(strategies)]
        folder = work / f"{lives:03d}"
        life = Life(
            folder,
            strategy,
            ranks=rng.choice((2, 3) if strategy == NO_CHECKPOINTS else (2, 2, 2, 4)),
            steps=STEPS,
            timeout=timeout,
            disk=_disk(folder),
        )
        lives += 1
        kind = "start"
        try:
            while struck.total() < kills and not life.has_finished:
                if not order:
                    order = rng.sample(sorted(faults), len(faults))
                kind = order.pop()
                fault = faults[kind]
                end = life.meet_at_a_taken_port() if fault is None else life.strike(fault, rng)
                struck[kind] += 1
                ends[end] += 1
                print(f"{struck.total():4d}  {strategy:34s} {kind:32s} {end}", flush=True)
            print(f"      {strategy:34s} {life.finish()}", flush=True)
        except Wrong as problem:
            problems.append(f"{strategy}, {kind}: {problem}")
            struck["a check failed"] += 1
            print(f"WRONG {problems[-1]}", flush=True)
        finally:
            life.clean()
            shutil.rmtree(folder, ignore_errors=True)
    for kind, count in sorted(struck.items()):
        print(f"{count:4d}  {kind}")
    good = struck.total() - len(problems)
    print(f"{good} of {struck.total()} faults, {lives} trainings, {time.monotonic() - started:.0f} s: {dict(ends)}")
    return 3 if problems else 0


def _disk(folder: Path) -> Path:
    """The folder of the checkpoints: a small file system, where this program may mount one."""
    disk = folder / "disk"
    disk.mkdir(parents=True)
    if INSIDE in os.environ:
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", str(disk)], check=True)
    return disk


if __name__ == "__main__":
    sys.exit(main())
