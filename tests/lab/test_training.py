"""Training on a lab: the kernel counts the bytes of the plan, plus headers, and those of the busiest owner."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from dessim.commands.support.guard import worker_bytes
from dessim.commands.support.lab_training import Trained, train_on_lab
from dessim.lab import forking
from dessim.workload.model import parse_model
from dessim.workload.owners import owners_of
from dessim.workload.strategies import plan as plan_of
from tests.forked import forked_from_everything

pytest.importorskip("torch", reason="the trainer needs the [train] extra")

SKEWED = {
    "schema_version": 2,
    "name": "skewed",
    "input": {"batch_per_worker": 1024},
    "embedding": {"width": 16},
    "tables": [
        {"rows": 200_000, "ids": 4.0, "skew": 1.2},
        {"rows": 3_000, "ids": 2.0},
        {"rows": 50, "ids": 1.0, "skew": 0.8},
    ],
    "operators": [{"kind": "lr"}, {"kind": "fm"}, {"kind": "mlp", "widths": [32, 16]}],
}


SYNCHRONOUS_AND_SERVED = [
    {"model": "deepfm", "strategy": name, "batch": 384, "warmup": 1, "steps": 2}
    for name in ("des_reduce_scatter", "row_all_to_all", "ps_async")
]
OWNED = [
    {"model": SKEWED, "strategy": name, "batch": 4096, "samples": 16384, "warmup": 1, "steps": 3}
    for name in ("table_wise", "row_wise")
]


class _Forked:
    """Stands in for subprocess.Popen of the process that ranks are forked from: this one has imported torch already."""

    def __init__(self, command: Sequence[str], env: Mapping[str, str], **_: Any) -> None:
        context = forked_from_everything()
        requests, to_server = context.Pipe(duplex=False)
        from_server, answers = context.Pipe(duplex=False)
        self._process = context.Process(target=_serve, args=(command[3:], env, requests, answers))
        self._process.start()
        self.stdin = os.fdopen(os.dup(to_server.fileno()), "wb")
        self.stdout = os.fdopen(os.dup(from_server.fileno()), "rb")
        for connection in (requests, to_server, from_server, answers):
            connection.close()

    def kill(self) -> None:
        self._process.kill()

    def wait(self) -> None:
        self._process.join()


def _serve(modules: Sequence[str], env: Mapping[str, str], requests: Connection, answers: Connection) -> None:
    os.setsid()
    os.environ.update(env)
    for descriptor, connection in enumerate((requests, answers)):
        os.dup2(connection.fileno(), descriptor)
        connection.close()
    sys.argv = ["-c", *modules]
    forking.serve()


@pytest.fixture(scope="module")
def result(can_build: None) -> dict[str, Any]:
    """All jobs in one launch."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(forking, "subprocess", SimpleNamespace(**vars(subprocess) | {"Popen": _Forked}))
        return train_on_lab("lab/switch_4", [*SYNCHRONOUS_AND_SERVED, *OWNED], 150.0)


@pytest.mark.slow
@pytest.mark.torch
def test_the_kernel_counts_the_plans_bytes(result: dict[str, Any]) -> None:
    links = result["links"]
    assert sum(link["dropped"] for link in links.values()) == 0
    sent, received = (sum(links[name]["bytes"] for name in links if name.startswith(end)) for end in ("gpu", "switch"))
    assert sent == pytest.approx(received, rel=1e-3)
    summing, exchanging, served = (Trained(found) for found in result["jobs"][: len(SYNCHRONOUS_AND_SERVED)])
    for ran in (summing, exchanging, served):
        assert 1.0 < ran.frames / ran.payload < 1.10, ran.job["name"]
        assert 0 < ran.step_s < 30 and ran.samples_per_s == pytest.approx(384 / ran.step_s)
    assert (served.workers, served.job["servers"]) == (3, 1)


@pytest.mark.slow
@pytest.mark.torch
def test_the_kernel_counts_the_bytes_of_each_owner(result: dict[str, Any]) -> None:
    model = parse_model(SKEWED, "skewed")
    for job, found in zip(OWNED, result["jobs"][len(SYNCHRONOUS_AND_SERVED) :], strict=True):
        plan = plan_of(job["strategy"], model)
        symbols = plan.symbols(model.symbols(4, 4096))
        sent, received = worker_bytes(plan, symbols, owners_of(plan, model, symbols))
        # Packets of 1,448 bytes in frames of 1,514; every second packet is acknowledged by a frame of 66.
        frames = sent * 1514 / 1448 + received * 66 / 2896
        measured = np.array(found["frames"]) / found["counted_steps"]
        assert measured.max() == pytest.approx(frames.max(), rel=0.03), job["strategy"]
        assert measured / measured.mean() == pytest.approx(frames / frames.mean(), abs=0.03), job["strategy"]
