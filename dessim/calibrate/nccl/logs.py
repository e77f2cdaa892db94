"""Reads what nccl-tests and rccl-tests print: any version, several ops, sizes and runs a file, or JSON.

A run is a header that names the ranks and a table. A row begins with a size and has either 12 or so columns, with times
out of place and in place, or the columns of old versions. Its op is that of the run's header, of the file's name, or of
a title such as `# nThread 1 ...` of `all_reduce_perf`. Times out of place are read; those in place where there are no
others. Rows of 0 bytes are no readings. A torn last line is skipped; anything else that looks like a row and is none is
refused with its number, and so is a row with wrong results.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dessim.calibrate.nccl.readings import op_named
from dessim.errors import FileError
from dessim.files import parse_json, read_text
from dessim.trace.schema import Collective

_RANK = re.compile(r"^#\s+Rank\s+(\d{1,9})\b.*?(?:\bon\s+(\S+))?\s+device\b", re.IGNORECASE)
_OP = re.compile(
    r"(?<![a-z])(all_?reduce|all_?gather|reduce_?scatter|all_?to_?all|broadcast|reduce|send_?recv|gather|scatter)(?![a-z])",
    re.IGNORECASE,
)
_TITLE = re.compile(r"^#?\s*(?:Collective(?: test starting)?:|Test:|Running|\+|\$|mpirun|srun|./)", re.IGNORECASE)
_GPUS = re.compile(r"nThread\s+(\d{1,9})\s+nGpus\s+(\d{1,9})\b")
_VERSION = re.compile(r"nccl-library=(\d+)|NCCL version (\d+\.\d+)", re.IGNORECASE)
_WRONG = re.compile(r"^#\s*Out of bounds values\s*:\s*(\d{1,18})\s+FAILED", re.IGNORECASE)
_NUMBER = re.compile(r"^[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?$")


@dataclass(frozen=True, slots=True)
class Row:
    """A time in line `line`: `op` on S = `size` bytes took `microseconds`; `busbw` [GB/s] is 0 where not printed."""

    line: int
    op: Collective
    size: float
    microseconds: float
    busbw: float = 0.0


@dataclass(slots=True)
class Log:
    """A run in a log: its rows, the ranks that its header lists, the hosts they are on, and the release of NCCL.

    `ranks` is 0 and `version` "" where the header does not say. `skipped` are remarks on lines that were left out.
    """

    path: Path
    line: int = 1
    ranks: int = 0
    hosts: list[str] = field(default_factory=list)
    gpus_per_process: int = 1
    version: str = ""
    rows: list[Row] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)


def read_logs(path: Path) -> list[Log]:
    """The runs of a file. Raises FileError, which names the line, where it is no log of nccl-tests."""
    text = read_text(path)
    runs = _json_runs(path, text) if text.lstrip().startswith(("{", "[")) else _text_runs(path, text)
    runs = [run for run in runs if run.rows]
    if not runs:
        raise FileError(path, "", "has no readings; give what nccl-tests prints, or its JSON output (-J)")
    return runs


def _text_runs(path: Path, text: str) -> list[Log]:
    reader = _Reader(path, op_in(path.stem))
    lines = text.splitlines(keepends=True)
    for number, line in enumerate(lines, start=1):
        torn = number == len(lines) and not line.endswith(("\n", "\r"))
        reader.read(number, line.strip(), torn)
    return reader.runs


def op_in(text: str) -> Collective | None:
    """The op that a text names, such as the name of a file; None if it names none, or several."""
    ops = {op_named(match.group(1)) for match in _OP.finditer(text.replace("-", "_").replace(".", " "))}
    return ops.pop() if len(ops) == 1 else None


@dataclass(frozen=True, slots=True)
class _Columns:
    """The header of a table: whether it has a root (None: no header), and a number of wrong results."""

    root: bool | None = None
    counts_wrong: bool = False


class _Reader:
    """Reads lines one after the other."""

    def __init__(self, path: Path, op: Collective | None) -> None:
        self._path = path
        self._named = op
        self._op: Collective | None = None
        self._columns = _Columns()
        self.runs = [Log(path)]

    @property
    def _run(self) -> Log:
        return self.runs[-1]

    def read(self, number: int, line: str, torn: bool) -> None:
        """Take in one line. Raises FileError."""
        if not line:
            return
        words = line.split()
        if _is_size(words[0]) and (len(words) >= 3 or torn):
            self._row(number, words, torn)
        elif line.startswith("#") or _TITLE.match(line) or _VERSION.search(line):
            self._comment(number, line)

    def _comment(self, number: int, line: str) -> None:
        wrong = _WRONG.match(line)
        if wrong and int(wrong.group(1)) > 0:
            raise FileError(
                self._path,
                f"line {number}",
                f"{wrong.group(1)} results of this run were wrong; leave its log out and repair the cluster first",
            )
        if "time" in line and "size" in line:
            self._columns = _Columns("root" in line, "wrong" in line)
        rank = _RANK.match(line)
        gpus = _GPUS.search(line)
        if (gpus or (rank and int(rank.group(1)) == 0)) and self._run.rows:
            self.runs.append(Log(self._path, number, version=self._run.version))
        if gpus:
            self._run.gpus_per_process = max(1, min(int(gpus.group(2)), 1024))
        if rank:
            self._run.ranks = max(self._run.ranks, int(rank.group(1)) + 1)
            if rank.group(2) and rank.group(2) not in self._run.hosts:
                self._run.hosts.append(rank.group(2))
        version = _VERSION.search(line)
        if version:
            self._run.version = _release(version.group(1) or version.group(2))
        named = op_in(line) if _TITLE.match(line) else None
        self._op = named or self._op

    def _row(self, number: int, words: list[str], torn: bool) -> None:
        op = self._op or self._named
        row = _row_of(words, number, op, self._columns)
        if isinstance(row, str):
            if torn:
                self._run.skipped.append(f"line {number} is torn")
                return
            raise FileError(self._path, f"line {number}", row)
        if row is not None:
            self._run.rows.append(row)


def _row_of(words: list[str], number: int, op: Collective | None, columns: _Columns) -> Row | str | None:
    """The reading of a row; a text says why it is none, None that it moved nothing."""
    values = _times(words, columns)
    if values is None:
        shown = " ".join(words[:8])
        return f"has no time; a row is size, count, type, redop, root, time, algbw, busbw, not {shown[:80]!r}"
    size = float(words[0])
    time, busbw, wrong = values
    if wrong:
        return f"{wrong} results were wrong; leave this run out and repair the cluster first"
    if size == 0:
        return None
    if time <= 0:
        return f"a time of {time:g} us for {size:g} bytes; repeat the run, or leave the line out"
    if op is None:
        return "belongs to no op; name the file after it, such as all_reduce.log, or keep the line that names the test"
    return Row(number, op, size, time, busbw)


def _times(words: list[str], columns: _Columns) -> tuple[float, float, int] | None:
    """Time, bus bandwidth and number of wrong results: out of place, or in place where that is all there is.

    Type, redop and root stand before the time. Without a header, a root is present if the rest has 5 or 9 words.
    """
    texts = [i for i, word in enumerate(words[:5]) if word[0].isalpha() and word.upper() != "N/A"]
    tail = words[texts[-1] + 1 :] if texts else words[2:]
    if columns.root or (columns.root is None and len(tail) in (5, 9)):
        tail = tail[1:]
    if tail and tail[0].upper() == "N/A":
        tail = tail[4:]
    numbers = [_number(word) for word in tail[:3]]
    if len(numbers) < 3 or any(number is None for number in numbers):
        return None
    time, _, busbw = (number or 0.0 for number in numbers)
    wrong = tail[3] if len(tail) > 3 and columns.counts_wrong and _is_count(tail[3]) else "0"
    return time, busbw, int(float(wrong))


def _number(word: str) -> float | None:
    value = float(word) if _NUMBER.match(word) else math.nan
    return value if math.isfinite(value) and value < 1e15 else None


def _is_count(word: str) -> bool:
    return bool(re.match(r"^\d+(\.\d+)?([eE][+-]?\d+)?$", word)) and float(word) < 1e15


def _is_size(word: str) -> bool:
    return word.isascii() and word.isdigit() and len(word) < 20


def _release(text: str) -> str:
    """`2.29` of 22902 or of 2.29."""
    if "." in text:
        return text
    number = int(text[:6])
    return f"{number // 10000}.{number // 100 % 100}" if number >= 20000 else f"{number // 1000}.{number // 100 % 10}"


def _json_runs(path: Path, text: str) -> Iterator[Log] | list[Log]:
    try:
        parsed = parse_json(text)
    except ValueError as error:
        raise FileError(path, "", f"begins as JSON and is none: {error}") from None
    runs = parsed if isinstance(parsed, list) else [parsed]
    return [_json_run(path, run) for run in runs]


def _json_run(path: Path, raw_run: Any) -> Log:
    """A run of `-J`, with `config`, `devices` and `results`."""
    if not isinstance(raw_run, dict) or not isinstance(raw_run.get("results"), list):
        raise FileError(path, "", "is JSON, but not of nccl-tests: it has no list of results")
    raw = raw_run.get("config")
    config: dict[str, Any] = raw if isinstance(raw, dict) else {}
    log = Log(path, ranks=_whole(_first(raw_run, config, "nranks", "n_ranks", "ranks")))
    _devices(log, raw_run.get("devices"))
    version = str(_first(raw_run, config, "nccl_version", "nccl-library") or "")
    log.version = version if re.match(r"^\d{1,3}\.\d{1,3}(\.\d{1,3})*$", version) else ""
    name = _first(raw_run, config, "collective", "test", "name", "op")
    op = (op_named(name) or op_in(name) if isinstance(name, str) else None) or op_in(path.stem)
    for number, result in enumerate(raw_run["results"], start=1):
        row = _json_row(result, number, op)
        if isinstance(row, str):
            raise FileError(path, f"results, entry {number}", row)
        if row is not None:
            log.rows.append(row)
    return log


def _devices(log: Log, devices: object) -> None:
    if not isinstance(devices, list) or not devices:
        return
    log.ranks = log.ranks or len(devices)
    for device in devices:
        host = _first(device, {}, "hostname", "host") if isinstance(device, dict) else None
        if isinstance(host, str) and host not in log.hosts:
            log.hosts.append(host)


def _json_row(result: object, number: int, op: Collective | None) -> Row | str | None:
    if not isinstance(result, dict):
        return "is no table"
    place = next((result[k] for k in ("out_of_place", "in_place") if isinstance(result.get(k), dict)), result)
    own = _first(result, {}, "collective", "op")
    op = (op_named(own) if isinstance(own, str) else None) or op
    size = _first(result, {}, "size", "bytes")
    time = _first(place, {}, "time", "time_us")
    wrong = _first(place, {}, "nwrong", "wrong")
    if not _is_real(size) or not _is_real(time):
        return "has no size and time"
    if _whole(wrong):
        return f"{_whole(wrong)} results were wrong; leave this run out and repair the cluster first"
    if size == 0:
        return None
    if size < 0 or time <= 0:
        return f"a time of {time:g} us for {size:g} bytes; repeat the run, or leave the entry out"
    if op is None:
        return "belongs to no op; name the file after it, such as all_reduce.json"
    busbw = _first(place, {}, "bus_bw", "busbw", "bus_bandwidth")
    return Row(number, op, float(size), float(time), float(busbw) if _is_real(busbw) else 0.0)


def _first(one: dict[str, Any], other: dict[str, Any], *keys: str) -> Any:
    return next((table[key] for table in (one, other) for key in keys if key in table), None)


def _is_real(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e18 and value == value


def _whole(value: object) -> int:
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 10:
        return int(value)
    return int(value) if isinstance(value, int | float) and _is_real(value) else 0
