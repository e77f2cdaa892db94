"""The replay of ps_async: it follows any order of the servers, and refuses one that cannot have been."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from des_ref.certify.case import SEED, Case, batches
from des_ref.certify.replay import Event, Replay
from des_ref.comm import Comm
from des_ref.data.batch import Batch
from des_ref.models.build import Network
from des_ref.reference import Reference
from des_ref.strategies.ps_server import Request
from dessim.errors import SimulationError

PULL, PUSH = int(Request.PULL), int(Request.PUSH)


class Asynchronous:
    """Two batches of 8 samples of the tiny model, and its parameters on one server or two."""

    def __init__(self, tiny: Path, servers: int) -> None:
        case = Case(2, 2, str(tiny), "ps_async", "cpu", small=True, optimizer="adam")
        model = case.load()
        self.servers = servers
        self.batches = batches(case, model, Comm(0, 2, torch.device("cpu"), "gloo"))
        vocabulary = torch.unique(torch.cat([b.ids for b in self.batches]))

        def reference() -> Reference:
            return Reference(Network(model, SEED, torch.float64, "cpu"), case.optimizers(), vocabulary)

        self.synchronous = reference()
        self._references = [reference() for _ in range(servers)]
        # Rows on server 0, dense parameters on the last.
        self._server_of = {
            name: torch.full_like(p, (servers - 1) * name.startswith("dense.")).long()
            for name, p in self.synchronous.parameters.items()
        }

    def keys(self, step: int, worker: int, workers: int) -> int:
        """The number of distinct ids of a worker's samples."""
        batch = self.batches[step]
        share = len(batch) // workers
        return len(torch.unique(batch.ids[batch.sample // share == worker]))

    def replay(self, workers: int, *orders: list[Event]) -> Replay:
        return Replay(self._references, self._server_of, orders, self.batches, workers)


@pytest.mark.parametrize("servers", [1, 2])
def test_one_worker_trains_like_synchronous_training(servers: int, tiny: Path) -> None:
    run = Asynchronous(tiny, servers)
    order = [(kind, 0, run.keys(step, 0, 1)) for step in range(2) for kind in (PULL, PUSH)]
    # All rows are on server 0; the other is asked for none.
    replay = run.replay(1, *[order, [(kind, 0, 0) for kind, _, _ in order]][:servers])
    losses = [replay.step(0, step)[0].loss for step in range(2)]
    assert losses == [run.synchronous.step(batch).loss for batch in run.batches]
    assert all(torch.equal(p, run.synchronous.parameters[name]) for name, p in replay.parameters.items())
    assert replay.most_stale == 0


def test_a_gradient_is_that_of_the_parameters_that_were_pulled(tiny: Path) -> None:
    """Worker 1 pulls first and pushes after both steps of worker 0, which it is then two steps behind."""
    run = Asynchronous(tiny, 1)
    initial = {name: p.clone() for name, p in run.synchronous.parameters.items()}
    keys = {(step, worker): run.keys(step, worker, 2) for step in range(2) for worker in range(2)}
    order = [(PULL, 1, keys[0, 1])]
    order += [(kind, 0, keys[step, 0]) for step in range(2) for kind in (PULL, PUSH)]
    replay = run.replay(2, [*order, (PUSH, 1, keys[0, 1])])
    result, pulled = replay.step(1, 0)
    assert all(torch.equal(pulled[name], p) for name, p in initial.items())
    own = run.batches[0]
    share = len(own) // 2
    late = own.sample >= share
    half = Batch(own.ids[late], own.sample[late] - share, own.field[late], own.labels[share:])
    assert result.loss == run.synchronous.gradients(half, initial, 0, range(share, 2 * share)).loss
    assert replay.most_stale == 1 and not torch.equal(replay.parameters["v"], initial["v"])
    with pytest.raises(SimulationError, match="no push of worker 1 in step 1"):
        replay.step(1, 1)


def test_impossible_orders_are_refused(tiny: Path) -> None:
    run = Asynchronous(tiny, 1)
    with pytest.raises(SimulationError, match="a push precedes the pull"):
        run.replay(1, [(PUSH, 0, 3), (PULL, 0, 3)])
    with pytest.raises(SimulationError, match="not those of its samples"):
        Asynchronous(tiny, 1).replay(1, [(PULL, 0, 1), (PUSH, 0, 1)]).step(0, 0)
