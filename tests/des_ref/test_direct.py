"""ReduceScatter and two-rank AllGather built from gloo messages: results, bytes on the wire, determinism, errors."""

from __future__ import annotations

import os
import time
from pathlib import Path

import torch

from des_ref.cli import run
from des_ref.comm import Comm, open_comm
from des_ref.forked import forking_context
from des_ref.recording.recorder import Recorder
from dessim.processes import leave
from dessim.trace.schema import Collective, Kind
from tests.des_ref.ranks import on_ranks, stderr_to

RANKS, ROWS, WIDTH = 3, 4, 5
TYPES = (torch.float32, torch.float64, torch.bfloat16)


def rank_input(rank: int, dtype: torch.dtype, ranks: int = RANKS) -> torch.Tensor:
    """A rank's summand. Magnitudes differ so much between ranks that the order of addition changes the result."""
    noise = torch.randn(ranks * ROWS, WIDTH, generator=torch.Generator().manual_seed(rank))
    return (noise * 10.0 ** (3 * rank)).to(dtype)


def sum_in_order(own: int, ranks: list[int], dtype: torch.dtype) -> torch.Tensor:
    first, *rest = (rank_input(rank, dtype, len(ranks))[own * ROWS :][:ROWS] for rank in ranks)
    for chunk in rest:
        first = first + chunk
    return first


def sums(comm: Comm) -> dict[str, bool]:
    """Several in flight together, a group of two, a non-contiguous input, an empty input: whether each sum is right."""
    outs = [torch.full((ROWS, WIDTH), torch.nan, dtype=dtype) for dtype in TYPES]
    handles = [
        comm.reduce_scatter(f"sum{i}", out, rank_input(comm.rank, dtype))
        for i, (out, dtype) in enumerate(zip(outs, TYPES, strict=True))
    ]
    for handle in reversed(handles):
        handle.wait()
    everyone = list(range(RANKS))
    found = {str(out.dtype): torch.equal(out, sum_in_order(comm.rank, everyone, out.dtype)) for out in outs}
    part = comm.subgroup([0, 2])
    if part is not None:
        out = torch.empty(ROWS, WIDTH)
        part.reduce_scatter("part", out, rank_input(comm.rank, torch.float32, 2)).wait()
        found["part"] = torch.equal(out, sum_in_order(part.rank, [0, 2], torch.float32))
    out = torch.empty(ROWS, WIDTH)
    comm.reduce_scatter("non-contiguous", out, rank_input(comm.rank, torch.float32).T.contiguous().T).wait()
    found["non-contiguous"] = torch.equal(out, sum_in_order(comm.rank, everyone, torch.float32))
    comm.reduce_scatter("empty", torch.empty(0, WIDTH), torch.empty(0, WIDTH)).wait()
    return found


def test_sums_are_added_in_rank_order(tmp_path: Path) -> None:
    found = on_ranks(RANKS, tmp_path, sums)
    names = {str(dtype) for dtype in TYPES} | {"non-contiguous"}
    assert [set(result) for result in found] == [names | {"part"}, names, names | {"part"}]
    assert all(all(result.values()) for result in found), found


def test_the_inputs_reveal_the_order_of_addition() -> None:
    forwards, backwards = (sum_in_order(0, order, torch.float32) for order in ([0, 1, 2], [2, 1, 0]))
    assert not torch.equal(forwards, backwards)


def gathers(comm: Comm) -> dict[str, bool]:
    """Several in flight together, a non-contiguous input, an empty input, texts: whether each result is right."""
    types = (*TYPES, torch.int64, torch.bool)
    outs = [torch.zeros(2 * ROWS, WIDTH, dtype=dtype) for dtype in types]
    handles = [comm.all_gather(f"gather{i}", out, rank_input(comm.rank, out.dtype, 1)) for i, out in enumerate(outs)]
    for handle in reversed(handles):
        handle.wait()
    both = [torch.cat([rank_input(rank, dtype, 1) for rank in range(2)]) for dtype in types]
    found = {str(out.dtype): torch.equal(out, expected) for out, expected in zip(outs, both, strict=True)}
    out = torch.empty(2 * ROWS, WIDTH)
    comm.all_gather("non-contiguous", out, rank_input(comm.rank, torch.float32, 1).T.contiguous().T).wait()
    found["non-contiguous"] = torch.equal(out, both[0])
    comm.all_gather("empty", torch.empty(0, WIDTH), torch.empty(0, WIDTH)).wait()
    found["texts"] = comm.gather_text("texts", ["", "of rank one"][comm.rank]) == ["", "of rank one"]
    return found


def test_two_ranks_gather_in_rank_order(tmp_path: Path) -> None:
    found = on_ranks(2, tmp_path, gathers)
    assert len(found) == 2 and all(all(result.values()) for result in found), found


def launch_and_wait_times(comm: Comm) -> list[list[float]]:
    """Seconds that rank 0 takes to launch and to wait when rank 1 is late."""
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


def test_a_launch_does_not_wait_for_other_ranks(tmp_path: Path) -> None:
    early, _ = on_ranks(2, tmp_path, launch_and_wait_times)
    assert all(launch < wait for launch, wait in early)  # the sum of both is the time that rank 1 sleeps


def recorded(comm: Comm) -> list[list[object]]:
    """The collectives of a step, recorded in full and in light mode."""
    recorder, found = Recorder(comm), []
    for full in (True, False):
        with recorder.step(full=full):
            first = comm.reduce_scatter("first", torch.empty(ROWS, WIDTH), rank_input(comm.rank, torch.float32))
            second = comm.reduce_scatter("second", torch.empty(2 * ROWS, dtype=torch.float64), torch.ones(24).double())
            second.wait()
            first.wait()
        found.append([(op.name, op.collective, op.bytes, op.dtype, op.group, op.kind) for op in recorder.take()])
    assert recorder.groups == {"world": (0, 1, 2)}
    return found


def test_a_recorder_sees_one_collective_with_the_total_bytes(tmp_path: Path) -> None:
    expected = [
        ["first", Collective.REDUCE_SCATTER, RANKS * ROWS * WIDTH * 4, "float32", "world", Kind.COLLECTIVE],
        ["second", Collective.REDUCE_SCATTER, RANKS * 2 * ROWS * 8, "float64", "world", Kind.COLLECTIVE],
    ]
    assert on_ranks(RANKS, tmp_path, recorded) == [[expected, expected]] * RANKS


def recorded_pair(comm: Comm) -> list[list[object]]:
    """The same for two ranks, which have two process groups."""
    recorder, found = Recorder(comm), []
    for full in (True, False):
        with recorder.step(full=full):
            comm.all_gather("rows", torch.empty(2 * ROWS, WIDTH), torch.ones(ROWS, WIDTH)).wait()
            comm.gather_rows("clocks", [1.0, 2.0, 3.0])
            comm.reduce_scatter("sum", torch.empty(ROWS), torch.ones(2 * ROWS)).wait()
        found.append([(op.name, op.collective, op.bytes, op.dtype, op.group, op.kind) for op in recorder.take()])
    assert recorder.groups == {"world": (0, 1)}
    return found


def test_a_recorder_sees_one_group_between_two_ranks(tmp_path: Path) -> None:
    expected = [
        ["rows", Collective.ALL_GATHER, 2 * ROWS * WIDTH * 4, "float32", "world", Kind.COLLECTIVE],
        ["clocks", Collective.ALL_GATHER, 2 * 3 * 8, "float64", "world", Kind.COLLECTIVE],
        ["sum", Collective.REDUCE_SCATTER, 2 * ROWS * 4, "float32", "world", Kind.COLLECTIVE],
    ]
    assert on_ranks(2, tmp_path, recorded_pair) == [[expected, expected]] * 2


def _run_until_peer_dies(rank: int, folder: Path) -> None:
    stderr_to(folder / "said")

    def main() -> int:
        with open_comm("cpu", (folder / "rendezvous", rank, 2), 60.0) as comm:
            comm.barrier()
            if rank == 1:
                os._exit(1)
            handle = comm.reduce_scatter("pooled", torch.empty(1 << 20), torch.ones(1 << 21))
            handle.wait()
        return 0

    leave(run("des_ref.train", main))


def test_losing_a_peer_ends_the_run_with_a_one_line_error(tmp_path: Path) -> None:
    context = forking_context()
    survivor, gone = (context.Process(target=_run_until_peer_dies, args=(rank, tmp_path)) for rank in range(2))
    for process in (survivor, gone):
        process.start()
    survivor.join(240)
    alive = survivor.is_alive()
    for process in (survivor, gone):
        process.kill()
        process.join()
    assert not alive and survivor.exitcode == 1
    errors = [line for line in (tmp_path / "said").read_text().splitlines() if "des_ref.train" in line]
    assert len(errors) == 1 and "rank 0: op pooled failed, because another process has died" in errors[0]
