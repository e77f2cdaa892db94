"""Every strategy on three processes: equivalence to one process, bytes counted from the data, and ps_async.

The processes are started once and do all runs in sequence; the tests check the results that they write.
"""

from __future__ import annotations

import json
import time
import tomllib
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from des_ref.certify import case as certify_case
from des_ref.certify import stale
from des_ref.certify.case import Case
from des_ref.certify.compare import compare, reference_states
from des_ref.certify.show import passed
from des_ref.comm import Comm, open_comm
from des_ref.data.batch import slice_of
from des_ref.forked import forking_context
from des_ref.hashing import owner_of
from des_ref.models.build import Network
from des_ref.strategies import STRATEGIES, VARIANTS, build
from des_ref.strategies.base import Optimizers
from des_ref.strategies.exchange import TableOwners
from des_ref.strategies.ps_async import PsAsync
from des_ref.strategies.ps_server import Server
from dessim.errors import DessimError, UsageError
from dessim.processes import leave
from dessim.trace.schema import PREFETCH
from dessim.workload.model import Model, load_model, parse_model
from dessim.workload.strategies import parse_strategy

RANKS, STEPS = 3, 2
EXACT = [name for name in STRATEGIES if name != "ps_async"]
BAGS = {"one-hot": 1.0, "multi-hot": 1.7}  # ids a field
VALUE = 8  # bytes: float64
# Five tables on three ranks: two hold two and one holds one.
MODEL = """
schema_version = 1
name = "five"
[input]
fields = 5
ids_per_sample = 8.0
vocabulary = 150
[embedding]
width = 3
[[operators]]
kind = "lr"
[[operators]]
kind = "fm"
[[operators]]
kind = "mlp"
widths = [6, 4]
dropout = 0.2
"""
WIDTH, EXTRA, FIELDS = 4, 1, 5
WEIGHTS = 6 * 15 + 6 + 6 * 4 + 4 + 4 + 1 + 1  # W1, b1, W2, b2, output, its bias, the logit's


class _LoggingServer(Server):
    """A server that logs its pulls and pushes in order."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.log: list[tuple[str, int]] = []

    def _pull(self, worker: int, keys: torch.Tensor) -> None:
        self.log.append(("pull", worker))
        super()._pull(worker, keys)

    def _apply(self, worker: int, keys: torch.Tensor) -> None:
        self.log.append(("push", worker))
        super()._apply(worker, keys)


def _slow_second_worker(model: Model, everyone: Comm, bound: int) -> Any:
    """Two workers, the second of which sleeps in every step; returns the server's log."""
    comm = everyone.with_servers(1, 60.0)
    network = Network(model, 1, torch.float64, "cpu")
    if comm.rank >= comm.world_size:
        server = _LoggingServer(network, Optimizers(), comm, bound)
        server.serve()
        return server.log
    strategy = PsAsync(network, Optimizers(), comm)
    for whole in certify_case.batches(Case(2, 6, "", ""), model, comm):
        strategy.step(slice_of(whole, comm.rank, comm.world_size))
        time.sleep(0.1 * comm.rank)
    strategy.close()
    return None


def _silent_second_worker(model: Model, everyone: Comm) -> str | None:
    """The second worker stops early; returns the error of the others."""
    comm = everyone.with_servers(1, 1.0)
    network = Network(model, 1, torch.float64, "cpu")
    try:
        if comm.rank >= comm.world_size:
            Server(network, Optimizers(), comm, 0).serve()
        elif comm.rank == 0:
            strategy = PsAsync(network, Optimizers(), comm)
            for whole in certify_case.batches(Case(2, 2, "", ""), model, comm):
                strategy.step(slice_of(whole, 0, 2))
    except DessimError as error:
        return str(error)
    return None


def _predictions(model: Model, comm: Comm) -> dict[str, list[float]]:
    """Logits of a held-out batch after a step on another one."""
    seen, unseen = certify_case.batches(Case(RANKS, 2, "", ""), model, comm)
    logits = {}
    for name in (*EXACT, *(v for v in VARIANTS if not parse_strategy(v)[1].shampoo)):  # Shampoo is another optimizer
        strategy = build(name, Network(model, 5, torch.float64, "cpu"), Optimizers(), comm)
        strategy.count(lambda: [seen])
        strategy.step(strategy.share(seen))
        rows = len(strategy.table)
        logits[name] = strategy.predict(slice_of(unseen, comm.rank, comm.world_size)).tolist()
        assert len(strategy.table) == rows, f"{name} inserts rows when it predicts"
    return logits


def _rank(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    model, result = load_model(folder / "five.toml"), {}
    with open_comm("cpu", (folder / "rendezvous", rank, RANKS)) as comm:
        prefetch = comm.separate_group(PREFETCH)
        for kind, ids in BAGS.items():
            certify_case.IDS_PER_FIELD = ids  # type: ignore[misc]
            wholes, truths = certify_case.batches(Case(RANKS, STEPS, "", ""), model, comm), {}
            for name in (*EXACT, *VARIANTS):
                case = Case(RANKS, STEPS, "", name, "cpu", pipeline=ids == 1.0)
                optimizers = repr(case.optimizers())
                if rank == 0 and optimizers not in truths:
                    truths[optimizers] = list(reference_states(case, model, wholes))
                result[f"{name} {kind}"] = compare(
                    case, model, comm, prefetch=prefetch, batches=wholes, truth=truths.get(optimizers, ())
                )
        result["predictions"] = _predictions(model, comm)
        batches = certify_case.batches(Case(1, 3, "", ""), model, comm)
        one_worker = comm.with_servers(2, 60.0)
        result["one worker"] = stale.measure(one_worker, model, Optimizers(), seed=1, batches=batches, staleness=3)
        for bound in (0, 2):
            result[f"slow {bound}"] = _slow_second_worker(model, comm, bound)
        comm.barrier()
        result["silent"] = _silent_second_worker(model, comm)
        (folder / f"{rank}.json").write_text(json.dumps(result))
        with suppress(RuntimeError):
            comm.barrier()
    leave(0)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("strategies")
    (folder / "five.toml").write_text(MODEL)
    context = forking_context()
    ranks = [context.Process(target=_rank, args=(rank, folder)) for rank in range(RANKS)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(240)
        process.kill()
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(RANKS)]


@pytest.mark.slow
@pytest.mark.parametrize("kind", BAGS)
@pytest.mark.parametrize("name", (*EXACT, *VARIANTS))
def test_it_trains_like_one_process(name: str, kind: str, results: list[dict[str, Any]]) -> None:
    certificate = results[0][f"{name} {kind}"]
    assert passed(certificate), certificate
    assert certificate["max_grad_diff"] < 1e-12 and certificate["max_loss_diff"] < 1e-12


def _bytes_from_data(kind: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[str, int]]:
    """S of each op, summed over ranks and steps, counted from the data."""
    monkeypatch.setattr(certify_case, "IDS_PER_FIELD", BAGS[kind])
    model = parse_model(tomllib.loads(MODEL), "five.toml")
    everyone = SimpleNamespace(world_size=RANKS)
    batches = certify_case.batches(Case(RANKS, STEPS, "", ""), model, everyone)  # type: ignore[arg-type]
    own = [[len(set(slice_of(b, rank, RANKS).ids.tolist())) for rank in range(RANKS)] for b in batches]
    owners = [torch.bincount(owner_of(torch.unique(b.ids), RANKS), minlength=RANKS) for b in batches]
    owned = RANKS * sum(int(counts.max()) for counts in owners)  # rows of a batch, each owner's padded to the most
    samples, ids = sum(len(b) for b in batches), sum(len(b.ids) for b in batches)
    u, most = sum(map(sum, own)), sum(map(max, own))
    bags, partials = samples * FIELDS * (WIDTH + EXTRA) * VALUE, samples * (1 + 4 + 6) * VALUE
    counts, labels = STEPS * RANKS * RANKS * 8, RANKS * samples * 4
    rows, keys = u * WIDTH * VALUE, u * 8
    dense, shared = STEPS * RANKS * WEIGHTS * VALUE, STEPS * RANKS * 6 * 15 * VALUE
    shards = STEPS * RANKS * RANKS * -(-WEIGHTS // RANKS) * VALUE
    hashed = {"id_counts": counts, "ids": ids * 12}
    return {
        "des_all_reduce": hashed | {"labels": labels, "partials": RANKS * partials, "shared_grad": shared},
        "des_reduce_scatter": hashed
        | {"partials": RANKS * partials, "partials_grad": RANKS * partials}
        | {"tail_grad": dense - shared, "shared_grad": shared},
        "mesh": hashed | {"labels": labels, "pooled": RANKS * bags},
        "row_wise": hashed | {"pooled": RANKS * bags, "pooled_grad": RANKS * bags, "dense_grad": dense},
        "table_wise": {"lengths": samples * FIELDS * 4, "ids": ids * 8, "dense_grad": dense}
        | {"pooled": bags, "pooled_grad": bags},
        "row_all_to_all": {"id_counts": counts, "ids": keys, "rows": rows, "rows_grad": rows, "dense_grad": dense},
        "row_all_gather": {"id_counts": counts, "ids": keys, "row_counts": counts, "dense_grad": dense}
        | {"row_ids": RANKS * owned * 8}
        | dict.fromkeys(("rows", "rows_grad"), RANKS * owned * WIDTH * VALUE),
        "ps_sync": {"id_counts": counts, "pull_keys": keys, "push_keys": keys, "pull_rows": rows, "push_rows": rows}
        | {"pull_dense": shards, "push_dense": shards},
        "data_parallel": {"row_counts": counts, "dense_grad": dense}
        | {"row_ids": RANKS * RANKS * most * 8, "row_grads": RANKS * RANKS * most * WIDTH * VALUE},
    }


@pytest.mark.slow
@pytest.mark.parametrize("kind", BAGS)
def test_recorded_bytes_equal_those_counted_from_the_data(
    kind: str, results: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = _bytes_from_data(kind, monkeypatch)
    assert counted.keys() == set(EXACT)
    for name, ops in counted.items():
        assert {op["name"]: op["recorded_bytes"] for op in results[0][f"{name} {kind}"]["ops"]} == ops, name


@pytest.mark.slow
def test_all_strategies_predict_the_same_on_every_rank(results: list[dict[str, Any]]) -> None:
    expected = torch.tensor(results[0]["predictions"]["des_all_reduce"])
    assert expected.std() > 0
    for found in (rank["predictions"] for rank in results):
        for name, logits in found.items():
            torch.testing.assert_close(torch.tensor(logits), expected, atol=1e-9, rtol=1e-9, msg=name)


@pytest.mark.slow
def test_ps_async_with_one_worker_is_equivalent_to_one_process(results: list[dict[str, Any]]) -> None:
    certificate = results[0]["one worker"]
    assert passed(certificate) and certificate["equivalent"] and certificate["max_param_diff"] < 1e-12
    assert certificate["staleness"]["max"] == certificate["staleness"]["missed_max"] == 0
    recorded = {op["name"]: op["recorded_bytes"] for op in certificate["ops"]}
    assert recorded["push_dense"] == 3 * 2 * -(-WEIGHTS // 2) * VALUE and recorded["id_counts"] == 3 * 2 * 8


@pytest.mark.slow
@pytest.mark.parametrize("bound", [0, 2])
def test_no_worker_of_ps_async_runs_ahead_beyond_the_bound(bound: int, results: list[dict[str, Any]]) -> None:
    (log,) = (rank[f"slow {bound}"] for rank in results if rank[f"slow {bound}"] is not None)
    pushes, ahead = [0, 0], []
    for kind, worker in log:
        if kind == "push":
            pushes[worker] += 1
        else:
            ahead.append(pushes[worker] - min(pushes))
    assert pushes == [6, 6] and len(ahead) == 12
    assert max(ahead) == bound  # the second worker is slow, so the first one reaches the bound


@pytest.mark.slow
def test_ps_async_reports_a_worker_that_falls_silent(results: list[dict[str, Any]]) -> None:
    worker, silent, server = (rank["silent"] for rank in results)
    assert silent is None
    assert "pull_rows with process 2 failed" in worker and "no message from any worker for 1 s" in server


def test_ps_async_needs_server_processes(tiny: Path) -> None:
    with open_comm("cpu") as comm, pytest.raises(UsageError, match="1 of 1 processes are servers"):
        comm.with_servers(1, 1.0)
    with open_comm("cpu") as comm, pytest.raises(UsageError, match="start more processes"):
        PsAsync(Network(load_model(tiny), 0, torch.float64, "cpu"), Optimizers(), comm)


def test_tables_are_assigned_round_robin() -> None:
    owners = TableOwners.in_turn(5, 3, torch.device("cpu"))
    assert [owners.fields(rank).tolist() for rank in range(3)] == [[0, 3], [1, 4], [2]]
    assert owners.order.tolist() == [0, 3, 1, 4, 2]
    few = TableOwners.in_turn(2, 4, torch.device("cpu"))
    assert list(few.counts) == [1, 1, 0, 0]
