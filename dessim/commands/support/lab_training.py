"""des_ref.steps on a bed of the lab: jobs in, whole training steps out, with what the kernel counted meanwhile."""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from dessim import lab
from dessim.cluster import load_cluster
from dessim.errors import LabError
from dessim.lab.priority import first
from dessim.trace.schema import Collective, sent_factor

_LAB = "training"


@dataclass(frozen=True, slots=True)
class Trained:
    """A job as it ran: what des_ref.steps wrote of it. Bytes are of all workers together, a step."""

    found: Mapping[str, Any]

    @property
    def workers(self) -> int:
        return int(self.found["workers"])

    @property
    def step_s(self) -> float:
        """Seconds from one step's end to the next one's, the median: by the last worker's end where workers keep pace
        with each other; where they do not (ps_async), each worker's own. (Not the mean: the servers' last steps are
        short, when some workers are done.)"""
        ends = np.array(self.found["ends_s"])
        return float(np.median(np.diff(ends if self.found["servers"] else ends.max(axis=0))))

    @property
    def samples_per_s(self) -> float:
        return float(self.found["batch"]) / self.step_s

    @property
    def payload(self) -> float:
        """Bytes that the plan sends over the network; with servers of their own, both ways."""
        n, ops = self.workers, self.found["ops"]
        if self.found["servers"]:
            closing = self.found["closing"] / self.found["counted_steps"]
            return float(n * (sum(op["bytes"] for op in ops) + closing))
        return float(sum(n * sent_factor(Collective(op["collective"]), n) * op["bytes"] for op in ops))

    @property
    def frames(self) -> float:
        """Bytes of Ethernet frames that the hosts sent, by the kernel's count. Raises LabError where nobody counted."""
        if self.found["frames"] is None:
            raise LabError(f"{self.found['name']}: no shaper counted what was sent")
        return float(sum(self.found["frames"])) / int(self.found["counted_steps"])


def train_on_lab(
    bed: str, jobs: Sequence[Mapping[str, Any]], timeout: float, *, ranks: int | None = None, scale: float = 1.0
) -> dict[str, Any]:
    """Build `bed`, run `jobs` (des_ref/steps.py) on the first `ranks` of it in one launch, take it down.

    Returns the file that des_ref.steps writes, and `links`: of each link of the bed, by name, bytes and dropped packets
    of the whole launch, and the `machine`. `timeout` is in seconds. Raises LabError.
    """
    with TemporaryDirectory() as folder:
        asked, out = Path(folder, "jobs.json"), Path(folder, "steps.json")
        asked.write_text(json.dumps({"jobs": list(jobs)}), encoding="utf-8")
        command = first([sys.executable, "-m", "des_ref.steps", str(asked), "--json", str(out)])
        with lab.up(load_cluster(bed), scale=scale, name=_LAB) as up:
            before = up.counters()
            done = up.run(command, ranks, logs=Path(folder, "logs"), timeout=timeout)
            carried = lab.between(before, up.counters())
        if done.code:
            raise LabError(f"{bed}: des_ref.steps {_why(done)}")
        result: dict[str, Any] = json.loads(out.read_text("utf-8"))
        result |= {"bed": bed, "scale": scale, "machine": machine()}
        result["links"] = {c.name: {"bytes": c.bytes, "dropped": c.dropped} for c in carried.values()}
        return result


def machine() -> str:
    """This machine in a line, for who reads a measurement later."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
        processor = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        processor = platform.processor() or platform.machine()
    system = f"{platform.system()} {platform.release()}"
    return f"{os.cpu_count()} cores of {processor}, {system}, torch {version('torch')} over gloo"


def _why(done: lab.Finished) -> str:
    """The last line that the rank which failed printed."""
    if done.rank is None:
        return "was not done in time; is the machine busy?"
    lines = done.logs[done.rank].read_text("utf-8", errors="replace").strip().splitlines()
    return f"failed on rank {done.rank} with code {done.code}: {lines[-1] if lines else 'no output'}"
