"""The pipeline sends the next batch while a step runs, and training is bit-identical."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from des_ref.comm import Comm, open_comm
from des_ref.data.batch import Batch
from des_ref.data.synthetic import Zipf
from des_ref.forked import forking_context
from des_ref.models.build import Network
from des_ref.pipeline import Pipeline, endless
from des_ref.strategies import STRATEGIES
from des_ref.strategies.base import Lane, Optimizers
from dessim.errors import FileError
from dessim.processes import leave
from dessim.trace.schema import PREFETCH
from dessim.workload.model import load_model

STEPS = 12


def trained(tiny: Path, comm: Comm, strategy: str, ahead: bool) -> dict[str, Tensor]:
    """Every row and dense parameter after STEPS steps in float32, which is more than two epochs."""
    model = load_model(tiny)
    network = Network(model, 1, torch.float32, comm.device)
    trainer = STRATEGIES[strategy](network, Optimizers(init_std=0.1), comm)
    source = Zipf(model.input.fields, 1.5, 200, 1.05, 3).open(400)
    lane = Lane(comm.separate_group(PREFETCH)) if ahead else None
    pipeline = Pipeline(trainer, comm, endless(source, 64, comm), lane)
    epochs = []
    for _ in range(STEPS):
        epochs.append(pipeline.epoch)
        pipeline.step()
    pipeline.close()
    assert epochs == sorted(epochs) and set(epochs) == {0, 1, 2}
    keys = trainer.table.keys
    order = keys.argsort()
    dense = {f"dense.{i}": p.detach() for i, p in enumerate(network.dense_parameters)}
    return {"keys": keys[order]} | {n: v[order] for n, v in trainer.table.columns.items()} | dense


def assert_same_bits(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("strategy", [name for name in STRATEGIES if name != "ps_async"])  # that needs server processes
def test_parameters_are_bit_identical_with_and_without_pipeline(strategy: str, tiny: Path) -> None:
    with open_comm("cpu") as comm:
        assert_same_bits(*(trained(tiny, comm, strategy, ahead) for ahead in (True, False)))


def _rank(rank: int, tiny: Path, rendezvous: Path, answer: Path) -> None:
    torch.set_num_threads(1)
    with open_comm("cpu", (rendezvous, rank, 2)) as comm:
        found = {
            (strategy, ahead): trained(tiny, comm, strategy, ahead)
            for strategy in ("des_all_reduce", "des_reduce_scatter")
            for ahead in (True, False)
        }
        torch.save(found, answer.with_suffix(f".{rank}"))
    leave(0)


@pytest.mark.slow
def test_two_ranks_are_bit_identical_with_and_without_pipeline(tiny: Path, tmp_path: Path) -> None:
    context = forking_context()
    answer = tmp_path / "answer"
    ranks = [context.Process(target=_rank, args=(rank, tiny, tmp_path / "rendezvous", answer)) for rank in range(2)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(240)
        assert process.exitcode == 0
    for rank in range(2):
        found = torch.load(answer.with_suffix(f".{rank}"))
        for strategy in ("des_all_reduce", "des_reduce_scatter"):
            assert_same_bits(found[strategy, True], found[strategy, False])


class Fake:
    """A strategy that logs its calls; `during` is called in the middle of each step."""

    def __init__(self, during: Any = lambda k: None) -> None:
        self.sent: dict[int, threading.Event] = {k: threading.Event() for k in range(10)}
        self.threads: dict[str, set[int]] = {"send": set(), "step": set()}
        self.steps: list[tuple[int, Any]] = []
        self._during = during

    def attach(self, comm: Comm) -> None:
        """Prepare nothing."""

    def send(self, batch: Batch, lane: Lane | None = None) -> str:
        self.threads["send"].add(threading.get_ident())
        number = int(batch.ids[0])
        self.sent[number].set()
        return f"sent {number}"

    def step(self, batch: Batch, sent: Any = None) -> str:
        self.threads["step"].add(threading.get_ident())
        number = int(batch.ids[0])
        self._during(number)
        self.steps.append((number, sent))
        return f"trained {number}"


def numbered(n: int) -> Iterator[tuple[int, Batch]]:
    for k in range(n):
        yield k // 2, Batch(torch.tensor([k]), torch.tensor([0]), torch.tensor([0]), torch.zeros(1))


def test_the_next_batch_is_sent_during_a_step() -> None:
    def wait_until_the_next_is_sent(number: int) -> None:
        # Only another thread can set this during the step.
        assert fake.sent[number + 1].wait(20)

    fake = Fake(wait_until_the_next_is_sent)
    with open_comm("cpu") as comm:
        pipeline = Pipeline(fake, comm, numbered(5), Lane(comm))
        results = [pipeline.step() for _ in range(4)]
        pipeline.close()
    assert results == [f"trained {k}" for k in range(4)]
    assert fake.steps == [(k, f"sent {k}") for k in range(4)]  # each step with its own ids, in order
    assert fake.threads["step"] == {threading.get_ident()} and not fake.threads["step"] & fake.threads["send"]


def test_without_a_lane_the_step_itself_sends() -> None:
    fake = Fake()
    with open_comm("cpu") as comm:
        pipeline = Pipeline(fake, comm, numbered(4), None)
        epochs = []
        for _ in range(3):
            epochs.append((pipeline.epoch, int(pipeline.batch.ids[0])))
            pipeline.step()
    assert epochs == [(0, 0), (0, 1), (1, 2)]
    assert fake.steps == [(0, None), (1, None), (2, None)] and not fake.threads["send"]


def test_an_error_in_the_other_thread_is_raised_by_step() -> None:
    def batches() -> Iterator[tuple[int, Batch]]:
        yield from numbered(2)
        raise FileError("train.txt", "line 3", "is not a sample")

    with open_comm("cpu") as comm:
        pipeline = Pipeline(Fake(), comm, batches(), Lane(comm))
        pipeline.step()
        with pytest.raises(FileError, match="line 3"):
            pipeline.step()
        pipeline.close()
