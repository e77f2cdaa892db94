"""`make fuzz`: mutates files of every format that users hand in; each must be read, or refused in one line.

    python -m tests.fuzz.run                        every format for 10 minutes
    python -m tests.fuzz.run topology plan --minutes 1
    python -m tests.fuzz.run --list                 the formats
    python -m tests.fuzz.run --engine plain --runs 100000

A finding is a traceback, more than 10 s, more than 2 GiB, or a message that is not one printable line. Its file is kept
in tests/fuzz/findings, where the tests read it again. The exit code is 3 if there are findings.

Hypothesis has a fifth of the time, and shrinks what it finds. The rest has atheris, which is guided by coverage; where
it is not installed, a plain mutator runs instead.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from tests.fuzz.catalogue import NAMES
from tests.fuzz.kept import FINDINGS, keep
from tests.fuzz.watch import LIMIT_S, Verdict

_SILENT_S = 12 * LIMIT_S
"""A process that has begun no other input for so long hangs in code that no signal interrupts."""
_START_S = 600.0
"""A process that has begun no input by then will not begin; a busy machine takes minutes over the imports."""
ENGINES = ("hypothesis", "atheris", "plain")
HYPOTHESIS_SHARE = 0.2


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="make fuzz", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("formats", nargs="*", help="formats to mutate (default: all)")
    parser.add_argument("--minutes", type=float, default=10, help="of each format (default: 10)")
    parser.add_argument("--runs", type=int, default=0, help="inputs of each format (default: no limit)")
    parser.add_argument("--engine", choices=("both", *ENGINES), default="both", help="default: hypothesis and atheris")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=FINDINGS, help="folder of findings (default: tests/fuzz/findings)")
    parser.add_argument("--totals", type=Path, help="also add the counts to this file of JSON lines")
    parser.add_argument("--list", action="store_true", help="print the formats")
    arguments = parser.parse_args(argv)
    if arguments.list:
        print("\n".join(NAMES))
        return 0
    if wrong := [name for name in arguments.formats if name not in NAMES]:
        parser.error(f"{wrong[0]!r} is no format; choose from {', '.join(NAMES)}")
    guided = "atheris" if importlib.util.find_spec("atheris") else "plain"
    if guided == "plain" and arguments.engine in ("both", "atheris"):
        print("atheris is not installed, or has no wheel for this Python: the plain mutator runs instead", flush=True)
    chosen = {"both": ("hypothesis", guided), "atheris": (guided,)}.get(arguments.engine, (arguments.engine,))
    total: Counter[str] = Counter()
    for name in arguments.formats or NAMES:
        for engine in chosen:
            share = 1.0 if len(chosen) == 1 else HYPOTHESIS_SHARE if engine == "hypothesis" else 1 - HYPOTHESIS_SHARE
            found = _fuzz(name, engine, 60 * arguments.minutes * share, round(arguments.runs * share), arguments)
            total += found
            print(_line(name, engine, found), flush=True)
            if arguments.totals:
                with arguments.totals.open("a") as file:
                    file.write(json.dumps({"format": name, "engine": engine, **found}) + "\n")
    print(_line("all", "", total))
    return 3 if total["findings"] else 0


def _line(name: str, engine: str, found: Counter[str]) -> str:
    rate = found["inputs"] / max(found["milliseconds"] / 1000, 1e-3)
    return (
        f"{name:22s} {engine:10s} {found['inputs']:9,} inputs  {found['read']:9,} read  {found['refused']:9,} refused  "
        f"{found['findings']:4d} findings  {rate:7.0f} /s"
    )


def _fuzz(name: str, engine: str, seconds: float, runs: int, arguments: argparse.Namespace) -> Counter[str]:
    """Fuzz a format in a dedicated process, and in another one where that process dies or hangs."""
    total: Counter[str] = Counter()
    known: set[tuple[str, str]] = set()
    ends = time.monotonic() + seconds
    attempt = 0
    while (left := ends - time.monotonic()) > 0 and (not runs or total["inputs"] < runs):
        with tempfile.TemporaryDirectory(prefix="fuzz-", dir=_in_memory()) as work:
            folder = Path(work)
            job = {
                "format": name,
                "engine": engine,
                "seconds": left,
                "runs": runs - total["inputs"] if runs else 0,
                "seed": arguments.seed + attempt,
                "known": sorted(known),
                "out": str(arguments.out),
            }
            died = _watched(folder, job)
            counts = folder / "counts.json"
            found = json.loads(counts.read_text()) if counts.is_file() else {"known": [], "counts": {}}
            known |= {(kind, where) for kind, where in found["known"]}
            total += Counter(found["counts"])
            if died:
                current = next(iter(sorted(folder.glob("input*"))), None)
                print(f"{name}: {died}", flush=True)
                if current is not None:
                    total["findings"] += 1
                    print(f"    {keep(arguments.out, name, current.read_bytes(), Verdict('died', died))}", flush=True)
                sys.stdout.write((folder / "log.txt").read_text("utf-8", "replace")[-2000:])
                if not found["counts"].get("inputs"):
                    break
        attempt += 1
    return total


def _in_memory() -> str | None:
    """The folder of a file system in memory: each input is written to a file."""
    return "/dev/shm" if Path("/dev/shm").is_dir() and shutil.disk_usage("/dev/shm").free > 1 << 26 else None


def _watched(folder: Path, job: dict[str, object]) -> str:
    """Run a child until it ends; say how it died, if it did."""
    (folder / "job.json").write_text(json.dumps(job))
    with (folder / "log.txt").open("w") as log:
        child = subprocess.Popen([sys.executable, "-m", "tests.fuzz.child", str(folder)], stdout=log, stderr=log)
    started = time.monotonic()
    beat = folder / "beat"
    try:
        while child.poll() is None:
            time.sleep(0.2)
            silent = time.time() - beat.stat().st_mtime if beat.exists() else 0.0
            if silent > _SILENT_S:
                return f"silent for {silent:.0f} s"
            if not beat.exists() and time.monotonic() - started > _START_S:
                return f"has not begun after {_START_S:.0f} s"
    finally:
        child.kill()
        child.wait()
    return f"exit code {child.returncode}" if child.returncode else ""


if __name__ == "__main__":
    sys.exit(main())
