"""Timelines: gzipped Chrome JSON that Perfetto (https://ui.perfetto.dev) and chrome://tracing open.

Every rank (or link class) is a Chrome process, every stream a thread. Slices of one thread nest or are disjoint,
because viewers draw a partial overlap wrongly: a slice that would partly overlap an earlier one moves to another thread
of the same name (`comm #2`). Concurrent things such as flows are counters. Times are exact to the nanosecond.

Format: "Trace Event Format", Google, 2016: https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dessim.files import atomic_path, open_gzip_text


@dataclass(frozen=True, slots=True)
class Slice:
    """An interval on a thread, such as an op on a stream of a rank."""

    process: str
    thread: str
    name: str
    category: str
    start_s: float
    dur_s: float
    args: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Counter:
    """Values that hold from `at_s` until the next counter of the same process and name, such as the load of a link."""

    process: str
    name: str
    at_s: float
    values: Mapping[str, float]


def timeline_events(slices: Iterable[Slice], counters: Iterable[Counter] = ()) -> list[dict[str, Any]]:
    """Chrome trace events: metadata first, then all others by time; an enclosing slice precedes those inside it.

    Processes and threads are numbered in the order given, slices before counters. Raises ValueError for a negative
    duration or a time that is not finite.
    """
    pids: dict[str, int] = {}
    tids: dict[tuple[str, str], int] = {}
    events: list[tuple[int, int, int, dict[str, Any]]] = []
    slices = list(slices)
    for slice_ in slices:
        pids.setdefault(slice_.process, len(pids) + 1)
        tids.setdefault((slice_.process, slice_.thread), len(tids) + 1)
    for counter in counters:
        at = _nanoseconds(counter.at_s)
        pid = pids.setdefault(counter.process, len(pids) + 1)
        event = {"ph": "C", "name": counter.name, "pid": pid, "ts": at / 1000, "args": dict(counter.values)}
        events.append((at, 0, len(events), event))
    for slice_, lane, start, end in _lanes(slices):
        thread = slice_.thread if lane == 0 else f"{slice_.thread} #{lane + 1}"
        tid = tids.setdefault((slice_.process, thread), len(tids) + 1)
        event = {
            "ph": "X",
            "name": slice_.name,
            "cat": slice_.category,
            "pid": pids[slice_.process],
            "tid": tid,
            "ts": start / 1000,
            "dur": (end - start) / 1000,
            "args": dict(slice_.args),
        }
        events.append((start, start - end, len(events), event))
    events.sort(key=lambda e: e[:3])
    return [*_names(pids, tids), *(event for *_, event in events)]


def write_timeline(path: str | Path, slices: Iterable[Slice], counters: Iterable[Counter] = ()) -> None:
    """Write `path` (conventionally `timeline.json.gz`) atomically; the same events give the same bytes."""
    events = timeline_events(slices, counters)
    with atomic_path(path) as temporary, open_gzip_text(temporary) as file:
        file.write('{"displayTimeUnit":"ms","traceEvents":[\n')
        for i, event in enumerate(events):
            file.write(",\n" if i else "")
            file.write(json.dumps(event, allow_nan=False, separators=(",", ":"), ensure_ascii=False))
        file.write("\n]}\n")


def _nanoseconds(seconds: float) -> int:
    """The time in whole nanoseconds. Raises ValueError if it is not finite or exceeds 30 years."""
    if not abs(seconds) < 1e9:
        raise ValueError(f"{seconds} s is not a time on a timeline")
    return round(seconds * 1e9)


def _lanes(slices: Iterable[Slice]) -> list[tuple[Slice, int, int, int]]:
    """Each slice with its lane (0 is the thread itself) and its start and end in ns, in order of start."""
    timed: list[tuple[int, int, int, Slice, int]] = []
    for slice_ in slices:
        if slice_.dur_s < 0:
            raise ValueError(f"slice {slice_.name!r} lasts {slice_.dur_s} s")
        # Round both ends, not the duration: otherwise adjacent slices could overlap by a nanosecond.
        start = _nanoseconds(slice_.start_s)
        end = _nanoseconds(slice_.start_s + slice_.dur_s)
        timed.append((start, start - end, len(timed), slice_, end))
    timed.sort(key=lambda t: t[:3])
    open_ends: dict[tuple[str, str], list[list[int]]] = {}  # per thread, a stack of open slices' ends for each lane
    placed = []
    for start, _, _, slice_, end in timed:
        lanes = open_ends.setdefault((slice_.process, slice_.thread), [])
        for stack in lanes:
            while stack and stack[-1] <= start:
                stack.pop()
        lane = next((i for i, stack in enumerate(lanes) if not stack or end <= stack[-1]), len(lanes))
        if lane == len(lanes):
            lanes.append([])
        lanes[lane].append(end)
        placed.append((slice_, lane, start, end))
    return placed


def _names(pids: Mapping[str, int], tids: Mapping[tuple[str, str], int]) -> list[dict[str, Any]]:
    """Metadata events that name and order processes and threads."""
    events = []
    for process, pid in pids.items():
        events.append({"ph": "M", "name": "process_name", "pid": pid, "ts": 0, "args": {"name": process}})
        events.append({"ph": "M", "name": "process_sort_index", "pid": pid, "ts": 0, "args": {"sort_index": pid}})
    for (process, thread), tid in tids.items():
        pid = pids[process]
        events.append({"ph": "M", "name": "thread_name", "pid": pid, "tid": tid, "ts": 0, "args": {"name": thread}})
    return events
