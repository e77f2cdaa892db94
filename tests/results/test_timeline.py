"""Timelines open in Perfetto: they are valid JSON, ordered by time, and slices of a track nest."""

from __future__ import annotations

import gzip
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dessim.results.timeline import Counter, Slice, timeline_events, write_timeline

SLICES = [
    Slice("rank 0", "compute", "lookup", "forward", 0.0, 20e-6, {"bytes": 64}),
    Slice("rank 0", "comm", "partials", "forward", 20e-6, 40e-6, {"collective": "all_reduce"}),
    Slice("rank 0", "comm", "stage 0", "stage", 20e-6, 10e-6),
    Slice("rank 1", "compute", "lookup", "forward", 1e-6, 20e-6),
]
COUNTERS = [
    Counter("links", "leaf up", 0.0, {"GB/s": 0.0}),
    Counter("links", "leaf up", 20e-6, {"GB/s": 48.5}),
]


def complete(events):
    return [e for e in events if e["ph"] == "X"]


def test_a_written_timeline_loads_as_chrome_json(tmp_path):
    path = tmp_path / "timeline.json.gz"
    write_timeline(path, SLICES, COUNTERS)
    raw = path.read_bytes()
    loaded = json.loads(gzip.decompress(raw))
    assert loaded["traceEvents"] == timeline_events(SLICES, COUNTERS)
    write_timeline(path, SLICES, COUNTERS)
    assert path.read_bytes() == raw
    assert raw[4:8] == b"\0\0\0\0"  # no time stamp
    assert list(tmp_path.iterdir()) == [path]


def test_processes_and_threads_are_named_once():
    events = timeline_events(SLICES, COUNTERS)
    names = {e["args"]["name"]: e["pid"] for e in events if e["name"] == "process_name"}
    assert names == {"rank 0": 1, "rank 1": 2, "links": 3}
    threads = [(e["pid"], e["args"]["name"]) for e in events if e["name"] == "thread_name"]
    assert threads == [(1, "compute"), (1, "comm"), (2, "compute")]
    assert len({e["tid"] for e in complete(events)}) == 3


def test_times_are_microseconds_and_enclosing_slices_come_first():
    events = timeline_events(SLICES)
    assert [(e["name"], e["ts"], e["dur"]) for e in complete(events)] == [
        ("lookup", 0.0, 20.0),
        ("lookup", 1.0, 20.0),
        ("partials", 20.0, 40.0),
        ("stage 0", 20.0, 10.0),
    ]


@given(
    st.lists(
        st.tuples(st.sampled_from("ab"), st.sampled_from("xy"), st.floats(0, 1e-3), st.floats(0, 1e-3)),
        max_size=30,
    )
)
def test_events_are_ordered_and_no_track_has_a_partial_overlap(drawn):
    slices = [Slice(p, t, f"{i}", "c", start, dur) for i, (p, t, start, dur) in enumerate(drawn)]
    events = timeline_events(slices)
    assert sorted(e["name"] for e in complete(events)) == sorted(s.name for s in slices)
    stamps = [e["ts"] for e in events if e["ph"] != "M"]
    assert stamps == sorted(stamps)
    tracks = {}
    for e in complete(events):
        tracks.setdefault((e["pid"], e["tid"]), []).append((round(e["ts"] * 1000), round((e["ts"] + e["dur"]) * 1000)))
    for spans in tracks.values():
        for i, (a, b) in enumerate(spans):
            for c, d in spans[i + 1 :]:
                assert b <= c or d <= a or (a <= c and d <= b) or (c <= a and b <= d)


def test_adjacent_slices_stay_on_one_track():
    third = 1e-6 / 3
    slices = [Slice("r", "comm", str(i), "c", i * third, third) for i in range(100)]
    assert len({e["tid"] for e in complete(timeline_events(slices))}) == 1


def test_a_partial_overlap_moves_to_another_track():
    slices = [Slice("r", "comm", "a", "c", 0.0, 2e-6), Slice("r", "comm", "b", "c", 1e-6, 2e-6)]
    names = [e["args"]["name"] for e in timeline_events(slices) if e["name"] == "thread_name"]
    assert names == ["comm", "comm #2"]


@pytest.mark.parametrize(
    ("start", "dur"), [(0.0, -1e-9), (float("nan"), 0.0), (float("inf"), 0.0), (0.0, float("inf"))]
)
def test_impossible_times_are_refused(tmp_path, start, dur):
    path = tmp_path / "timeline.json.gz"
    with pytest.raises(ValueError):
        write_timeline(path, [Slice("r", "comm", "a", "c", start, dur)])
    assert not path.exists()


def test_a_nan_counter_is_refused_and_leaves_the_earlier_file(tmp_path):
    path = tmp_path / "timeline.json.gz"
    write_timeline(path, SLICES)
    before = path.read_bytes()
    with pytest.raises(ValueError):
        write_timeline(path, [], [Counter("links", "up", 0.0, {"GB/s": float("nan")})])
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_the_use_of_links_is_counters_that_end_at_zero():
    import numpy as np

    from dessim.commands.replay import counters_of
    from dessim.sim.core.counters import Load
    from dessim.sim.core.recorder import Record

    load = Load(np.array([0.0, 1e-3, 3e-3]), {"nic_up": np.array([5e9, 20e9])}, {"nic_up": 40e9})
    counters = list(counters_of(Record(1, ((0,),), load=load)))
    assert [(c.at_s, c.values["busy"]) for c in counters] == [(0.0, 12.5), (1e-3, 50.0), (3e-3, 0.0)]
    assert {(c.process, c.name) for c in counters} == {("network", "nic_up (% of capacity)")}
    assert [e["ph"] for e in timeline_events([], counters)].count("C") == 3
