"""Sweeps that are killed, and that fill the disk, have the same results as one that runs undisturbed.

    python -m tests.sweep.chaos                # 2,000 cases: minutes
    python -m tests.sweep.chaos --batches 5    # 200 cases

1. `--jobs 1`, undisturbed. 2. Three shards. 3. A Dask cluster of four worker processes: one of them is killed, then the
coordinator, which is started again. 4. A file-size limit that the journal reaches in mid-sweep, as on a full disk, and
the same command without it. No case may be lost or journalled twice, and all tables must have the same bytes.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tests.sweep.small import TABLES, journalled, tables, write_study

_WORKERS = 4
_GPUS = (2, 3, 4, 6, 8)
_WAIT_S = 3000.0
_FILE_LIMIT = 0.6  # of the journal's size, without disturbance


def sweep(study: Path, folder: Path, *options: str, most_bytes: int | None = None) -> subprocess.Popen[str]:
    """Start `dessim sweep`, with no file of more than `most_bytes`."""
    command = [sys.executable, "-m", "dessim", "sweep", str(study), "-o", str(folder), *options]

    def limit() -> None:
        if most_bytes is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, most_bytes))

    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=limit)


def finished(process: subprocess.Popen[str], code: int = 0) -> str:
    """Wait for the end of a sweep, which must have this exit code; return its last line on stderr."""
    _, err = process.communicate(timeout=_WAIT_S)
    assert process.returncode == code, (process.returncode, err)
    return (err.strip().splitlines() or [""])[-1]


def wait_for(what: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    """Wait until `what`, while `process` runs."""
    end = time.monotonic() + _WAIT_S
    while not what():
        assert process.poll() is None, (process.returncode, process.communicate())
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.02)


def shards(study: Path, folder: Path, cases: int, alone: Path) -> str:
    """Sweep in three shards, one after the other."""
    for number in (1, 2, 3):
        finished(sweep(study, folder, "--shard", f"{number}/3"))
    return "three shards"


def full_disk(study: Path, folder: Path, cases: int, alone: Path) -> str:
    """Sweep until the journal may not grow any more; then sweep again without a limit."""
    size = sum(map(len, journalled(alone)))
    line = finished(sweep(study, folder, most_bytes=int(_FILE_LIMIT * size)), code=1)
    assert "the cases before are kept" in line
    print(f"  the disk was full with {len(journalled(folder)):,} cases journalled: {line}", flush=True)
    finished(sweep(study, folder))
    return "a full disk"


def with_dask(study: Path, folder: Path, cases: int, alone: Path) -> str:
    """Sweep on a Dask cluster whose worker, and then whose coordinator, is killed; then sweep again."""
    scratch = study.parent
    found = scratch / "scheduler.json"
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": scratch}
    dask = [sys.executable, "-m", "dask"]
    local = ["--host", "127.0.0.1", "--no-dashboard"]
    running = [subprocess.Popen([*dask, "scheduler", "--scheduler-file", str(found), *local], **quiet)]
    try:
        worker = [*dask, "worker", "--scheduler-file", str(found), "--nthreads", "1", "--no-nanny", *local]
        running += [subprocess.Popen(worker, **quiet) for _ in range(_WORKERS)]
        wait_for(found.exists, running[0])
        wait_for(lambda: bool(found.read_text().strip()), running[0])
        address = json.loads(found.read_text())["address"]
        coordinator = sweep(study, folder, "--dask", address)
        wait_for(lambda: len(journalled(folder)) > cases // 5, coordinator)
        running[-1].kill()
        print(f"  a worker was killed with {len(journalled(folder)):,} cases journalled", flush=True)
        wait_for(lambda: len(journalled(folder)) > cases // 2, coordinator)
        coordinator.send_signal(signal.SIGKILL)
        coordinator.communicate()
        print(f"  the coordinator was killed with {len(journalled(folder)):,} cases journalled", flush=True)
        finished(sweep(study, folder, "--dask", address))
    finally:
        for process in running:
            process.kill()
            process.wait()
    return "Dask, a worker and the coordinator killed"


PARTS = {"shards": shards, "dask": with_dask, "disk": full_disk}


def check(what: str, folder: Path, wanted: dict[str, bytes], cases: int, began: float) -> None:
    """Require all cases once, and the wanted bytes."""
    lines = journalled(folder)
    keys = [line.split(b'"')[3] for line in lines]
    assert len(keys) == len(set(keys)) == cases, (len(keys), len(set(keys)), cases)
    found = tables(folder)
    assert set(found) == set(TABLES) and found == wanted, [name for name in TABLES if found.get(name) != wanted[name]]
    seconds = time.monotonic() - began
    print(f"{what}: {cases:,} cases, none lost, none doubled, same bytes; {cases / seconds:.1f} cases/s", flush=True)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batches", type=int, default=50, help="40 cases for each")
    parser.add_argument("--parts", default="shards,dask,disk", help="what to check (default: all)")
    parser.add_argument("--alone", type=Path, help="folder of 1., if it was swept before")
    options = parser.parse_args(arguments)
    cases = 40 * options.batches
    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory() as temporary:
        scratch = Path(temporary)
        study = write_study(scratch, options.batches, gpus=_GPUS)
        alone = options.alone or scratch / "alone"
        began = time.monotonic()
        if options.alone is None:
            finished(sweep(study, alone))
            check("--jobs 1", alone, tables(alone), cases, began)
        wanted = tables(alone)
        for part in options.parts.split(","):
            began = time.monotonic()
            what = PARTS[part](study, scratch / part, cases, alone)
            check(what, scratch / part, wanted, cases, began)
    return 0


if __name__ == "__main__":
    sys.exit(main())
