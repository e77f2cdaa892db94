"""Read and write trace folders.

While a run records, its trace lives in `NAME.trace.part/` and each rank appends whole steps; when all is written the
folder is renamed to `NAME.trace/`. A crash therefore leaves a `.part` folder that can still be read: a torn last line
is reported and the whole steps before it are kept. Nothing read is ever executed, and sizes are bounded.
"""

from __future__ import annotations

import gzip
import json
import os
import re
import shutil
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

from dessim.errors import TraceError, UsageError
from dessim.files import write_json
from dessim.trace.schema import Header, Op

HEADER_FILE = "trace.json"
PART_SUFFIX = ".part"
MAX_HEADER_BYTES = 64 * 2**20  # a million clock offsets fit
MAX_LINE_BYTES = 4 * 2**20  # an op with splits for 100,000 peers fits
MAX_OPS_PER_RANK = 20_000_000


@dataclass(frozen=True, slots=True)
class Trace:
    """A trace in memory. `ranks[r]` are rank r's ops in file order; `problems` says what was lost in reading."""

    path: Path
    header: Header
    ranks: tuple[tuple[Op, ...], ...]
    problems: tuple[str, ...] = ()

    def step(self, rank: int, step: int) -> tuple[Op, ...]:
        """Rank `rank`'s ops of step `step`, in file order."""
        return tuple(op for op in self.ranks[rank] if op.step == step)


def rank_file(rank: int) -> str:
    return f"rank-{rank:05d}.jsonl.gz"


def part_folder(path: Path) -> Path:
    """Where a trace that will be called `path` lives while it is being written."""
    return path.with_name(path.name + PART_SUFFIX)


class RankWriter:
    """Appends the ops of one rank, a whole step at a time. Every rank of a run uses its own.

    `path` is the final folder; the part folder must exist (`begin`).
    """

    def __init__(self, path: Path, rank: int) -> None:
        self._raw: IO[bytes] = (part_folder(path) / rank_file(rank)).open("wb")
        self._gzip = gzip.GzipFile("", "wb", compresslevel=6, fileobj=self._raw, mtime=0)

    def write_step(self, ops: Iterable[Op]) -> None:
        for op in ops:
            self._gzip.write(json.dumps(op.to_json(), allow_nan=False, separators=(",", ":")).encode() + b"\n")
        # A full flush: what a crash leaves behind ends at a step.
        self._gzip.flush(zlib.Z_FULL_FLUSH)
        self._raw.flush()

    def close(self) -> None:
        self._gzip.close()
        self._raw.close()


def check_free(path: Path) -> None:
    """Raise UsageError where something stands that a trace must not replace: all but a trace and an empty folder."""
    if not path.name:
        raise UsageError(f"{path}: is no name of a trace; write NAME.trace")
    if path.exists() and not (path / HEADER_FILE).is_file() and not (path.is_dir() and not any(path.iterdir())):
        raise UsageError(f"{path}: exists and is not a trace; name another folder")


def begin(path: Path, header: Header) -> None:
    """Create the part folder with a header marked incomplete. An earlier part folder of the same name is replaced."""
    check_free(path)
    part = part_folder(path)
    if part.exists():
        shutil.rmtree(part)
    part.mkdir(parents=True)
    write_json(part / HEADER_FILE, replace(header, complete=False).to_json())


def finish(path: Path, header: Header) -> None:
    """Write the final header and give the folder its name; an earlier trace of that name is replaced only now."""
    part = part_folder(path)
    write_json(part / HEADER_FILE, replace(header, complete=True).to_json())
    old = path.with_name(f".{path.name}.{os.getpid()}.old")
    if path.exists():
        path.rename(old)
    part.rename(path)
    if old.exists():
        shutil.rmtree(old)


def write_trace(path: Path, header: Header, ranks: Sequence[Sequence[Op]]) -> None:
    """Write a whole trace at once (importers, tests)."""
    begin(path, header)
    for rank, ops in enumerate(ranks):
        writer = RankWriter(path, rank)
        writer.write_step(ops)
        writer.close()
    finish(path, header)


def load_trace(path: str | Path) -> Trace:
    """Read a trace folder. Raises TraceError with file and line; a torn end is reported in `problems` instead."""
    folder = Path(path)
    if not folder.is_dir():
        part = part_folder(folder)
        hint = f"; {part.name} is there, left by a run that did not end" if part.is_dir() else ""
        raise TraceError(folder, "", f"no such trace folder{hint}")
    header = _load_header(folder)
    problems: list[str] = []
    if not header.complete:
        problems.append("the run that wrote this trace did not end; steps that every rank finished are kept")
    ranks: list[list[Op]] = []
    whole: list[bool] = []
    for rank in range(header.world_size):
        file = folder / rank_file(rank)
        if not file.is_file():
            raise TraceError(folder, "", f"rank {rank} of {header.world_size} is missing: no {file.name}")
        ops, torn = _load_rank(file)
        if torn:
            problems.append(f"{file.name}:{torn}")
        ranks.append(ops)
        whole.append(not torn)
    _no_strangers(folder, header.world_size)
    if problems:
        header, ranks = _keep_whole_steps(folder, header, ranks, whole)
    return Trace(folder, header, tuple(tuple(ops) for ops in ranks), tuple(problems))


def _load_header(folder: Path) -> Header:
    file = folder / HEADER_FILE
    try:
        if file.stat().st_size > MAX_HEADER_BYTES:
            raise TraceError(file, "", f"larger than {MAX_HEADER_BYTES} bytes")
        return Header.from_json(json.loads(file.read_bytes()))
    except OSError as error:
        raise TraceError(file, "", f"cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise TraceError(file, "", str(error)) from None


def _load_rank(file: Path) -> tuple[list[Op], str]:
    """The ops of one file, and where and how its end is torn (empty when it is whole)."""
    ops: list[Op] = []
    line_number = 0
    try:
        if file.stat().st_size == 0:  # gzip takes nothing for a whole file
            return ops, "1: the file is empty"
        with gzip.open(file, "rb") as lines:
            while line := lines.readline(MAX_LINE_BYTES + 1):
                line_number += 1
                if len(line) > MAX_LINE_BYTES:
                    raise TraceError(file, str(line_number), f"line longer than {MAX_LINE_BYTES} bytes")
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


def _no_strangers(folder: Path, world_size: int) -> None:
    for file in sorted(folder.glob("rank-*.jsonl.gz")):
        match = re.fullmatch(r"rank-(\d+)\.jsonl\.gz", file.name)
        if match and int(match[1]) >= world_size:
            raise TraceError(folder, "", f"{file.name} does not belong: {HEADER_FILE} says world_size {world_size}")


def _keep_whole_steps(
    folder: Path, header: Header, ranks: list[list[Op]], whole: list[bool]
) -> tuple[Header, list[list[Op]]]:
    """Drop the steps that some rank did not finish."""
    last = []
    for ops, is_whole in zip(ranks, whole, strict=True):
        steps = sorted({op.step for op in ops})
        # The last step of a torn file may lack ops; the one before it is whole, because steps are written whole.
        last.append(steps if is_whole and header.complete else steps[:-1])
    kept = sorted(set.intersection(*(set(steps) for steps in last)))
    if not kept:
        raise TraceError(folder, "", "no step is whole on every rank")
    keep = frozenset(kept)
    return replace(header, recorded_steps=tuple(kept)), [[op for op in ops if op.step in keep] for ops in ranks]
