"""Importing PyTorch profiles: sizes, groups, splits, matching, waiting separate from transfer, and malformed files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dessim.errors import TraceError
from dessim.trace.check import check_trace
from dessim.trace.describe import describe_trace
from dessim.trace.importers.kineto import import_kineto
from dessim.trace.importers.kineto_compute import short_name
from dessim.trace.importers.matching import likely_splits
from dessim.trace.io import Trace, load_trace, write_trace
from dessim.trace.matched import matched_collectives
from dessim.trace.schema import Collective, Kind, Phase
from tests.trace.importers.profiles import SPLITS, event, nccl, write


def imported(folder: Path) -> tuple[Trace, tuple[str, ...]]:
    """The trace of the profiles in a folder, written and read back, and what the profiles lack."""
    job = import_kineto([folder], "job")
    write_trace(folder / "job.trace", job.header, job.ranks)
    return load_trace(folder / "job.trace"), job.lacking


@pytest.mark.parametrize("new", [True, False])
@pytest.mark.parametrize("packed", [True, False])
def test_old_and_new_nccl_profiles_become_the_same_correct_trace(tmp_path, new, packed):
    write(tmp_path, [nccl(0, new), nccl(1, new)], packed)
    trace, lacking = imported(tmp_path)
    assert check_trace(trace) == [] and trace.problems == ()
    header = trace.header
    assert (header.world_size, header.backend, header.device) == (2, "nccl", "Tesla V100-SXM2-32GB")
    assert header.groups == {"world": (0, 1)} and header.recorded_steps == (4,)
    # From rank 1's first op (both begin at 1,010) to the end of the all_reduce at 1,230.
    assert header.step_us == {"recorded": (220.0,)}
    gemm, to_all, sums = trace.ranks[1]
    assert (gemm.name, gemm.kind, gemm.stream, gemm.dur_us) == ("volta_sgemm_128x32_nt", Kind.COMPUTE, "stream 7", 21.0)
    assert (to_all.collective, to_all.bytes, to_all.dtype) == (Collective.ALL_TO_ALL, 4 * sum(SPLITS[1]), "int32")
    assert (sums.collective, sums.bytes, sums.dtype, sums.phase) == (
        *(Collective.ALL_REDUCE, 20_000, "float32"),
        Phase.BACKWARD,
    )
    if new:
        assert to_all.splits == tuple(4 * n for n in SPLITS[1]) and lacking == ()
    else:  # the ranks send 128 and 192 elements and receive 160 each, so each sends half to each
        assert to_all.splits == (384, 384)
        assert [sentence.split(":")[0] for sentence in lacking] == [
            "groups are not recorded",
            "splits of 1 uneven all_to_alls are not recorded",
        ]


def test_waiting_is_separated_from_the_transfer(tmp_path):
    write(tmp_path, [nccl(0, True), nccl(1, True)])
    trace, _ = imported(tmp_path)
    to_all, sums = matched_collectives(trace)
    assert (to_all.name, to_all.transfer_us, to_all.waiting_us) == ("all_to_all.1", 12.0, {0: 20.0, 1: 0.0})
    assert (sums.name, sums.transfer_us, sums.waiting_us) == ("all_reduce.1", 80.0, {0: 0.0, 1: 40.0})
    by_name = {op["name"]: op for op in describe_trace(trace)["by_op"]}
    assert by_name["all_to_all.1"]["transfer_s"]["median"] == pytest.approx(12e-6)
    assert by_name["all_to_all.1"]["waiting_s"]["max"] == pytest.approx(20e-6)
    assert by_name["volta_sgemm_128x32_nt"]["transfer_s"] == {"n": 0}


def test_clocks_that_differ_are_aligned_by_the_ends_of_collectives(tmp_path):
    late = nccl(1, True)
    for raw in late["traceEvents"]:
        raw["ts"] += 5000.25
    write(tmp_path, [nccl(0, True), late])
    trace, lacking = imported(tmp_path)
    assert any("clocks differ by up to 4988 us" in sentence for sentence in lacking)
    offsets = trace.header.clock_offset_us
    assert offsets[0] - offsets[1] == pytest.approx(5000.25, abs=2)
    assert [matched.transfer_us for matched in matched_collectives(trace)] == pytest.approx([12, 80], abs=2)


def test_clock_bases_of_ranks_are_added(tmp_path):
    """With another baseTimeNanoseconds the same instants have other times."""
    late = nccl(1, True) | {"baseTimeNanoseconds": 1_790_857_026_000_000_000}
    early = nccl(0, True) | {"baseTimeNanoseconds": 1_790_857_026_000_000_000 - 250_000}
    for raw in early["traceEvents"]:
        raw["ts"] += 250.0
    write(tmp_path, [early, late])
    trace, _ = imported(tmp_path)
    assert trace.header.clock_offset_us == (0.0, 0.0)
    assert [matched.transfer_us for matched in matched_collectives(trace)] == [12.0, 80.0]


def test_groups_with_equal_names_and_different_members_are_kept_apart(tmp_path):
    profiles = [nccl(0, True), nccl(1, True)]
    for rank, profile in enumerate(profiles):
        for raw in profile["traceEvents"]:
            if raw.get("args", {}).get("Collective name") == "allreduce":
                raw["args"] |= {"Process Group Name": "5", "Process Group Ranks": f"[{rank}]", "Group size": 1}
    write(tmp_path, profiles)
    trace, _ = imported(tmp_path)
    assert trace.header.groups == {"world": (0, 1), "5": (0,), "5#2": (1,)}
    assert [ops[-1].group for ops in trace.ranks] == ["5", "5#2"] and check_trace(trace) == []


@pytest.mark.parametrize("listed", [True, False])
def test_the_ranks_of_a_group_are_found_if_their_list_is_truncated(tmp_path, listed):
    """torch truncates long lists, as in "[0, 1, ...]"; the file's groups, or first rank and stride, replace them."""
    profiles = [nccl(0, True), nccl(1, True)]
    for profile in profiles:
        if listed:
            profile["distributedInfo"]["pg_config"] = [{"pg_name": "7", "ranks": [0, 1]}]
        for raw in profile["traceEvents"]:
            if "Group size" in raw.get("args", {}):
                stride = {} if listed else {"Global rank start": 0, "Global rank stride": 1}
                raw["args"] |= {"Process Group Name": "7", "Process Group Ranks": "[0, ...]", **stride}
    write(tmp_path, profiles)
    trace, _ = imported(tmp_path)
    assert trace.header.groups == {"world": (0, 1), "7": (0, 1)} and check_trace(trace) == []
    assert {op.group for op in trace.ranks[0] if op.collective} == {"7"}


def test_a_group_of_unknown_ranks_is_refused(tmp_path):
    profiles = [nccl(0, True), nccl(1, True)]
    for raw in profiles[1]["traceEvents"]:
        if "Group size" in raw.get("args", {}):
            raw["args"] |= {"Process Group Name": "7", "Process Group Ranks": ""}
    write(tmp_path, profiles)
    with pytest.raises(TraceError, match="its ranks are not recorded"):
        import_kineto([tmp_path], "job")


def test_ops_belong_to_the_step_in_which_the_host_issued_them(tmp_path):
    profiles = [nccl(0, True), nccl(1, True)]
    for profile in profiles:
        # The host ends the step while its kernels still run. The kernels before and after it belong to no step.
        profile["traceEvents"] += [
            event("aten_kernel_before", "kernel", 7, 950, 5, stream=7),
            event("aten_kernel_after", "kernel", 7, 1500, 5, stream=7),
        ]
        for raw in profile["traceEvents"]:
            if raw["name"] == "ProfilerStep#4":
                raw["dur"] = 110
    write(tmp_path, profiles)
    trace, _ = imported(tmp_path)
    assert [op.name for op in trace.ranks[0]] == ["volta_sgemm_128x32_nt", "all_to_all.1", "all_reduce.1"]


def _drop(name):
    def change(profile):
        profile["traceEvents"] = [e for e in profile["traceEvents"] if name not in e["name"]]

    return change


def _no_shapes(profile):
    for raw in profile["traceEvents"]:
        raw.get("args", {}).pop("Input Dims", None)


@pytest.mark.parametrize(
    ("change", "file", "problem"),
    [
        (_drop("AllReduce"), "worker1", "step 4: 1 collectives over 'world', but 2 on rank 0"),
        (_drop("nccl:"), "worker1", "not recorded; profile with record_shapes=True"),
        (_no_shapes, "worker1", "not recorded; profile with record_shapes=True"),
        (lambda p: p["distributedInfo"].update(rank=0), "worker2", "is 0, as in"),
        (lambda p: p["distributedInfo"].update(world_size=3), "worker2", "is 2, but 3 in"),
        (lambda p: p.pop("distributedInfo"), "worker1", "does not name its rank"),
        (lambda p: p["distributedInfo"].update(rank="x"), "worker1", "cannot be read"),
        (lambda p: p.pop("traceEvents"), "worker1", "prof.export_chrome_trace"),
        (lambda p: p["traceEvents"][0].update(ts="soon"), "worker1", "traceEvents[0]: not an event"),
        (lambda p: p["traceEvents"][0].update(dur=float("nan")), "worker1", "finite"),
        (lambda p: p["traceEvents"].clear(), "worker1", "holds no events"),
        (_drop("ProfilerStep"), "worker2", "no step of prof.step() is in the profiles of all ranks"),
    ],
)  # fmt: skip
def test_a_malformed_profile_is_reported_in_one_line(tmp_path, change, file, problem):
    profiles = [nccl(0, False), nccl(1, False)]
    change(profiles[1])
    write(tmp_path, profiles)
    with pytest.raises(TraceError) as caught:
        import_kineto([tmp_path], "job")
    assert file in str(caught.value) and problem in str(caught.value) and "\n" not in str(caught.value)


def test_missing_ranks_are_named(tmp_path):
    first, _ = write(tmp_path, [nccl(0, True), nccl(1, True)])
    with pytest.raises(TraceError, match="one of 2 ranks; give the profiles of ranks 1 as well"):
        import_kineto([first], "job")


def test_damaged_files_and_empty_folders_are_refused(tmp_path):
    with pytest.raises(TraceError, match="no profiles in this folder"):
        import_kineto([tmp_path], "job")
    with pytest.raises(TraceError, match="cannot be read"):
        import_kineto([tmp_path / "none.json"], "job")
    (file,) = write(tmp_path, [nccl(0, True)], packed=True)
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(TraceError, match="damaged"):
        import_kineto([file], "job")
    file.write_text(json.dumps(nccl(0, True))[:-10])
    with pytest.raises(TraceError, match="cut off"):
        import_kineto([file], "job")


def test_derived_splits_have_the_recorded_sums():
    rows = likely_splits([10, 7, 0, 5], [3, 4, 15, 0])
    assert [sum(row) for row in rows] == [10, 7, 0, 5]
    assert [sum(column) for column in zip(*rows, strict=True)] == [3, 4, 15, 0]
    assert min(min(row) for row in rows) == 0
    # Two senders of equal size each send half of every receiver's elements.
    assert likely_splits([12, 12], [6, 18]) == [[3, 9], [3, 9]]


@pytest.mark.parametrize(
    ("name", "short"),
    [
        ("void at::native::vectorized_elementwise_kernel<4, at::native::FillFunctor<float>, Array<char*, 1>>"
         "(int, at::native::FillFunctor<float>)", "vectorized_elementwise_kernel"),
        ("Memcpy HtoD (Pinned -> Device)", "Memcpy HtoD (Pinned -> Device)"),
        ("autograd::engine::evaluate_function: SumBackward0", "SumBackward0"),
        ("void (anonymous namespace)::indexing_backward_kernel<float, 4>(long*, int)", "indexing_backward_kernel"),
        ("<>", "<>"),
    ],
)  # fmt: skip
def test_kernels_have_short_names(name, short):
    assert short_name(name) == short
