"""The differences of a GPU, tested without one: start-up, messages, the order of launches, times, long sums."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist

from des_ref.async_device import places_of
from des_ref.comm import Comm, group, open_comm
from des_ref.comm.launch import _pick_device, _Placement
from des_ref.data.batch import Batch
from des_ref.data.synthetic import Zipf
from des_ref.device.emulated import EMULATED, emulated
from des_ref.models.build import Network
from des_ref.pipeline import Pipeline, endless
from des_ref.progress import Progress
from des_ref.strategies import build
from des_ref.strategies.base import Counts, Lane, Optimizers
from des_ref.substitution import sums
from des_ref.substitution.sums import RowIndex
from des_ref.training import loop
from dessim.errors import UsageError
from dessim.trace.schema import PREFETCH
from dessim.workload.model import load_model
from tests.des_ref.ranks import on_ranks

GPU = torch.device("cuda", 0)


@pytest.fixture
def four_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)


def device_of(rank: int, processes: int, servers: int, device: str = "auto", per_machine: int = 8) -> torch.device:
    on_this_machine = min(per_machine, processes - rank // per_machine * per_machine)
    placement = _Placement(rank, processes, rank % per_machine, on_this_machine)
    return _pick_device(device, placement, servers)


@pytest.mark.usefixtures("four_gpus")
def test_servers_take_no_gpu() -> None:
    devices = [device_of(rank, 6, 2) for rank in range(6)]
    assert devices == [*(torch.device("cuda", n) for n in range(4)), *[torch.device("cpu")] * 2]
    assert device_of(0, 6, 1).type == "cpu"  # five workers for four GPUs
    with pytest.raises(UsageError, match="5 workers on this machine, but 4 GPUs"):
        device_of(0, 6, 1, "cuda")
    # On the second of two machines of four processes, two are servers.
    assert [device_of(rank, 8, 2, "cuda", 4).type for rank in range(4, 8)] == ["cuda", "cuda", "cpu", "cpu"]


@pytest.mark.usefixtures("four_gpus")
@pytest.mark.parametrize(("servers", "backend", "bound"), [(0, "nccl", GPU), (1, "gloo", None)])
def test_nccl_is_bound_to_its_device_and_never_includes_servers(
    servers: int, backend: str, bound: torch.device | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    started: list[Any] = []
    order: list[str] = []
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: order.append(f"set {device}"))
    monkeypatch.setattr(dist, "init_process_group", lambda *a, **k: (order.append("init"), started.append((a, k))))
    monkeypatch.setattr(dist, "destroy_process_group", lambda: None)
    groups: list[dict[str, Any]] = []
    monkeypatch.setattr(dist, "new_group", lambda **settings: groups.append(settings))
    with open_comm("cuda", (tmp_path / "rendezvous", 0, 3), servers=servers) as comm:
        ((named,), settings) = started[0]
        assert (named, settings.get("device_id")) == (backend, bound)
        assert order == ["set cuda:0", "init"]
        if servers:
            workers = comm.with_servers(servers, 1.0)
            assert comm.device.type == "cpu" and workers.device == GPU and workers.backend == "nccl"
            made = {g["group_desc"]: (g["backend"], g["ranks"]) for g in groups}
            assert made == {"servers": ("gloo", None), "workers": ("nccl", [0, 1])}


class _Stream:
    """A stream that notes in `order` when the host waits for it."""

    def __init__(self, order: list[str]) -> None:
        self._order = order

    def synchronize(self) -> None:
        self._order.append("synchronize")


def test_a_received_message_is_here(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    monkeypatch.setattr(dist, "recv", lambda *a, **k: order.append("recv"))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: _Stream(order))
    Comm(0, 2, GPU, "nccl").receive(torch.zeros(1), 1)
    assert order == ["recv", "synchronize"]


def test_concurrent_messages_are_one_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    batches: list[list[Any]] = []
    monkeypatch.setattr(dist, "P2POp", lambda op, tensor, group, group_peer: (op.__name__, group_peer))
    monkeypatch.setattr(dist, "batch_isend_irecv", lambda ops: batches.append(ops) or [])
    comm = Comm(0, 3, torch.device("cpu"), "gloo")
    comm.exchange([(1, torch.zeros(1)), (2, torch.zeros(1))], [(2, torch.zeros(1))])
    comm.exchange([], [])
    assert batches == [[("irecv", 2), ("isend", 1), ("isend", 2)]]


# -- times ------------------------------------------------------------------------------------------------------------


def test_a_step_lasts_until_its_loss_is_known(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    now = [0.0]
    monkeypatch.setattr(loop.time, "perf_counter", lambda: now[0])

    class Loss(torch.Tensor):
        def __float__(self) -> float:
            now[0] += 3.0  # the device is still at work
            return 0.5

    def step() -> Any:
        now[0] += 1.0
        return SimpleNamespace(loss=Loss(), counts=Counts(1))

    progress = Progress()
    settings = SimpleNamespace(training=SimpleNamespace(steps=2), folder=lambda log: tmp_path)
    comm = Comm(0, 1, torch.device("cpu"), "gloo")
    monkeypatch.setattr(loop, "_global_loss", lambda *a: 0.5)
    run = loop.Run(
        settings=settings,
        opened=None,
        comm=comm,
        strategy=None,
        pipeline=SimpleNamespace(epoch=0, batch=None, step=step),
        progress=progress,
    )  # type: ignore[arg-type]
    loop._train_epoch(run, 0)
    assert progress.step_seconds == [4.0, 4.0]


# -- one launch order -------------------------------------------------------------------------------------------------


def _launches(host: Comm) -> list[Any]:
    """Names of the collectives that this rank launches over both of its groups, the threads that do, and a digest."""
    launched: list[str] = []
    threads = set()
    launch = group.Comm._launch

    def noted(self: Comm, name: str, *arguments: Any, **settings: Any) -> Any:
        launched.append(f"{name} {self._group is not None}")
        threads.add(threading.current_thread() is threading.main_thread())
        return launch(self, name, *arguments, **settings)

    model = load_model("deepfm_ml100k").model_copy(update={"operators": load_model("fm").operators})
    comm = replace(host, device=EMULATED)
    source = Zipf.of(model, 3).open(400)
    group.Comm._launch = noted  # type: ignore[method-assign]
    try:
        with emulated() as counts:
            trainer = build("row_all_to_all", Network(model, 1, torch.float32, EMULATED), Optimizers(), comm)
            pipeline = Pipeline(trainer, comm, endless(source, 32, comm), Lane(comm.separate_group(PREFETCH)))
            for _ in range(3):
                pipeline.step()
            pipeline.close()
        copies = sum(times for line, times in counts.waits.items() if line.startswith(("data/batch", "pipeline")))
    finally:
        group.Comm._launch = launch  # type: ignore[method-assign]
    ahead = build("row_all_to_all", Network(model, 1, torch.float32, "cpu"), Optimizers(), host)
    plain = Pipeline(ahead, host, endless(source, 32, host), None)
    for _ in range(3):
        plain.step()
    same = torch.equal(trainer.table.keys.held, ahead.table.keys)  # type: ignore[attr-defined]
    return [launched, sorted(threads), copies, same]


def test_all_ranks_launch_both_groups_collectives_in_one_order(tmp_path: Path) -> None:
    first, second = on_ranks(2, tmp_path, _launches)
    assert first == second
    launched, from_main_thread, waits_of_copies, is_same = first
    assert from_main_thread == [True] and waits_of_copies == 0 and is_same
    is_prefetch = [name.endswith("True") for name in launched]
    assert True in is_prefetch and False in is_prefetch


# -- sums -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hot", [0, 1, 255, 256, 257, 5000])
def test_sums_of_a_hot_id_are_cut_into_short_parts(hot: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = 7
    row = torch.cat([torch.full((hot,), 3), torch.tensor([0, 0, 5, 2] * 200)])
    terms = torch.randint(-9, 9, (len(row), 2)).to(torch.float64)  # whole numbers: any order gives the same sum
    expected = torch.zeros(rows, 2, dtype=torch.float64).index_add_(0, row, terms)
    longest: list[int] = []
    bag = sums.embedding_bag

    def noted(index: Any, table: Any, offsets: Any, mode: str) -> Any:
        ends = torch.cat([offsets.held[1:], torch.tensor([len(index)])])
        longest.append(int((ends - offsets.held).max()))
        return bag(index, table, offsets, mode=mode)

    assert torch.equal(RowIndex(row).scatter(terms, rows), expected)
    monkeypatch.setattr(sums, "embedding_bag", noted)
    with emulated():
        found = RowIndex(row.to(EMULATED)).scatter(terms.to(EMULATED), rows)
        assert torch.equal(found.cpu(), expected)
    assert max(longest) <= sums._LONGEST_PART


@pytest.mark.parametrize("mask", [[], [False], [True], [True, False, True, True], [False] * 5])
def test_places_are_found_without_a_wait(mask: list[bool]) -> None:
    where = torch.tensor(mask, dtype=torch.bool)
    expected = where.nonzero().squeeze(1)
    with emulated() as counts:
        on_device = where.to(EMULATED, non_blocking=True)
        found = places_of(on_device, len(expected))
        assert not counts.waits
        assert found.tolist() == expected.tolist() == places_of(where).tolist()


def test_a_batch_goes_to_the_device_in_one_queued_copy_a_tensor() -> None:
    batch = Batch.of_columns(torch.arange(6).view(2, 3), torch.zeros(2))
    with emulated() as counts:
        moved = batch.to(EMULATED, non_blocking=True)
        assert not counts.waits and moved.ids.device == EMULATED and moved.place is None
