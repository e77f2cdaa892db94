"""Batches are read in order and not too far ahead; a stream ends for all workers at the same batch."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from des_ref.comm import Comm, open_comm
from des_ref.data.bad_rows import BadRows
from des_ref.data.criteo_rows import FIELDS, Integers, parse
from des_ref.stream.drift import Drift
from des_ref.stream.feed import Feed
from des_ref.stream.lines import Lines, Position
from des_ref.stream.reader import Read, Reader, of_drift, of_text
from dessim.errors import DessimError, FileError
from tests.des_ref.ranks import on_ranks
from tests.des_ref.stream.rows import text

LIMIT_S = 20.0
DRIFT = Drift(FIELDS, 1.0, 50, 1.05, 7, 2000)


def until(condition: Any) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_the_reader_stops_at_its_limit_and_continues_when_batches_are_taken() -> None:
    made: list[int] = []

    def batches() -> Iterator[Read]:
        for number in range(20):
            made.append(number)
            yield Read(DRIFT.batch(number, 2), {"row": number})

    reader = Reader(batches(), ahead=3)
    until(lambda: len(made) == 4)  # three that wait, and one that the thread holds
    time.sleep(0.3)
    assert len(made) == 4 and len(reader) == 3 and reader.held_back_s > 0.1
    taken = [reader.take(LIMIT_S) for _ in range(20)]
    assert [read.position["row"] for read in taken if read is not None] == list(range(20))
    assert reader.take(LIMIT_S) is None and reader.has_ended
    reader.close()


def test_closing_ends_the_readers_thread_and_errors_are_raised_by_take() -> None:
    reader = Reader(of_drift(DRIFT, 4, 0, 1), ahead=1)
    until(lambda: len(reader) == 1)
    reader.close()
    reader._thread.join(LIMIT_S)
    assert not reader._thread.is_alive()
    broken = Reader(of_text(Lines(["/nowhere/at/all"], False), 4, BadRows()), ahead=1)
    with pytest.raises(FileError, match="cannot be read: No such file"):
        broken.take(LIMIT_S)


def test_batches_of_text_are_the_good_rows_in_order_with_their_positions(tmp_path: Path) -> None:
    rows = text(25)
    (tmp_path / "a").write_text("".join([*rows[:5], "bad\n", *rows[5:10]]))
    (tmp_path / "b").write_text("".join(rows[10:]))
    names = [str(tmp_path / "a"), str(tmp_path / "b")]
    bad = BadRows(1)
    reads = [read for read in of_text(Lines(names, False), 4, bad) if read is not None]
    assert len(reads) == 6 and bad.shown[0][0] == "6"  # the 25th row does not fill a batch
    ids = torch.cat([read.batch.ids.view(-1, FIELDS) for read in reads])
    expected, labels, _ = parse([row.encode() for row in rows[:24]], "", 1, BadRows())
    assert torch.equal(ids, expected) and torch.equal(torch.cat([read.batch.labels for read in reads]), labels)
    assert [(read.position["name"], read.position["line"]) for read in reads] == [
        ("a", 4), ("a", 9), ("b", 2), ("b", 6), ("b", 10), ("b", 14),
    ]  # fmt: skip
    for number, read in enumerate(reads):
        again = Lines(names, False, Position.from_json(read.position))
        rest = [more for more in of_text(again, 4, BadRows(1)) if more is not None]
        assert torch.equal(
            torch.cat([more.batch.ids for more in rest] or [ids[:0].view(-1)]), ids[4 * (number + 1) :].view(-1)
        )
    with pytest.raises(FileError, match=r"a:6: 1 columns instead of 40 .* bad row 1 exceeds data.max_bad_rows"):
        list(of_text(Lines(names, False), 4, BadRows()))


def _dealt(names: list[str], batch: int, comm: Comm, integers: Integers = Integers.IDS) -> list[Any]:
    reader = Reader(of_text(Lines(names, False), batch, BadRows(), integers), 2) if comm.rank == 0 else None
    share = batch // comm.world_size
    feed = Feed(comm, reader, integers.fields, share=share, stop=threading.Event(), dense=integers.dense_features)
    got = []
    for _, own in feed:
        dense = [] if own.dense is None else own.dense.tolist()
        got.append([own.ids.tolist(), own.labels.tolist(), dense, feed.position() is not None])
    return [got, feed.ended_by]


@pytest.mark.parametrize("integers", Integers)
def test_rank_0_reads_and_sends_each_worker_its_share(integers: Integers, tmp_path: Path) -> None:
    rendezvous, file = tmp_path / "rendezvous", tmp_path / "rows"
    rendezvous.mkdir()
    rows = text(50)
    file.write_text("".join(rows))
    ids, labels, dense = parse([row.encode() for row in rows[:48]], "", 1, BadRows(), integers)
    assert (dense is None) == (integers is not Integers.DENSE)
    work = partial(_dealt, [str(file)], 12, integers=integers)
    for rank, (got, ended_by) in enumerate(on_ranks(2, rendezvous, work)):
        assert ended_by == "end of input" and len(got) == 4
        for number, (own, own_labels, own_dense, knows) in enumerate(got):
            mine = slice(12 * number + 6 * rank, 12 * number + 6 * rank + 6)
            assert own == ids[mine].reshape(-1).tolist() and own_labels == labels[mine].tolist()
            assert own_dense == ([] if dense is None else dense[mine].tolist()) and knows == (rank == 0)


def _problem(names: list[str], comm: Comm) -> str:
    try:
        _dealt(names, 12, comm)
    except DessimError as error:
        return str(error)
    return ""


def test_an_error_of_rank_0s_reader_ends_every_worker(tmp_path: Path) -> None:
    said = on_ranks(2, tmp_path, partial(_problem, [str(tmp_path / "no")]))
    assert len(set(said)) == 1 and "cannot be read: No such file or directory" in said[0]


def _stopped(comm: Comm) -> list[Any]:
    stop = threading.Event()
    reader = Reader(of_drift(DRIFT, 8, comm.rank, comm.world_size), 2)
    feed, batches = Feed(comm, reader, 0, share=4, stop=stop), 0
    for _ in feed:
        batches += 1
        if comm.rank == 1 and batches == 5:
            stop.set()
    reader.close()
    return [batches, feed.ended_by]


def test_a_worker_asked_to_stop_stops_all_at_the_same_batch(tmp_path: Path) -> None:
    assert on_ranks(2, tmp_path, _stopped) == [[5, "stopped"]] * 2


def test_the_feed_waits_for_a_stream_that_pauses() -> None:
    go = threading.Event()

    def batches() -> Iterator[Read | None]:
        while not go.is_set():
            yield None
        yield Read(DRIFT.batch(0, 2), {})

    with open_comm("cpu") as comm:
        reader = Reader(batches(), 1)
        feed = Feed(comm, reader, 0, share=2, stop=threading.Event())
        threading.Timer(0.7, go.set).start()
        assert len(list(feed)) == 1 and feed.starved_s >= 0.6 and feed.ended_by == "end of input"
