"""Files are written completely or not at all."""

from __future__ import annotations

import errno
import gzip
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from dessim import files
from dessim.errors import FileError, UsageError


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


def test_a_device_stays_a_device(tmp_path):
    null = tmp_path / "null.csv"
    try:
        os.mknod(null, 0o20666, os.makedev(1, 3))  # what /dev/null is
    except PermissionError:
        pytest.skip("only root may create devices")
    files.write_text(null, "text")
    assert null.is_char_device() and [*tmp_path.iterdir()] == [null]
    with pytest.raises(OSError) as full:
        files.write_text("/dev/full", "text")
    assert (full.value.filename, full.value.errno) == ("/dev/full", errno.ENOSPC)


def test_a_named_pipe_gets_the_text(tmp_path):
    pipe, got = tmp_path / "rows.csv", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: got.append(pipe.read_text()), daemon=True)
    reader.start()
    files.write_text(pipe, "a,b\n")
    reader.join(10)
    assert pipe.is_fifo() and got == ["a,b\n"]


def test_a_link_stays_a_link_and_its_file_is_replaced_whole(tmp_path):
    real, link = tmp_path / "results" / "a.csv", tmp_path / "latest.csv"
    real.parent.mkdir()
    real.write_text("old")
    link.symlink_to(real)
    with pytest.raises(RuntimeError), files.atomic_path(link) as temporary:
        temporary.write_text("half of the n")
        raise RuntimeError("killed")
    assert real.read_text() == "old"
    files.write_text(link, "new")
    assert link.is_symlink() and real.read_text() == "new" and [*real.parent.iterdir()] == [real]


def test_the_file_that_stdout_goes_to_keeps_what_was_printed(tmp_path):
    program = (
        "import sys; from dessim.files import write_text; print('one'); write_text(sys.argv[1], 'two\\n'); print('3')"
    )
    for target in ("/dev/stdout", str(tmp_path / "out")):
        with (tmp_path / "out").open("w") as out:
            subprocess.run(
                [sys.executable, "-c", program, target], stdout=out, check=True, cwd=Path(__file__).parents[1]
            )
        assert (tmp_path / "out").read_text() == "one\ntwo\n3\n"


def test_outputs_that_cannot_be_written_or_would_replace_each_other_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    (tmp_path / "link.csv").symlink_to("a.csv")
    for text, option, name, suffix, beside in [
        ("--csv '.': is a folder", "--csv", "", "", ""),
        ("name it NAME.svg", "--figure", "a.png", ".svg", ".csv"),
        ("--figure also writes a.csv", "--csv", "a.csv", "", ""),
        ("--figure also writes link.csv", "--csv", "link.csv", "", ""),
        ("file is no folder", "--csv", "file/a.csv", "", ""),
    ]:
        outputs = files.Outputs()
        outputs.add("--figure", Path("a.svg"), ".svg", ".csv")
        outputs.add("--html", Path("/dev/null"))
        outputs.add("--timeline", Path("/dev/null"))
        with pytest.raises((UsageError, FileError), match=text):
            outputs.add(option, Path(name), suffix, beside)


def test_the_folder_that_a_rename_changes_must_be_writable(tmp_path, monkeypatch):
    open_, shut = tmp_path / "open", tmp_path / "shut"
    for folder in (open_, shut):
        folder.mkdir()
    (shut / "old.csv").touch()
    (open_ / "link.csv").symlink_to(shut / "new.csv")
    (shut / "link.csv").symlink_to(open_ / "new.csv")
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != shut)  # root may write anywhere
    files.Outputs().add("--csv", shut / "link.csv")
    for name in (shut / "new.csv", shut / "old.csv", open_ / "link.csv"):
        with pytest.raises(FileError, match="cannot be written: no permission"):
            files.Outputs().add("--csv", name)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a = " + "[" * 100_000, "nested deeper than 100 levels"),
        ("a = " + "[" * 101 + "]" * 101, "nested deeper than 100 levels"),
        (".".join("a" * 50_000) + " = 1", "nested deeper than 100 levels"),
        ("b = {" + ".".join("a" * 50_000) + " = 1}", "nested deeper than 100 levels"),
        ("a = " + "9" * 100_000, "not TOML"),
        ("a = 9223372036854775808", "more than 64 bits"),
        ('a = "\\u001b[2J"', "has control characters"),
    ],
)
def test_toml_that_would_crash_its_readers_is_refused(tmp_path, text, problem):
    (tmp_path / "a.toml").write_text(text)
    with pytest.raises(FileError, match=problem):
        files.read_toml(tmp_path / "a.toml")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[" * 100_000, "nested deeper than 100 levels"),
        ("9" * 100_000, "not JSON"),
        ("[9223372036854775808]", "more than 64 bits"),
        ('{"\\ud800": 1}', "has control characters"),
        ('["\\u009b2J"]', "has control characters"),
        ("NaN", "NaN is no number of JSON"),
        ("[1" + ", 1" * 99, "not JSON"),
        (" " * 200, "larger than 100 bytes"),
    ],
)
def test_json_that_would_crash_its_readers_is_refused(tmp_path, text, problem):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(FileError, match=problem):
        files.read_json(tmp_path / "a.json", most_bytes=100 if text.isspace() else files.MAX_BYTES)


def test_numbers_with_dots_are_no_names(tmp_path):
    numbers = ", ".join(["0.5"] * 500)
    (tmp_path / "a.toml").write_text(f"# {'.' * 300}\na = [{numbers}]\nb = [\n{numbers}\n]\n[c.d]\ne.f = 1\n")
    assert files.read_toml(tmp_path / "a.toml")["c"] == {"d": {"e": {"f": 1}}}


def test_printed_json_is_json_in_any_locale():
    value = {"name": "é\ud800\x9b"}
    for encoding in ("utf-8", "ascii", "latin-1"):
        text = files.dump_json(value, encoding)
        assert json.loads(text) == value and text.isascii()
    assert files.dump_json({"name": "é"}) == '{\n  "name": "é"\n}'
