"""Lines arrive complete and once, from every kind of input, and from any position where a run stopped."""

from __future__ import annotations

import gzip
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from des_ref.stream.lines import Lines, Position, is_seekable
from dessim.errors import FileError

LIMIT_S = 20.0


def all_of(lines: Lines, most: int = 3, count: int | None = None) -> list[bytes]:
    """The lines up to the end, or the first `count`."""
    got: list[bytes] = []
    deadline = time.monotonic() + LIMIT_S
    while not lines.has_ended and (count is None or len(got) < count):
        assert time.monotonic() < deadline
        got += lines.take(most)
    return got


def test_files_are_read_in_order_and_a_last_line_needs_no_newline(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("1\n2\n3\n4\n")
    (tmp_path / "b.gz").write_bytes(gzip.compress(b"5\n6"))
    (tmp_path / "c").write_text("")
    (tmp_path / "d").write_text("7\n")
    names = [str(tmp_path / name) for name in ("a", "b.gz", "c", "d")]
    assert all_of(Lines(names, follow=False)) == [b"1\n", b"2\n", b"3\n", b"4\n", b"5\n", b"6", b"7\n"]


@pytest.mark.parametrize("stop", range(1, 9))
def test_reading_resumes_at_the_next_line(stop: int, tmp_path: Path) -> None:
    (tmp_path / "a").write_text("one\ntwo\nthree\n")
    (tmp_path / "b.gz").write_bytes(gzip.compress(b"four\nfive\nsix\n"))
    (tmp_path / "c").write_text("seven\neight")
    names = [str(tmp_path / name) for name in ("a", "b.gz", "c")]
    whole = all_of(Lines(names, follow=False))
    first = Lines(names, follow=False)
    before = all_of(first, most=1, count=stop)
    saved = Position.from_json(first.position.to_json())
    again = Lines(names, follow=False, start=saved)
    assert before + all_of(again) == whole
    assert saved.line == [1, 2, 3, 1, 2, 3, 1, 2][stop - 1]


def test_a_growing_file_is_followed(tmp_path: Path) -> None:
    file = tmp_path / "growing"
    file.write_text("1\n2")
    lines = Lines([str(file)], follow=True)
    assert all_of(lines, count=1) == [b"1\n"]
    assert lines.take(9) == [] and not lines.has_ended  # the second line has no newline yet
    with file.open("a") as more:
        more.write("2\n3\n")
    assert all_of(lines, count=2) == [b"22\n", b"3\n"]
    file.write_text("x\n")
    with pytest.raises(FileError, match=r"growing: has 2 bytes, but 7 were read: it has been replaced or cut"):
        all_of(lines)


def test_a_named_pipe_waits_for_its_writers(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    lines = Lines([str(pipe)], follow=False)
    assert lines.take(1) == [] and not lines.has_ended  # no writer yet

    def write() -> None:
        with pipe.open("w") as out:
            out.write("1\n2\n")

    writer = threading.Thread(target=write)
    writer.start()
    assert all_of(lines) == [b"1\n", b"2\n"]
    writer.join()
    assert not is_seekable(str(pipe)) and is_seekable(str(tmp_path / "not there"))


def test_standard_input_is_an_input(tmp_path: Path) -> None:
    program = (
        "from des_ref.stream.lines import Lines\nl = Lines(['-'], False)\n"
        "while not l.has_ended: print(*[x.decode().strip() for x in l.take(9)], end=' ')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], input="a\nb\nc\n", capture_output=True, text=True, timeout=60
    )
    assert done.stdout.split() == ["a", "b", "c"], done.stderr


def test_mistakes_name_the_input(tmp_path: Path) -> None:
    packed = tmp_path / "a.gz"
    packed.write_bytes(gzip.compress(b"1\n" * 99)[:-12])
    plain = tmp_path / "plain"
    plain.write_text("1\n")
    moved = Position(0, "other", 2, 1)
    for names, follow, start, problem in (
        ([tmp_path / "no"], False, None, "no: cannot be read: No such file or directory"),
        ([tmp_path], False, None, "is a folder: name its files, in their order"),
        ([packed], False, None, "a.gz: cannot be read: "),
        ([packed], True, None, "is packed, and stream.follow"),
        ([plain], False, moved, "plain: input 1 was other before: give the same inputs, or more"),
        (
            [plain],
            False,
            Position(0, "plain", 9, 4),
            "plain: has 2 bytes, but 9 were read: it has been replaced",
        ),
        ([plain], False, Position(3, "plain", 0, 0), "input 4 was plain before, and there are 1 now"),
    ):
        with pytest.raises(FileError) as caught:
            all_of(Lines([str(name) for name in names], follow, start))
        assert problem in str(caught.value)
    (tmp_path / "long").write_bytes(b"x" * (3 << 20))
    with pytest.raises(FileError, match=r"long:1: has more than 1,048,576 bytes"):
        all_of(Lines([str(tmp_path / "long")], follow=False))
