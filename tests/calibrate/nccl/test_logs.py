"""Logs of nccl-tests are read right, or refused by line; nothing in them causes a traceback."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from dessim.calibrate.nccl.logs import Log, read_logs
from dessim.calibrate.nccl.readings import op_named
from dessim.errors import DessimError, FileError
from dessim.trace.schema import Collective
from tests.calibrate.nccl.logs import TIMES, header, log, row


def read(tmp_path: Path, text: str | bytes, name: str = "run.log") -> list[Log]:
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_logs(path)


def times(run: Log) -> list[tuple[float, float]]:
    return [(row.size, row.microseconds) for row in run.rows]


def test_a_log_is_read(tmp_path: Path) -> None:
    (run,) = read(tmp_path, log(ranks=16, hosts=2))
    assert times(run) == [(size, time) for size, time in TIMES]
    assert {row.op for row in run.rows} == {Collective.ALL_REDUCE}
    assert (run.ranks, run.hosts, run.version, run.gpus_per_process) == (16, ["node0", "node1"], "2.29", 1)
    assert run.rows[0].line == len(header(ranks=16)) + 1


def test_windows_line_ends(tmp_path: Path) -> None:
    (run,) = read(tmp_path, log().replace("\n", "\r\n"))
    assert len(run.rows) == len(TIMES)


@pytest.mark.parametrize("kept", [1, 12, 14, 30, 45, 57, 64])
def test_a_torn_last_line_is_left_out_or_still_whole(tmp_path: Path, kept: int) -> None:
    whole = "\n".join([*header(), row(8, 13.42), row(16, 13.9), ""])
    (run,) = read(tmp_path, whole + row(1048576, 36.9)[:kept])
    assert times(run)[:2] == [(8, 13.42), (16, 13.9)]
    assert len(run.rows) == 3 or run.skipped or kept == 1


def test_wrong_results_are_refused_by_line(tmp_path: Path) -> None:
    text = log().replace("# Out of bounds values : 0 OK", "# Out of bounds values : 3 FAILED")
    line = text.splitlines().index("# Out of bounds values : 3 FAILED") + 1
    with pytest.raises(FileError, match=f"line {line}: 3 results of this run were wrong"):
        read(tmp_path, text)
    with pytest.raises(FileError, match=rf"line {len(header()) + 1}: 2 results were wrong"):
        read(tmp_path, "\n".join([*header(), row(8, 13.42, wrong=2), ""]))


def test_sizes_of_zero_are_no_readings(tmp_path: Path) -> None:
    (run,) = read(tmp_path, log(times=[(0, 9.9), (0, 10.1), *TIMES]))
    assert len(run.rows) == len(TIMES)


def test_two_runs_in_one_file(tmp_path: Path) -> None:
    first, second = read(tmp_path, log(ranks=8) + log("alltoall", ranks=4))
    assert (first.ranks, second.ranks) == (8, 4)
    assert {row.op for row in second.rows} == {Collective.ALL_TO_ALL}


def test_columns_of_old_versions(tmp_path: Path) -> None:
    old = [
        "# nThread 1 nGpus 8 minBytes 8 maxBytes 134217728 step: 2(factor) warmup iters: 5 iters: 20 validation: 1",
        "#                                             out-of-place                       in-place",
        "#       size         count    type   redop     time   algbw   busbw  error     time   algbw   busbw  error",
        "           8             2   float     sum    48.51    0.00    0.00  2e-07    48.30    0.00    0.00  1e-07",
        "    33554432       8388608   float     sum    550.8   60.92  106.61  5e-07    551.0   60.90  106.57  5e-07",
        "   134217728      33554432   float     sum   18188    73.80  129.15  5e-07   18186    73.80  129.15  5e-07",
        "",
    ]
    (run,) = read(tmp_path, "\n".join(old), "all_reduce.txt")
    assert times(run) == [(8, 48.51), (33554432, 550.8), (134217728, 18188)]
    assert run.gpus_per_process == 8


def test_a_root_is_no_time_and_in_place_stands_in(tmp_path: Path) -> None:
    lines = [
        *header("broadcast"),
        "   1024     256   float    none       0    34.80    0.03    0.03      0    34.70    0.03    0.03      0",
        "   2048     512   float    none       2     N/A     N/A     N/A    N/A    35.10    0.06    0.06    N/A",
        "",
    ]
    (run,) = read(tmp_path, "\n".join(lines))
    assert times(run) == [(1024, 34.8), (2048, 35.1)]


def test_without_a_header_the_name_of_the_file_tells_the_op(tmp_path: Path) -> None:
    text = "\n".join(row(size, time, "all_gather") for size, time in TIMES) + "\n"
    (run,) = read(tmp_path, text, "h100-all_gather_perf.log")
    assert {row.op for row in run.rows} == {Collective.ALL_GATHER}
    assert times(run) == list(TIMES)
    with pytest.raises(FileError, match="line 1: belongs to no op; name the file after it"):
        read(tmp_path, text, "run.log")


def test_json(tmp_path: Path) -> None:
    result = {"size": 1024, "count": 256, "type": "float", "out_of_place": {"time": 15.5, "bus_bw": 0.1, "nwrong": 0}}
    found = {
        "config": {"nranks": 8, "collective": "AllReduce"},
        "devices": [{"rank": r, "hostname": "a"} for r in range(8)],
        "results": [{**result, "size": 0}, result, {"size": 8, "in_place": {"time": 13.1}}],
    }
    (run,) = read(tmp_path, json.dumps(found), "run.json")
    assert times(run) == [(1024, 15.5), (8, 13.1)]
    assert (run.ranks, run.hosts) == (8, ["a"])
    with pytest.raises(FileError, match="results, entry 1: has no size and time"):
        read(tmp_path, json.dumps({"results": [{"size": 8}], "config": {}}), "all_reduce.json")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "has no readings"),
        ("hello\nworld\n", "has no readings"),
        ("{", "begins as JSON and is none"),
        ("[1, 2]", "not of nccl-tests"),
        (b"\xff\xfe\x00", "is not UTF-8 text"),
        ("\n".join([*header(), "1024 256 float sum -1 nan 0.1 0.1 0", ""]), "line 17: has no time"),
        ("\n".join([*header(), "1024 256 float sum -1 0.00 0.1 0.1 0", ""]), "line 17: a time of 0 us"),
        ("\n".join([*header(), "1024 256 float", ""]), "line 17: has no time"),
    ],
)
def test_what_is_no_log_is_refused(tmp_path: Path, text: str | bytes, problem: str) -> None:
    with pytest.raises(FileError, match=problem):
        read(tmp_path, text)


def test_names_of_ops() -> None:
    assert op_named("AllReduce") is Collective.ALL_REDUCE and op_named("sendrecv_perf") is Collective.SEND_RECV
    assert op_named("hypercube") is None


def test_no_mutation_of_a_log_causes_a_traceback(tmp_path: Path) -> None:
    rng = random.Random(15)
    sources = [log().encode(), (log(ranks=4) + log("alltoall")).replace("\n", "\r\n").encode()]
    result = {"size": 1024, "out_of_place": {"time": 15.5, "bus_bw": 0.1, "nwrong": 0}}
    sources.append(json.dumps({"config": {"nranks": 8}, "results": [result] * 4}).encode())
    read_right = 0
    for number in range(2000):
        text = bytearray(sources[number % len(sources)])
        for _ in range(rng.randint(1, 12)):
            _mutate(rng, text)
        path = tmp_path / ("all_reduce.json" if number % 3 == 2 else "all_reduce.log")
        path.write_bytes(bytes(text))
        try:
            read_right += bool(read_logs(path))
        except DessimError as error:
            assert str(error).count("\n") == 0
    assert 200 < read_right < 2000


def _mutate(rng: random.Random, text: bytearray) -> None:
    at = rng.randrange(len(text)) if text else 0
    kind = rng.randrange(5)
    if kind == 0:
        text[at : at + 1] = bytes([rng.randrange(256)])
    elif kind == 1:
        del text[at : at + rng.randint(1, 40)]
    elif kind == 2:
        text[at:at] = rng.choice([b"-", b"nan", b"1e999", b"\x00", b"#", b"9" * 30, b"N/A", b"\n", b" 0 ", b"FAILED"])
    elif kind == 3:
        text[at:at] = text[at : at + rng.randint(1, 200)]
    else:
        del text[max(1, at) :]
