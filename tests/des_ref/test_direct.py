"""A ReduceScatter over gloo: each rank sends the chunks of the others and no more, and sums do not depend on timing.
An AllGather of two ranks: what each brought, in their order."""

from __future__ import annotations

import multiprocessing
import os
import time
from pathlib import Path

import pytest
import torch

from des_ref.cli import leave, run
from des_ref.comm import Comm, open_comm
from des_ref.recording.recorder import Recorder
from dessim.trace.schema import Collective, Kind
from tests.des_ref.ranks import on_ranks

RANKS, ROWS, WIDTH = 3, 4, 5
TYPES = (torch.float32, torch.float64, torch.bfloat16)


def brought(rank: int, dtype: torch.dtype, ranks: int = RANKS) -> torch.Tensor:
    """What a rank brings to a sum: of sizes so far apart that the order of adding shows."""
    noise = torch.randn(ranks * ROWS, WIDTH, generator=torch.Generator().manual_seed(rank))
    return (noise * 10.0 ** (3 * rank)).to(dtype)


def in_rank_order(own: int, ranks: list[int], dtype: torch.dtype) -> torch.Tensor:
    first, *rest = (brought(rank, dtype, len(ranks))[own * ROWS :][:ROWS] for rank in ranks)
    for chunk in rest:
        first = first + chunk
    return first


def sums(comm: Comm) -> dict[str, bool]:
    """Several under way together; in a group of two; of what is not contiguous; of nothing."""
    outs = [torch.full((ROWS, WIDTH), torch.nan, dtype=dtype) for dtype in TYPES]
    handles = [
        comm.reduce_scatter(f"sum{i}", out, brought(comm.rank, dtype))
        for i, (out, dtype) in enumerate(zip(outs, TYPES, strict=True))
    ]
    for handle in reversed(handles):
        handle.wait()
    everyone = list(range(RANKS))
    found = {str(out.dtype): torch.equal(out, in_rank_order(comm.rank, everyone, out.dtype)) for out in outs}
    part = comm.part([0, 2])
    if part is not None:
        out = torch.empty(ROWS, WIDTH)
        part.reduce_scatter("part", out, brought(comm.rank, torch.float32, 2)).wait()
        found["part"] = torch.equal(out, in_rank_order(part.rank, [0, 2], torch.float32))
    out = torch.empty(ROWS, WIDTH)
    comm.reduce_scatter("turned", out, brought(comm.rank, torch.float32).T.contiguous().T).wait()
    found["turned"] = torch.equal(out, in_rank_order(comm.rank, everyone, torch.float32))
    comm.reduce_scatter("nothing", torch.empty(0, WIDTH), torch.empty(0, WIDTH)).wait()
    return found


def test_sums_are_those_in_the_order_of_ranks(tmp_path: Path) -> None:
    found = on_ranks(RANKS, tmp_path, sums)
    names = {str(dtype) for dtype in TYPES} | {"turned"}
    assert [set(of) for of in found] == [names | {"part"}, names, names | {"part"}]
    assert all(all(of.values()) for of in found), found


def test_the_order_of_adding_would_show() -> None:
    forwards, backwards = (in_rank_order(0, order, torch.float32) for order in ([0, 1, 2], [2, 1, 0]))
    assert not torch.equal(forwards, backwards)


def gathers(comm: Comm) -> dict[str, bool]:
    """Several under way together; of what is not contiguous; of nothing; of texts."""
    types = (*TYPES, torch.int64, torch.bool)
    outs = [torch.zeros(2 * ROWS, WIDTH, dtype=dtype) for dtype in types]
    handles = [comm.all_gather(f"gather{i}", out, brought(comm.rank, out.dtype, 1)) for i, out in enumerate(outs)]
    for handle in reversed(handles):
        handle.wait()
    both = [torch.cat([brought(rank, dtype, 1) for rank in range(2)]) for dtype in types]
    found = {str(out.dtype): torch.equal(out, expected) for out, expected in zip(outs, both, strict=True)}
    out = torch.empty(2 * ROWS, WIDTH)
    comm.all_gather("turned", out, brought(comm.rank, torch.float32, 1).T.contiguous().T).wait()
    found["turned"] = torch.equal(out, both[0])
    comm.all_gather("nothing", torch.empty(0, WIDTH), torch.empty(0, WIDTH)).wait()
    found["texts"] = comm.gather_text("texts", ["", "of rank one"][comm.rank]) == ["", "of rank one"]
    return found


def test_two_ranks_gather_in_their_order(tmp_path: Path) -> None:
    found = on_ranks(2, tmp_path, gathers)
    assert len(found) == 2 and all(all(of.values()) for of in found), found


def goes_on(comm: Comm) -> list[list[float]]:
    """Rank 1 comes late: how long rank 0 takes to launch, and to wait."""
    half, whole, found = torch.ones(1 << 18), torch.ones(1 << 19), []
    for launched in (
        lambda: comm.reduce_scatter("late", half, whole),
        lambda: comm.all_gather("late", whole, half),
    ):
        comm.barrier()
        if comm.rank == 1:
            time.sleep(0.5)
        start = time.perf_counter()
        handle = launched()
        waiting = time.perf_counter()
        handle.wait()
        found.append([waiting - start, time.perf_counter() - waiting])
    return found


def test_a_launch_waits_for_nobody(tmp_path: Path) -> None:
    early, _ = on_ranks(2, tmp_path, goes_on)
    assert all(launch < wait for launch, wait in early)  # together they last as long as the other one sleeps


def recorded(comm: Comm) -> list[list[object]]:
    """A step, watched fully and lightly: its collectives."""
    recorder, found = Recorder(comm), []
    for full in (True, False):
        with recorder.step(full=full):
            first = comm.reduce_scatter("first", torch.empty(ROWS, WIDTH), brought(comm.rank, torch.float32))
            second = comm.reduce_scatter("second", torch.empty(2 * ROWS, dtype=torch.float64), torch.ones(24).double())
            second.wait()
            first.wait()
        found.append([(op.name, op.collective, op.bytes, op.dtype, op.group, op.kind) for op in recorder.take()])
    assert recorder.groups == {"world": (0, 1, 2)}
    return found


def test_a_recorder_sees_one_collective_of_the_bytes_that_its_messages_make(tmp_path: Path) -> None:
    expected = [
        ["first", Collective.REDUCE_SCATTER, RANKS * ROWS * WIDTH * 4, "float32", "world", Kind.COLLECTIVE],
        ["second", Collective.REDUCE_SCATTER, RANKS * 2 * ROWS * 8, "float64", "world", Kind.COLLECTIVE],
    ]
    assert on_ranks(RANKS, tmp_path, recorded) == [[expected, expected]] * RANKS


def recorded_pair(comm: Comm) -> list[list[object]]:
    """The same of two ranks, which have two groups."""
    recorder, found = Recorder(comm), []
    for full in (True, False):
        with recorder.step(full=full):
            comm.all_gather("rows", torch.empty(2 * ROWS, WIDTH), torch.ones(ROWS, WIDTH)).wait()
            comm.gather_rows("clocks", [1.0, 2.0, 3.0])
            comm.reduce_scatter("sum", torch.empty(ROWS), torch.ones(2 * ROWS)).wait()
        found.append([(op.name, op.collective, op.bytes, op.dtype, op.group, op.kind) for op in recorder.take()])
    assert recorder.groups == {"world": (0, 1)}
    return found


def test_a_recorder_sees_one_group_of_two_ranks(tmp_path: Path) -> None:
    expected = [
        ["rows", Collective.ALL_GATHER, 2 * ROWS * WIDTH * 4, "float32", "world", Kind.COLLECTIVE],
        ["clocks", Collective.ALL_GATHER, 2 * 3 * 8, "float64", "world", Kind.COLLECTIVE],
        ["sum", Collective.REDUCE_SCATTER, 2 * ROWS * 4, "float32", "world", Kind.COLLECTIVE],
    ]
    assert on_ranks(2, tmp_path, recorded_pair) == [[expected, expected]] * 2


def _dies(rank: int, folder: Path) -> None:
    def main() -> int:
        with open_comm("cpu", (folder / "meeting", rank, 2), 60.0) as comm:
            comm.barrier()
            if rank == 1:
                os._exit(1)
            handle = comm.reduce_scatter("pooled", torch.empty(1 << 20), torch.ones(1 << 21))
            handle.wait()
        return 0

    leave(run("des_ref.train", main))


def test_a_peer_that_is_gone_ends_the_run_with_one_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    context = multiprocessing.get_context("spawn")
    left, gone = (context.Process(target=_dies, args=(rank, tmp_path)) for rank in range(2))
    for process in (left, gone):
        process.start()
    left.join(30)
    alive = left.is_alive()
    for process in (left, gone):
        process.kill()
        process.join()
    assert not alive and left.exitcode == 1
    said = [line for line in capfd.readouterr().err.splitlines() if "des_ref.train" in line]
    assert len(said) == 1 and "rank 0: op pooled failed, because another process has died" in said[0]
