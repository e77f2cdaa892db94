"""Files are written completely or not at all."""

from __future__ import annotations

import errno
import gzip
import time
from pathlib import Path

import pytest

from dessim import files


def test_a_new_file_has_the_text_and_no_leftovers(tmp_path):
    files.write_text(tmp_path / "deep" / "er" / "a.txt", "ä\n")
    assert (tmp_path / "deep/er/a.txt").read_bytes() == "ä\n".encode()
    assert [p.name for p in (tmp_path / "deep/er").iterdir()] == ["a.txt"]


def test_an_error_leaves_the_earlier_file(tmp_path):
    target = tmp_path / "a.csv"
    target.write_text("old")
    with pytest.raises(RuntimeError), files.atomic_path(target) as temporary:
        temporary.write_text("half of the n")
        raise RuntimeError("disk full")
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_leaves_the_earlier_file_and_the_error_names_the_target(tmp_path, code):
    target = tmp_path / "a.csv"
    target.write_text("old")
    with pytest.raises(OSError) as raised, files.atomic_path(target) as temporary:
        temporary.write_text("half of the n")
        raise OSError(code, "No space left on device")
    assert (raised.value.filename, raised.value.errno) == (str(target), code)
    assert target.read_text() == "old" and list(tmp_path.iterdir()) == [target]


def test_errors_name_the_target_or_the_other_file_they_are_about(tmp_path):
    with pytest.raises(IsADirectoryError) as raised:
        files.write_text(tmp_path, "text")
    assert raised.value.filename == str(tmp_path)
    with pytest.raises(FileNotFoundError) as missing, files.atomic_path(tmp_path / "a"):
        (tmp_path / "none").read_text()
    assert Path(missing.value.filename) == tmp_path / "none"


def test_the_temporary_name_keeps_the_suffix(tmp_path):
    with files.atomic_path(tmp_path / "figure.svg") as temporary:
        assert temporary.suffix == ".svg" and temporary.parent == tmp_path
        temporary.write_text("x")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {"a": [float("-inf")]}])
def test_numbers_that_json_cannot_express_are_refused(tmp_path, value):
    with pytest.raises(ValueError):
        files.write_json(tmp_path / "a.json", value)
    assert list(tmp_path.iterdir()) == []


def test_gzip_bytes_depend_on_the_content_only(tmp_path, monkeypatch):
    def pack(name):
        with files.open_gzip_text(tmp_path / name) as file:
            file.write("ä line\n")
        return (tmp_path / name).read_bytes()

    first = pack("a.gz")
    monkeypatch.setattr(time, "time", lambda: 2e9)
    assert pack("b.gz") == first
    assert gzip.decompress(first).decode() == "ä line\n"
