"""Trace folders are read back as written, recovered after a crash, and refused if they are malformed."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dessim.errors import TraceError, UsageError
from dessim.trace import io
from dessim.trace.schema import Header, Op
from tests.test_locks import holder
from tests.trace.build import all_ops, header, step_ops


@pytest.fixture
def trace(tmp_path):
    path = tmp_path / "run.trace"
    io.write_trace(path, header(), all_ops())
    return path


def rewrite(path, change):
    """Replace the lines of a rank file by `change(lines)`."""
    lines = change(gzip.decompress(path.read_bytes()).splitlines(keepends=True))
    path.write_bytes(gzip.compress(b"".join(lines)))


def change_header(path, **changes):
    file = path / io.HEADER_FILE
    raw = json.loads(file.read_text()) | changes
    file.write_text(json.dumps({k: v for k, v in raw.items() if v is not ...}))


def test_a_trace_is_read_back_as_it_was_written(trace):
    read = io.load_trace(trace)
    assert read.header == header()
    assert [list(ops) for ops in read.ranks] == all_ops()
    assert read.problems == ()
    assert [op.name for op in read.step(1, 3)] == ["lookup", "ids", "partials", "backward"]
    assert sorted(p.name for p in trace.parent.iterdir()) == ["run.trace"]


def test_equal_traces_are_equal_files(trace, tmp_path):
    io.write_trace(tmp_path / "b.trace", header(), all_ops())
    for file in trace.iterdir():
        assert (tmp_path / "b.trace" / file.name).read_bytes() == file.read_bytes()


def test_an_earlier_trace_is_replaced_entirely(trace):
    io.write_trace(trace, header(recorded_steps=(2,)), all_ops((2,)))
    assert io.load_trace(trace).header.recorded_steps == (2,)
    assert sorted(p.name for p in trace.parent.iterdir()) == ["run.trace"]


def test_only_traces_and_empty_folders_are_replaced(tmp_path):
    (tmp_path / "papers").mkdir()
    (tmp_path / "papers" / "thesis.txt").write_text("all of it")
    for path in (tmp_path / "papers", tmp_path / "papers" / "thesis.txt", tmp_path / "papers" / ".."):
        with pytest.raises(UsageError, match="exists and is not a trace"):
            io.write_trace(path, header(), all_ops())
    with pytest.raises(UsageError, match="not a name for a trace"):
        io.begin(Path(), header())
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["papers", "thesis.txt"]
    (tmp_path / "empty").mkdir()
    io.write_trace(tmp_path / "empty", header(), all_ops())
    assert io.load_trace(tmp_path / "empty").header.complete


def test_what_another_run_records_is_never_removed(tmp_path):
    path = tmp_path / "run.trace"
    part = io.part_folder(path)
    part.mkdir()
    (part / "thesis.txt").write_text("all of it")
    with pytest.raises(UsageError, match=r"run\.trace\.part: exists and is not a trace"):
        io.begin(path, header())
    (part / "thesis.txt").unlink()
    held = holder(part / io.LOCK_FILE)
    try:
        (part / io.HEADER_FILE).write_text("{}")
        for attempt in (lambda: io.check_free(path), lambda: io.write_trace(path, header(), all_ops())):
            with pytest.raises(UsageError, match=f"process {held.pid} on .* is writing it"):
                attempt()
        io.check_free(path, is_writer=False)
        assert (part / io.HEADER_FILE).read_text() == "{}"
    finally:
        held.kill()
        held.communicate()
    io.write_trace(path, header(), all_ops())
    assert io.load_trace(path).header.complete and not (path / io.LOCK_FILE).exists() and not part.exists()


def test_a_trace_is_locked_until_it_has_its_name(tmp_path, monkeypatch):
    path, rename, locked = tmp_path / "run.trace", Path.rename, []

    def watched(self, target):
        locked.append((self / io.LOCK_FILE).exists())
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", watched)
    io.write_trace(path, header(), all_ops())
    assert locked == [True] and not (path / io.LOCK_FILE).exists()


def test_an_abandoned_trace_keeps_its_steps_and_no_lock(tmp_path):
    path = tmp_path / "run.trace"
    io.begin(path, header())
    io.RankWriter(path, 0).close()
    io.abandon(path)
    assert sorted(p.name for p in io.part_folder(path).iterdir()) == [io.rank_file(0), io.HEADER_FILE]
    with pytest.raises(AttributeError):
        io.write_trace(path, header(), [["no op"]])
    assert not (io.part_folder(path) / io.LOCK_FILE).exists()
    io.write_trace(path, header(), all_ops())
    io.abandon(path)
    assert [p.name for p in tmp_path.iterdir()] == ["run.trace"]


def test_a_full_disk_names_the_file_once(tmp_path):
    """In its own process, because the interpreter reports buffered bytes when it ends."""
    program = """
import os, sys
from pathlib import Path
from dessim.trace import io
from tests.trace.build import header, step_ops
path = Path(sys.argv[1])
io.begin(path, header())
(io.part_folder(path) / io.rank_file(0)).symlink_to("/dev/full")
writer = io.RankWriter(path, 0)
try:
    writer.write_step(step_ops(0, 2))
except OSError as error:
    print(error.filename)
"""
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path / "run.trace")], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == (f"{tmp_path}/run.trace.part/rank-00000.jsonl.gz\n", "")


def test_a_missing_folder_is_an_error(tmp_path):
    with pytest.raises(TraceError, match="no such trace folder"):
        io.load_trace(tmp_path / "absent.trace")


def test_a_missing_rank_is_named(trace):
    (trace / "rank-00001.jsonl.gz").unlink()
    with pytest.raises(TraceError, match=r"rank 1 of 2 is missing: no rank-00001\.jsonl\.gz"):
        io.load_trace(trace)


def test_a_rank_beyond_the_world_size_is_named(trace):
    (trace / "rank-00002.jsonl.gz").write_bytes((trace / "rank-00001.jsonl.gz").read_bytes())
    with pytest.raises(TraceError, match=r"rank-00002\.jsonl\.gz does not belong: trace\.json says world_size 2"):
        io.load_trace(trace)


@pytest.mark.parametrize("lost", [1, 5, 20, 60])
def test_a_torn_end_keeps_the_whole_steps(trace, lost):
    file = trace / "rank-00001.jsonl.gz"
    file.write_bytes(file.read_bytes()[:-lost])
    read = io.load_trace(trace)
    assert len(read.problems) == 1 and "rank-00001.jsonl.gz:" in read.problems[0]
    assert read.header.recorded_steps in ((2, 3), (2,))
    for rank, ops in enumerate(read.ranks):
        assert list(ops) == [op for s in read.header.recorded_steps for op in step_ops(rank, s)]


def test_a_torn_last_line_is_reported_with_its_number(trace):
    file = trace / "rank-00000.jsonl.gz"
    rewrite(file, lambda lines: [*lines[:-1], lines[-1][:20]])
    read = io.load_trace(trace)
    assert read.problems == ("rank-00000.jsonl.gz:12: torn last line",)
    assert read.header.recorded_steps == (2, 3)


def test_a_file_cut_anywhere_is_an_error_or_reported(trace):
    file = trace / "rank-00000.jsonl.gz"
    whole = file.read_bytes()
    for length in range(len(whole)):
        file.write_bytes(whole[:length])
        try:
            read = io.load_trace(trace)
        except TraceError:
            continue
        assert read.problems
        assert set(read.header.recorded_steps) < {2, 3, 4}
        assert list(read.ranks[0]) == [op for s in read.header.recorded_steps for op in step_ops(0, s)]


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_flipped_byte_is_an_error_or_reported_or_changes_nothing(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("flip") / "run.trace"
    io.write_trace(path, header(), all_ops())
    whole = io.load_trace(path)
    file = path / "rank-00000.jsonl.gz"
    raw = bytearray(file.read_bytes())
    where = data.draw(st.integers(10, len(raw) - 1))  # after gzip's header, in which some flags have no effect
    raw[where] ^= data.draw(st.integers(1, 255))
    file.write_bytes(raw)
    try:
        read = io.load_trace(path)
    except TraceError:
        return
    assert read.problems or read == whole  # some bits of gzip only fill a byte


WRITER = """
import os, signal, sys
from pathlib import Path
from dessim.trace import io
from tests.trace.build import header, step_ops
path = Path(sys.argv[1])
io.begin(path, header())
writers = [io.RankWriter(path, rank) for rank in range(2)]
for step in (2, 3, 4):
    for rank, writer in enumerate(writers):
        writer.write_step(step_ops(rank, step))
writers[0]._gzip.write(b'{"id": 50, "step": 5')
writers[0]._gzip.flush()
writers[0]._raw.flush()
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_writer_leaves_a_part_folder_that_can_be_read(tmp_path):
    path = tmp_path / "run.trace"
    done = subprocess.run([sys.executable, "-c", WRITER, str(path)], capture_output=True, check=False)
    assert done.returncode == -9, done.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == ["run.trace.part"]
    with pytest.raises(TraceError, match=r"a run that did not finish has left run\.trace\.part"):
        io.load_trace(path)
    read = io.load_trace(tmp_path / "run.trace.part")
    assert not read.header.complete
    assert "did not finish" in read.problems[0]
    assert read.header.recorded_steps == (2, 3)
    for rank, ops in enumerate(read.ranks):
        assert list(ops) == [op for s in (2, 3) for op in step_ops(rank, s)]


def test_a_killed_writer_leaves_the_earlier_trace(trace):
    done = subprocess.run([sys.executable, "-c", WRITER, str(trace)], capture_output=True, check=False)
    assert done.returncode == -9, done.stderr
    assert io.load_trace(trace).header == header()


def test_a_trace_without_a_whole_step_is_an_error(trace):
    rewrite(trace / "rank-00000.jsonl.gz", lambda lines: [lines[0][:9]])
    with pytest.raises(TraceError, match="no step is whole on every rank"):
        io.load_trace(trace)


LINE = json.dumps(step_ops(0, 2)[1].to_json()).encode()


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (b"{]\n", "not an op"),
        (b"[]\n", "must be a JSON object"),
        (b"null\n", "must be a JSON object"),
        (b"[" * 100_000 + b"\n", "not an op"),
        (b"\xff\xfe\n", "not an op"),
        (b"1" * 5000 + b"\n", "not an op"),
        (LINE.replace(b'"id"', b'"evil": 1, "id"') + b"\n", "unknown key 'evil'"),
        (LINE.replace(b'"bytes": ', b'"bytes": -') + b"\n", "must not be negative"),
        (LINE.replace(b'"bytes": ', b'"bytes": 9999999999999999999') + b"\n", "'bytes' must be a whole number"),
        (LINE.replace(b'"dur_us": 15.0', b'"dur_us": NaN') + b"\n", "'dur_us' must be a finite number"),
        (LINE.replace(b'"dur_us": 15.0', b'"dur_us": Infinity') + b"\n", "'dur_us' must be a finite number"),
        (LINE.replace(b'"dur_us": 15.0', b'"dur_us": true') + b"\n", "'dur_us' must be a finite number"),
        (LINE.replace(b'"all_to_all"', b'"all_to_some"') + b"\n", "'collective' must be one of"),
        (LINE.replace(b'"group": "world", ', b"") + b"\n", "needs 'collective' and 'group'"),
        (LINE.replace(b'"deps": [20]', b'"deps": ["20"]') + b"\n", "'deps' must be a list of whole numbers"),
        (LINE.replace(b'"ids"', b'"' + b"x" * 2000 + b'"') + b"\n", "'name' must be a short text"),
        (LINE.replace(b'"ids"', b'"\\u001b[2J"') + b"\n", "without control characters, not '\\x1b[2J'"),
        (LINE.replace(b'"ids"', b'"\\ud800"') + b"\n", "without control characters, not '\\ud800'"),
        (LINE.replace(b'"vars": {"n": 32.0}', b'"vars": {"n": "os"}') + b"\n", "'n' must be a finite number"),
    ],
)
def test_hostile_lines_are_refused_with_file_and_line(trace, line, says):
    file = trace / "rank-00001.jsonl.gz"
    rewrite(file, lambda lines: [lines[0], line, *lines[1:]])
    with pytest.raises(TraceError) as caught:
        io.load_trace(trace)
    assert str(caught.value).startswith(f"{file}:2: ")
    assert says in str(caught.value)


def test_an_endless_line_is_refused(trace, monkeypatch):
    monkeypatch.setattr(io, "MAX_LINE_BYTES", 1000)
    rewrite(trace / "rank-00000.jsonl.gz", lambda lines: [lines[0], b'"' + b"x" * 2000 + b'"\n'])
    with pytest.raises(TraceError, match="line longer than 1000 bytes"):
        io.load_trace(trace)


def test_a_bomb_is_refused(trace, monkeypatch):
    monkeypatch.setattr(io, "SMALL_BYTES", 100_000)
    monkeypatch.setattr(io, "MAX_RATIO", 20)
    rewrite(trace / "rank-00000.jsonl.gz", lambda lines: lines * 1000)
    with pytest.raises(TraceError, match="unpacks to more than 20 times its size"):
        io.load_trace(trace)


def test_a_file_that_is_not_gzip_is_refused(trace):
    (trace / "rank-00000.jsonl.gz").write_text("hello\n")
    with pytest.raises(TraceError, match="not a gzip file"):
        io.load_trace(trace)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"schema_version": 2}, "schema_version 2; this dessim reads version 1"),
        ({"schema_version": ...}, "schema_version None"),
        ({"colour": "red"}, "unknown key 'colour'"),
        ({"world_size": 0}, "world_size 0 must be between"),
        ({"world_size": 10**12}, "must be between"),
        ({"world_size": 3}, "'clock_offset_us' has 2 entries for 3 ranks"),
        ({"world_size": 1, "clock_offset_us": [0]}, "group 'world' must hold distinct ranks between 0 and 0"),
        ({"groups": {"world": [0, 0]}}, "distinct ranks"),
        ({"groups": {"world": [0, "1"]}}, "list of whole numbers"),
        ({"groups": [1]}, "'groups' must map"),
        ({"symbols": {"N": "two"}}, "'N' must be a finite number"),
        ({"symbols": None}, "'symbols' must map names to numbers"),
        ({"step_us": {"plain": 3}}, "'plain' must be a list of numbers"),
        ({"model": "deepfm"}, "must be objects"),
        ({"software": ...}, "must be objects"),
        ({"name": 7}, "'name' must be a short text"),
    ],
)
def test_a_malformed_header_is_refused_by_key(trace, changes, says):
    change_header(trace, **changes)
    with pytest.raises(TraceError) as caught:
        io.load_trace(trace)
    assert str(caught.value).startswith(f"{trace / io.HEADER_FILE}: ")
    assert says in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "[" * 100_000, "\0", '"x"'])
def test_a_header_that_is_not_a_json_object_is_refused(trace, text):
    (trace / io.HEADER_FILE).write_text(text)
    with pytest.raises(TraceError, match=r"trace\.json"):
        io.load_trace(trace)


def test_a_folder_without_header_is_refused(trace):
    (trace / io.HEADER_FILE).unlink()
    with pytest.raises(TraceError, match=r"trace\.json: cannot be read: No such file"):
        io.load_trace(trace)


def test_ops_and_headers_survive_json():
    for op in (op for ops in all_ops() for op in ops):
        assert Op.from_json(json.loads(json.dumps(op.to_json()))) == op
    empty = replace(header(), complete=False, groups={}, step_us={}, recorded_steps=())
    assert Header.from_json(json.loads(json.dumps(empty.to_json()))) == empty


def test_zero_splits_and_zero_bytes_survive_json():
    op = replace(step_ops(0, 2)[1], bytes=0, splits=(0, 0), start_us=-3.5)
    assert Op.from_json(op.to_json()) == op
