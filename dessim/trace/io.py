"""Read and write trace folders.

While a run records, its trace is in `NAME.trace.part/`, to which each rank appends whole steps. At the end the folder
is renamed to `NAME.trace/`. A crash therefore leaves a `.part` folder that can still be read: a torn last line is
reported, and the whole steps before it are kept. Traces are untrusted: sizes are bounded, and no content is executed.
"""

from __future__ import annotations

import gzip
import json
import os
import re
import shutil
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

from dessim import locks
from dessim.errors import TraceError, UsageError
from dessim.files import read_json, write_json
from dessim.trace.schema import Header, Op

HEADER_FILE = "trace.json"
PART_SUFFIX = ".part"
LOCK_FILE = "lock.json"  # in the part folder of a run that records
MAX_LINE_BYTES = 4 * 2**20  # an op with splits for 100,000 peers fits
MAX_OPS_PER_RANK = 20_000_000
SMALL_BYTES = 16 * 2**20  # unpacked; a file with more must not be MAX_RATIO times smaller when packed
MAX_RATIO = 100  # of the unpacked to the packed size; recorded ranks have 5 to 10


@dataclass(frozen=True, slots=True)
class Trace:
    """A trace in memory. `ranks[r]` are rank r's ops in file order; `problems` lists data that could not be read."""

    path: Path
    header: Header
    ranks: tuple[tuple[Op, ...], ...]
    problems: tuple[str, ...] = ()

    def step(self, rank: int, step: int) -> tuple[Op, ...]:
        """Rank `rank`'s ops of step `step`, in file order."""
        return tuple(op for op in self.ranks[rank] if op.step == step)


def rank_file(rank: int) -> str:
    """The name of a rank's file."""
    return f"rank-{rank:05d}.jsonl.gz"


def part_folder(path: Path) -> Path:
    """The folder of trace `path` while it is being written."""
    return path.with_name(path.name + PART_SUFFIX)


class RankWriter:
    """Appends the ops of one rank to its file, a whole step at a time.

    `path` is the final folder of the trace; `begin` must have created its part folder.
    """

    def __init__(self, path: Path, rank: int) -> None:
        self._path = part_folder(path) / rank_file(rank)
        self._raw: IO[bytes] = self._path.open("wb")
        self._gzip = gzip.GzipFile("", "wb", compresslevel=6, fileobj=self._raw, mtime=0)

    def write_step(self, ops: Iterable[Op]) -> None:
        """Append all ops of a step. Raises OSError with the name of the file."""
        with self._named():
            for op in ops:
                self._gzip.write(json.dumps(op.to_json(), allow_nan=False, separators=(",", ":")).encode() + b"\n")
            # After a full flush a crash loses only later steps.
            self._gzip.flush(zlib.Z_FULL_FLUSH)
            self._raw.flush()

    def close(self) -> None:
        """Write the end of the file. Raises OSError with its name."""
        with self._named():
            self._gzip.close()
            self._raw.close()

    @contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            # Buffered bytes would be written, and fail, again when these are deleted.
            for file in (self._raw, self._gzip):
                with suppress(OSError, ValueError):
                    file.close()
            raise OSError(error.errno, error.strerror, str(self._path)) from None


def check_free(path: Path, is_writer: bool = True) -> None:
    """Raise UsageError if a trace must not be written to `path`.

    That is the case if `path`, or its part folder, exists and is neither a trace nor an empty folder, and while
    another run writes the part folder. Only the process that will call `begin` judges the latter (`is_writer`): on
    another host the lock of a run that has ended, and that of this run, look like those of another.
    """
    if not path.name:
        raise UsageError(f"{path}: not a name for a trace; write NAME.trace")
    part = part_folder(path)
    for folder in (path, part):
        if folder.exists() and not _may_replace(folder):
            raise UsageError(f"{folder}: exists and is not a trace; name another folder")
    if is_writer:
        locks.refuse_taken(part / LOCK_FILE, str(part))


def _may_replace(folder: Path) -> bool:
    return folder.is_dir() and ((folder / HEADER_FILE).is_file() or {p.name for p in folder.iterdir()} <= {LOCK_FILE})


def begin(path: Path, header: Header) -> None:
    """Create the part folder, with a header marked incomplete. It replaces that of a run of the same name that ended.

    Raises UsageError if a trace must not replace `path` (`check_free`).
    """
    check_free(path)
    part = part_folder(path)
    part.mkdir(parents=True, exist_ok=True)
    locks.take(part / LOCK_FILE, str(part))
    for old in part.iterdir():
        if old.name != LOCK_FILE:
            shutil.rmtree(old) if old.is_dir() and not old.is_symlink() else old.unlink()
    write_json(part / HEADER_FILE, replace(header, complete=False).to_json())


def finish(path: Path, header: Header) -> None:
    """Write the final header and rename the part folder to `path`. Only now an earlier trace at `path` is replaced."""
    part = part_folder(path)
    write_json(part / HEADER_FILE, replace(header, complete=True).to_json())
    old = path.with_name(f".{path.name}.{os.getpid()}.old")
    if path.exists():
        path.rename(old)
    part.rename(path)
    # Without its lock, another run could take the part folder before the rename.
    locks.release(path / LOCK_FILE)
    if old.exists():
        shutil.rmtree(old)


def abandon(path: Path) -> None:
    """Let other runs write to `path`, if this process has begun its trace and not finished it.

    What is recorded stays in the part folder until another run begins.
    """
    locks.release(part_folder(path) / LOCK_FILE)


def write_trace(path: Path, header: Header, ranks: Sequence[Sequence[Op]]) -> None:
    """Write a whole trace at once, as importers and tests do. Raises UsageError as `begin` does."""
    begin(path, header)
    try:
        for rank, ops in enumerate(ranks):
            writer = RankWriter(path, rank)
            writer.write_step(ops)
            writer.close()
        finish(path, header)
    finally:
        abandon(path)


def load_trace(path: str | Path) -> Trace:
    """Read a trace folder. Raises TraceError with file and line; a torn file is reported in `problems` instead."""
    folder = Path(path)
    if not folder.is_dir():
        part = part_folder(folder)
        hint = f"; a run that did not finish has left {part.name}" if part.is_dir() else ""
        raise TraceError(folder, "", f"no such trace folder{hint}")
    header = _load_header(folder)
    problems: list[str] = []
    if not header.complete:
        problems.append("the run that wrote this trace did not finish; steps that every rank finished are kept")
    ranks: list[list[Op]] = []
    is_whole: list[bool] = []
    for rank in range(header.world_size):
        file = folder / rank_file(rank)
        if not file.is_file():
            raise TraceError(folder, "", f"rank {rank} of {header.world_size} is missing: no {file.name}")
        ops, torn = _load_rank(file)
        if torn:
            problems.append(f"{file.name}:{torn}")
        ranks.append(ops)
        is_whole.append(not torn)
    _refuse_extra_ranks(folder, header.world_size)
    if problems:
        header, ranks = _keep_whole_steps(folder, header, ranks, is_whole)
    return Trace(folder, header, tuple(tuple(ops) for ops in ranks), tuple(problems))


def _load_header(folder: Path) -> Header:
    file = folder / HEADER_FILE
    raw = read_json(file, TraceError)
    try:
        return Header.from_json(raw)
    except ValueError as error:
        raise TraceError(file, "", str(error)) from None


def _load_rank(file: Path) -> tuple[list[Op], str]:
    """The ops of one file, and the line and kind of a torn end (empty if the file is whole)."""
    ops: list[Op] = []
    line_number = 0
    unpacked = 0
    try:
        size = file.stat().st_size
        most = max(SMALL_BYTES, MAX_RATIO * size)
        if size == 0:  # gzip accepts an empty file as whole
            return ops, "1: the file is empty"
        with gzip.open(file, "rb") as lines:
            while line := lines.readline(MAX_LINE_BYTES + 1):
                line_number += 1
                if len(line) > MAX_LINE_BYTES:
                    raise TraceError(file, str(line_number), f"line longer than {MAX_LINE_BYTES} bytes")
                unpacked += len(line)
                if unpacked > most:
                    problem = f"unpacks to more than {MAX_RATIO} times its size, as no recorded file does"
                    raise TraceError(file, str(line_number), problem)
                if not line.endswith(b"\n"):
                    return ops, f"{line_number}: torn last line"
                if len(ops) >= MAX_OPS_PER_RANK:
                    raise TraceError(file, str(line_number), f"more than {MAX_OPS_PER_RANK} ops")
                try:
                    ops.append(Op.from_json(json.loads(line)))
                except (ValueError, RecursionError) as error:
                    raise TraceError(file, str(line_number), f"not an op: {error}") from None
    except gzip.BadGzipFile as error:
        raise TraceError(file, str(line_number + 1), f"not a gzip file, or a damaged one: {error}") from None
    except (EOFError, zlib.error):
        return ops, f"{line_number + 1}: the file ends early"
    except OSError as error:
        raise TraceError(file, "", f"cannot be read: {error.strerror or error}") from None
    return ops, ""


def _refuse_extra_ranks(folder: Path, world_size: int) -> None:
    for file in sorted(folder.glob("rank-*.jsonl.gz")):
        match = re.fullmatch(r"rank-(\d+)\.jsonl\.gz", file.name)
        if match and int(match[1]) >= world_size:
            raise TraceError(folder, "", f"{file.name} does not belong: {HEADER_FILE} says world_size {world_size}")


def _keep_whole_steps(
    folder: Path, header: Header, ranks: list[list[Op]], is_whole: list[bool]
) -> tuple[Header, list[list[Op]]]:
    """Drop the steps that are not whole on every rank. `is_whole` says which rank files are not torn."""
    whole_steps = []
    for ops, whole in zip(ranks, is_whole, strict=True):
        steps = sorted({op.step for op in ops})
        # The last step of a torn file may lack ops. The one before it is whole, because ranks append whole steps.
        whole_steps.append(set(steps if whole and header.complete else steps[:-1]))
    kept = set.intersection(*whole_steps)
    if not kept:
        raise TraceError(folder, "", "no step is whole on every rank")
    header = replace(header, recorded_steps=tuple(sorted(kept)))
    return header, [[op for op in ops if op.step in kept] for ops in ranks]
