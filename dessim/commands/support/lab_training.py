"""Runs des_ref.steps on an emulated cluster of the lab: training jobs in, their steps and the kernel's counters out."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from dessim import lab
from dessim.cluster import load_cluster
from dessim.commands.support.lab_bench import failure_of
from dessim.errors import LabError
from dessim.trace.schema import Collective, sent_factor

_LAB_NAME = "training"


@dataclass(frozen=True, slots=True)
class Trained:
    """A job as it ran. `job` is the object that des_ref.steps wrote about it.

    Bytes are those of a step, summed over all workers.
    """

    job: Mapping[str, Any]

    @property
    def workers(self) -> int:
        return int(self.job["workers"])

    @property
    def step_s(self) -> float:
        """Median seconds from the end of a step to the end of the next.

        Where workers are synchronous, a step ends with its last worker. With asynchronous servers (ps_async) each
        worker's own steps count. The mean would be wrong there: the last steps are short, since some workers have
        already finished.
        """
        ends = np.array(self.job["ends_s"])  # [workers, steps]
        return float(np.median(np.diff(ends if self.job["servers"] else ends.max(axis=0))))

    @property
    def samples_per_s(self) -> float:
        return float(self.job["batch"]) / self.step_s

    @property
    def payload(self) -> float:
        """Bytes that the plan sends over the network; with dedicated servers, in both directions."""
        n_workers = self.workers
        ops = self.job["ops"]
        if self.job["servers"]:
            closing = self.job["closing"] / self.job["counted_steps"]
            return float(n_workers * (sum(op["bytes"] for op in ops) + closing))
        factors = [sent_factor(Collective(op["collective"]), n_workers) for op in ops]
        return float(sum(n_workers * factor * op["bytes"] for factor, op in zip(factors, ops, strict=True)))

    @property
    def frames(self) -> float:
        """Bytes of Ethernet frames that the hosts sent, as the kernel counted them.

        Raises LabError where they were not counted.
        """
        if self.job["frames"] is None:
            raise LabError(f"{self.job['name']}: no shaper counted the bytes that the hosts sent")
        return float(sum(self.job["frames"])) / int(self.job["counted_steps"])


def train_on_lab(
    bed: str, jobs: Sequence[Mapping[str, Any]], timeout: float, *, ranks: int | None = None, scale: float = 1.0
) -> dict[str, Any]:
    """Build `bed`, run `jobs` (des_ref/steps.py) on its first `ranks` ranks in one launch, take it down.

    Returns the file that des_ref.steps writes, with these keys added: `bed` and `scale`, the `machine`, and `links`,
    which holds the bytes and dropped packets of each link, by name, over the whole launch. `timeout` is in seconds.
    Raises LabError.
    """
    with TemporaryDirectory() as folder:
        jobs_file = Path(folder, "jobs.json")
        results_file = Path(folder, "steps.json")
        jobs_file.write_text(json.dumps({"jobs": list(jobs)}), encoding="utf-8")
        # A rank's first optimizer imports torch's compiler.
        options = [str(jobs_file), "--json", str(results_file)]
        program = lab.Program("des_ref.steps", options, imports=["torch._dynamo"])
        with lab.up(load_cluster(bed), scale=scale, name=_LAB_NAME) as built:
            before = built.counters()
            finished = built.run(program, ranks, logs=Path(folder, "logs"), timeout=timeout)
            carried = lab.between(before, built.counters())
        if finished.code:
            raise LabError(f"{bed}: des_ref.steps {failure_of(finished)}")
        result: dict[str, Any] = json.loads(results_file.read_text("utf-8"))
        result |= {"bed": bed, "scale": scale, "machine": machine()}
        result["links"] = {c.name: {"bytes": c.bytes, "dropped": c.dropped} for c in carried.values()}
        return result


def machine() -> str:
    """Describe this machine in one line, for readers of a measurement."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
        processor = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        processor = platform.processor() or platform.machine()
    system = f"{platform.system()} {platform.release()}"
    return f"{os.cpu_count()} cores of {processor}, {system}, torch {version('torch')} over gloo"
