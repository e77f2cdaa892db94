"""Reads TOML, JSON and text; checks outputs before the work; replaces files whole.

A file is written to a temporary name beside the target and then renamed, so that a killed process or a full disk leaves
the earlier file unchanged. A link stays a link: the file it points to is replaced. Devices, named pipes and the file
that a standard stream is redirected to are written through, because a rename would remove them.
"""

from __future__ import annotations

import errno
import gzip
import io
import json
import os
import re
import shutil
import stat
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import repeat
from pathlib import Path
from typing import IO, Any

from dessim.errors import FileError, UsageError, is_printable, printable

MAX_BYTES = 64 << 20
"""The largest file that is read whole; a larger one was given by mistake, or to fill the memory."""
MAX_TOML_BYTES = 4 << 20
"""Parsing TOML takes microseconds a byte."""
_MOST_LEVELS = 100
_TOO_DEEP = f"nested deeper than {_MOST_LEVELS} levels"
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`, and rename it to `path` if the block ends without an error.

    The temporary name keeps the suffix, because some writers choose their format by it. An OSError about the temporary
    file is raised with the name of the target. What is written through gets its bytes when the block ends.
    """
    given = Path(path)
    if is_written_through(given):
        with tempfile.TemporaryDirectory() as folder:
            temporary = Path(folder) / given.name
            with _naming(given, temporary):
                yield temporary
                _pour(temporary, given)
        return
    target = Path(os.path.realpath(given)) if given.is_symlink() else given
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.stem}.{os.getpid()}.tmp{target.suffix}")
    try:
        with _naming(given, temporary):
            yield temporary
            temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def _naming(target: Path, temporary: Path) -> Iterator[None]:
    """Raise an OSError about `temporary` with the name of `target`, which a user knows."""
    try:
        yield
    except OSError as error:
        # A full disk raises an error without any name.
        if error.filename == str(temporary) or error.errno in _DISK_FULL:
            raise OSError(error.errno, error.strerror, str(target)) from error
        raise


def is_written_through(path: Path) -> bool:
    """Whether `path` is a device, a named pipe, a socket, or the file of this process's stdout or stderr."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)) or _own_stream(path) is not None


def _own_stream(path: Path) -> int | None:
    """The descriptor of the standard stream that writes to `path`; None if neither does."""
    for descriptor in (1, 2):
        with suppress(OSError):
            if os.path.samestat(path.stat(), os.fstat(descriptor)):
                return descriptor
    return None


def _pour(source: Path, target: Path) -> None:
    """Write the bytes of `source` to `target`, which keeps its place; to an own stream after what it has printed."""
    stream = _own_stream(target)
    if stream is not None:
        (sys.stdout if stream == 1 else sys.stderr).flush()
    handle = os.dup(stream) if stream is not None else os.open(target, os.O_WRONLY)
    try:
        with source.open("rb") as file, os.fdopen(handle, "wb") as out:
            shutil.copyfileobj(file, out)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(target)) from error


class Outputs:
    """The files that a command is to write: each is checked before the work, and no two may be the same file."""

    def __init__(self) -> None:
        self._options: dict[str, str] = {}  # by resolved path

    def add(self, option: str, path: Path, suffix: str = "", beside: str = "") -> None:
        """Take the file of an option. `suffix` is the one that its name must have, `beside` that of a second file.

        Raises UsageError for what is no name of a file and for the file of another option, FileError for what cannot be
        written.
        """
        if path.is_dir():
            raise UsageError(f"{option} {str(path)!r}: is a folder; name a file")
        if suffix and path.suffix != suffix:
            raise UsageError(f"{option} {str(path)!r}: is written as {suffix[1:].upper()}; name it NAME{suffix}")
        target = Path(os.path.realpath(path))  # of a link, the file that is replaced
        above = next(folder for folder in target.parents if folder.exists())
        if not above.is_dir():
            raise FileError(path, "", f"cannot be written: {above} is no folder")
        if not os.access(path if is_written_through(path) else above, os.W_OK):
            raise FileError(path, "", "cannot be written: no permission")
        for file in (path, path.with_suffix(beside)) if beside else (path,):
            other = self._options.setdefault(os.path.realpath(file), option)
            if other != option and not is_written_through(file):
                raise UsageError(f"{option} {str(path)!r}: {other} also writes {file}; name two files")


def read_toml(path: Path, kind: type[FileError] = FileError) -> dict[str, Any]:
    """Return the tables of a TOML file. Raises `kind`, which names the file."""
    text = read_text(path, kind, MAX_TOML_BYTES)
    try:
        return parse_toml(text)
    except ValueError as error:
        raise kind(path, "", f"not TOML: {error}") from None


def read_json(path: Path, kind: type[FileError] = FileError, most_bytes: int = MAX_BYTES) -> Any:
    """Return the content of a JSON file. Raises `kind`, which names the file."""
    text = read_text(path, kind, most_bytes)
    try:
        return parse_json(text)
    except ValueError as error:
        raise kind(path, "", f"not JSON: {error}") from None


def read_text(path: Path, kind: type[FileError] = FileError, most_bytes: int = MAX_BYTES) -> str:
    """Return a file of UTF-8 text. Raises `kind`, also for more than `most_bytes` bytes."""
    try:
        with path.open("rb") as file:
            content = file.read(most_bytes + 1)
        if len(content) > most_bytes:
            raise kind(path, "", f"is larger than {most_bytes:,} bytes")
        return content.decode("utf-8")
    except OSError as error:
        raise kind(path, "", f"cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise kind(path, "", "cannot be read: it is not UTF-8 text") from None
    except ValueError as error:  # a zero byte in the name
        raise kind(path, "", f"cannot be read: {error}") from None


def parse_toml(text: str) -> dict[str, Any]:
    """The tables of untrusted TOML. Raises ValueError, as `require_plain` does too."""
    # The time to read a dotted key grows with the square of its length.
    if any(_names(part) > _MOST_LEVELS for line in text.splitlines() if "." in line for part in line.split("=")):
        raise ValueError(_TOO_DEEP)
    try:
        tables = tomllib.loads(text)
    except RecursionError:
        raise ValueError(_TOO_DEEP) from None
    require_plain(tables)
    return tables


def parse_json(text: str | bytes) -> Any:
    """The value of untrusted JSON. Raises ValueError, as `require_plain` does too."""
    try:
        value = json.loads(text, parse_constant=_refuse_constant)
    except RecursionError:
        raise ValueError(_TOO_DEEP) from None
    require_plain(value)
    return value


def require_plain(value: object) -> None:
    """Raise ValueError for nesting deeper than 100 levels, whole numbers of more than 64 bits, and unprintable text.

    Such values crash what uses them later, and escape sequences in a name would control the terminal that shows it.
    """
    level = [value]
    depth = 0
    while level:
        depth += 1
        if depth > _MOST_LEVELS:
            raise ValueError(_TOO_DEEP)
        below: list[object] = []
        for item in level:
            if isinstance(item, dict):
                below += item.keys()
                below += item.values()
            elif isinstance(item, list):
                below += item
            elif isinstance(item, str) and not is_printable(item):
                raise ValueError(f"the text {printable(item[:40])!r} has control characters")
            elif isinstance(item, int) and not -(2**63) <= item < 2**63:
                raise ValueError("a whole number has more than 64 bits")
        level = below


def _names(text: str) -> int:
    """The names that are joined by dots in what stands before an equals sign, or in the head of a table."""
    return 0 if text.lstrip().startswith("#") else max(map(str.count, re.split(r"[\[{,]", text), repeat("."))) + 1


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no number of JSON")


def write_text(path: str | Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    with (
        atomic_path(path) as temporary,
        temporary.open("w", encoding="utf-8", errors="backslashreplace", newline="\n") as file,
    ):
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def write_json(path: str | Path, value: Any) -> None:
    """Write JSON atomically, with keys in the given order. Raises ValueError for NaN and infinities."""
    write_text(path, dump_json(value) + "\n")


def dump_json(value: Any, encoding: str = "utf-8") -> str:
    """Return JSON as all dessim commands print it: indented, and without NaN.

    Characters are escaped where a terminal would obey one, and where `encoding` lacks one.
    """
    text = json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False)
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return json.dumps(value, indent=2, allow_nan=False)
    return text if is_printable(text) else json.dumps(value, indent=2, allow_nan=False).replace("\x7f", "\\u007f")


@contextmanager
def open_gzip_text(path: str | Path) -> Iterator[IO[str]]:
    """Open a gzip text file for writing. Its bytes depend on the content only: it holds no time stamp or file name."""
    with Path(path).open("wb") as raw, gzip.GzipFile("", "wb", compresslevel=6, fileobj=raw, mtime=0) as packed:
        text = io.TextIOWrapper(packed, encoding="utf-8", newline="\n")
        yield text
        text.flush()
        text.detach()
