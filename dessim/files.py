"""Reads TOML, and writes files completely or not at all.

A file is written to a temporary name beside the target and then renamed, so that a killed process or a full disk leaves
the earlier file unchanged.
"""

from __future__ import annotations

import errno
import gzip
import io
import json
import os
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from dessim.errors import FileError

_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`, and rename it to `path` if the block ends without an error.

    The temporary name keeps the suffix, because some writers choose their format by it. An OSError about the temporary
    file is raised with the name of the target.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.stem}.{os.getpid()}.tmp{target.suffix}")
    try:
        yield temporary
        temporary.replace(target)
    except OSError as error:
        # A user does not know the temporary name, and a full disk raises an error without any name.
        if error.filename == str(temporary) or error.errno in _DISK_FULL:
            raise OSError(error.errno, error.strerror, str(target)) from error
        raise
    finally:
        temporary.unlink(missing_ok=True)


def read_toml(path: Path) -> dict[str, Any]:
    """Return the tables of a TOML file. Raises FileError, which names the file."""
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise FileError(path, "", f"not TOML: {error}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise FileError(path, "", f"cannot be read: {error}") from None


def write_text(path: str | Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def write_json(path: str | Path, value: Any) -> None:
    """Write JSON atomically, with keys in the given order. Raises ValueError for NaN and infinities."""
    write_text(path, dump_json(value) + "\n")


def dump_json(value: Any) -> str:
    """Return JSON as all dessim commands print it: indented, and without NaN."""
    return json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False)


@contextmanager
def open_gzip_text(path: str | Path) -> Iterator[IO[str]]:
    """Open a gzip text file for writing. Its bytes depend on the content only: it holds no time stamp or file name."""
    with Path(path).open("wb") as raw, gzip.GzipFile("", "wb", compresslevel=6, fileobj=raw, mtime=0) as packed:
        text = io.TextIOWrapper(packed, encoding="utf-8", newline="\n")
        yield text
        text.flush()
        text.detach()
