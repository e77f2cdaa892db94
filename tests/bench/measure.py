"""Measure the cost of a whole process: CPU seconds, wall seconds, peak memory.

CPU seconds of a process on one core equal its wall seconds on an idle machine, and hardly change on a busy one. A
small Python process (this file as a script) starts the command: Linux charges the memory of the parent at the fork to
the child's peak, so a parent with numpy loaded would inflate a small program's reading.
"""

from __future__ import annotations

import json
import math
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ONE_CORE = {name: "1" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")}

WALL_LIMIT_FACTOR = 5  # wall time allowed per second of the CPU limit


@dataclass(frozen=True, slots=True)
class Cost:
    """One run. `timed_out`: it was stopped at its time limit; otherwise `status` is its exit status."""

    cpu_s: float
    wall_s: float
    rss_MiB: float
    timed_out: bool
    status: int
    output: str
    errors: str

    @property
    def ok(self) -> bool:
        return not self.timed_out and self.status == 0


def measure(command: Sequence[str], limit_s: float) -> Cost:
    """Run `command` on one core and return its cost.

    The process is stopped after `limit_s` seconds of CPU time, or WALL_LIMIT_FACTOR times as many of wall time. Raises
    RuntimeError when it cannot be started.
    """
    launcher = [sys.executable, "-I", "-S", __file__, str(limit_s), *command]
    done = subprocess.run(launcher, capture_output=True, text=True, env={**os.environ, **ONE_CORE, "NO_COLOR": "1"})
    if done.returncode:
        raise RuntimeError(f"could not run {command[0]}: {done.stderr.strip()}")
    return Cost(**json.loads(done.stdout))


def median(costs: Sequence[Cost]) -> Cost:
    """Return the run with the median CPU time."""
    return sorted(costs, key=lambda cost: cost.cpu_s)[len(costs) // 2]


def _launch(limit_s: float, command: list[str]) -> dict[str, object]:
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        began = time.monotonic()
        process = subprocess.Popen(command, stdout=out, stderr=err)
        os.sched_setaffinity(process.pid, {max(os.sched_getaffinity(0))})
        limit = math.ceil(limit_s)
        resource.prlimit(process.pid, resource.RLIMIT_CPU, (limit, limit + 1))
        timed_out = False
        while True:
            pid, status, usage = os.wait4(process.pid, os.WNOHANG)
            if pid:
                break
            if not timed_out and time.monotonic() - began > WALL_LIMIT_FACTOR * limit_s:
                timed_out = True
                os.kill(process.pid, signal.SIGKILL)
            time.sleep(0.002)
        wall = time.monotonic() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        cpu_s = usage.ru_utime + usage.ru_stime
        timed_out = timed_out or process.returncode == -signal.SIGXCPU
        texts = []
        for stream in (out, err):
            stream.seek(0)
            texts.append(stream.read().decode(errors="replace"))
    return {
        "cpu_s": cpu_s,
        "wall_s": wall,
        "rss_MiB": usage.ru_maxrss / 1024,
        "timed_out": timed_out,
        "status": process.returncode,
        "output": texts[0],
        "errors": texts[1],
    }


def cpu_name() -> str:
    """Return the processor's model name, or "unknown"."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")


if __name__ == "__main__":
    print(json.dumps(_launch(float(sys.argv[1]), sys.argv[2:])))  # noqa: T201
