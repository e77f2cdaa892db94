"""One file of the PyTorch profiler (Kineto): Chrome-trace JSON, plain or gzip, of one rank.

Only complete events (`"ph": "X"`) with a category are kept. Files are untrusted: sizes are bounded, and malformed
content raises an error that names the file and the event.
"""

from __future__ import annotations

import gzip
import json
import math
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from dessim.errors import TraceError, printable
from dessim.trace.schema import MAX_RANKS

_BLOCK = 1 << 20
MAX_PROFILE_BYTES = 2**31  # unpacked; far more than the few steps that a profile should hold
_SUFFIXES = (".json", ".json.gz")


@dataclass(frozen=True, slots=True)
class Event:
    """An event on thread or stream `tid` that began at `start_us` and took `dur_us`."""

    name: str
    category: str
    tid: str
    start_us: float
    dur_us: float
    args: Mapping[str, Any]

    @property
    def end_us(self) -> float:
        return self.start_us + self.dur_us


@dataclass(frozen=True, slots=True)
class Profile:
    """One rank's profile; `events` are ordered by start, in microseconds after `base_ns` on the rank's clock.

    `groups` are the ranks of the process groups that the file lists, by name; None if it lists none. `alone` says that
    the file names no distributed job.
    """

    path: Path
    rank: int
    world_size: int
    backend: str
    device: str
    base_ns: int
    groups: Mapping[str, tuple[int, ...]] | None
    events: tuple[Event, ...]
    alone: bool = False


def find_profiles(paths: Iterable[Path]) -> list[Path]:
    """The given files, and the files in given folders that end in .json or .json.gz.

    Raises TraceError if a folder has none.
    """
    files: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = sorted(file for file in path.iterdir() if file.name.endswith(_SUFFIXES))
            if not inside:
                raise TraceError(path, "", "no profiles in this folder: no file ends in .json or .json.gz")
            files += inside
        else:
            files.append(path)
    return files


def read_profile(path: Path) -> Profile:
    """Read one rank's file. Raises TraceError."""
    raw = _load(path)
    if not isinstance(raw, dict) or not isinstance(raw.get("traceEvents"), list):
        raise TraceError(
            path, "", "not a profile: it has no list 'traceEvents'; write one with prof.export_chrome_trace(FILE)"
        )
    alone = raw.get("distributedInfo") is None
    info = {"rank": 0, "world_size": 1} if alone else raw["distributedInfo"]
    try:
        rank = _integer(info["rank"])
        world_size = _integer(info["world_size"])
        if not 0 <= rank < world_size <= MAX_RANKS:
            raise ValueError(f"rank {rank} of {world_size}")
        backend = printable(str(info.get("backend") or "none"))
        groups = _groups(info.get("pg_config"), world_size)
        base_ns = _integer(raw.get("baseTimeNanoseconds", 0))
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise TraceError(path, "distributedInfo", f"rank, world_size or groups cannot be read: {error!r}") from None
    return Profile(
        path=path,
        rank=rank,
        world_size=world_size,
        backend=backend,
        device=_device(raw.get("deviceProperties")),
        base_ns=base_ns,
        groups=groups,
        events=_events(path, raw["traceEvents"]),
        alone=alone,
    )


def _load(path: Path) -> Any:
    try:
        with path.open("rb") as file:
            packed = file.read(2) == b"\x1f\x8b"
        with gzip.open(path, "rb") if packed else path.open("rb") as file:
            # In blocks: one call would take the memory of the largest file for each file.
            blocks = list(islice(iter(partial(file.read, _BLOCK), b""), MAX_PROFILE_BYTES // _BLOCK + 1))
        text = b"".join(blocks)
        if len(text) > MAX_PROFILE_BYTES:
            raise TraceError(path, "", f"larger than {MAX_PROFILE_BYTES} bytes; profile fewer steps")
        return json.loads(text)
    except (gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise TraceError(path, "", f"not a gzip file, or a damaged one: {error}") from None
    except OSError as error:
        raise TraceError(path, "", f"cannot be read: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        raise TraceError(path, "", f"not JSON, or cut off: {error}") from None


def _events(path: Path, raw: list[Any]) -> tuple[Event, ...]:
    """The complete events, ordered by start; of those with the same start the longest, which encloses others, first."""
    events = []
    for number, event in enumerate(raw):
        if isinstance(event, dict) and event.get("ph") == "X" and event.get("cat") not in (None, "Trace"):
            try:
                events.append(_event(event))
            except (KeyError, TypeError, ValueError) as error:
                raise TraceError(path, f"traceEvents[{number}]", f"not an event: {error}") from None
    events.sort(key=lambda e: (e.start_us, -e.dur_us))
    return tuple(events)


def _device(properties: Any) -> str:
    if isinstance(properties, list) and properties and isinstance(properties[0], dict):
        return printable(str(properties[0].get("name") or "gpu"))
    return "cpu"


def _event(raw: Mapping[str, Any]) -> Event:
    start = float(raw["ts"])
    dur = float(raw.get("dur", 0.0))
    if not (math.isfinite(start) and math.isfinite(dur) and dur >= 0):
        raise ValueError(f"ts {raw['ts']!r} and dur {raw.get('dur')!r} must be finite numbers")
    args = raw.get("args", {})
    if not isinstance(args, dict) or not isinstance(raw["name"], str):
        raise ValueError("'args' must be an object and 'name' a text")
    if not isinstance(args.get("correlation"), int | float | str | None):
        raise ValueError("'correlation' must be a number")
    return Event(printable(raw["name"]), str(raw["cat"]), str(raw.get("tid", "")), start, dur, args)


def _groups(listed: Any, world_size: int) -> dict[str, tuple[int, ...]] | None:
    if not listed:
        return None
    groups = {}
    for group in listed:
        ranks = tuple(_integer(rank) for rank in group.get("ranks") or range(world_size))
        if not all(0 <= rank < world_size for rank in ranks):
            raise ValueError(f"group {group.get('pg_name')!r} has ranks outside a world of {world_size}")
        groups[printable(str(group["pg_name"]))] = ranks
    return groups


def _integer(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"{value!r} is not a whole number")
    return value
