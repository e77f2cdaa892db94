"""Recorded collectives against the simulator: a trace with simulated times is predicted exactly."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from dessim.cli.app import app
from dessim.cluster import load_cluster
from dessim.commands.trace_collectives import (
    after_last_start,
    predict_collectives,
    run_alone,
    split_times,
    with_overheads,
)
from dessim.errors import CapacityError, UsageError
from dessim.trace.io import Trace
from dessim.trace.matched import matched_collectives
from dessim.trace.schema import Collective, Header, Kind, Op, Phase

RANKS = 4
CALLS = [  # collective, S of each rank, splits of each rank
    (Collective.ALL_REDUCE, [4_000_000] * RANKS, None),
    (Collective.ALL_REDUCE, [512] * RANKS, None),
    (Collective.ALL_TO_ALL, [65_536] * RANKS, None),
    (Collective.ALL_TO_ALL, [4000] * RANKS, [(1000, 2000, 900, 100)] * RANKS),
    (Collective.ALL_GATHER, [300_000] * RANKS, None),
    (Collective.BARRIER, [0] * RANKS, None),
]


def recorded(times_s: list[float], header_ranks: int = RANKS) -> Trace:
    """Calls one after the other; each rank starts 10 us later than the rank before it, and all end together."""
    ranks: list[list[Op]] = [[] for _ in range(RANKS)]
    at = 0.0
    for number, ((kind, sizes, splits), took) in enumerate(zip(CALLS, times_s, strict=True)):
        end = at + 10.0 * (RANKS - 1) + 1e6 * took
        for rank in range(RANKS):
            start = at + 10.0 * rank
            ranks[rank].append(
                Op(
                    number,
                    0,
                    Phase.FORWARD,
                    Kind.COLLECTIVE,
                    f"{kind}.{number}",
                    "comm",
                    start,
                    end - start,
                    collective=kind,
                    group="world",
                    bytes=sizes[rank],
                    dtype="float32",
                    splits=splits[rank] if splits else None,
                )
            )
        at = end
    header = Header(
        name="made",
        world_size=header_ranks,
        backend="nccl",
        device="gpu",
        strategy="recorded",
        model={},
        symbols={},
        groups={"world": tuple(range(RANKS))},
        warmup_steps=(),
        recorded_steps=(0,),
        clock_offset_us=(0.0,) * header_ranks,
        step_us={},
        software={},
    )
    return Trace(Path("made.trace"), header, tuple(tuple(ops) for ops in ranks))


@pytest.fixture(scope="module")
def cluster():
    return load_cluster("one-switch_16")


@pytest.fixture(scope="module")
def made(cluster):
    """A trace of a cluster where a call takes 9 us and latencies are 2.5 times as long."""
    truth = with_overheads(cluster, 9e-6, 2.5)
    blank = recorded([1e-5] * len(CALLS))
    times = [
        1e-5 if one.collective is Collective.BARRIER
        else run_alone(one, blank, truth, run_alone(one, blank, cluster)[1])[0]
        for one in matched_collectives(blank)
    ]  # fmt: skip
    return recorded(times)


def test_a_simulated_trace_is_predicted_exactly(made, cluster):
    predicted = predict_collectives(made, cluster)
    assert len(predicted.rows) == len(CALLS) - 1  # a barrier moves nothing
    assert predicted.worst_error < 1e-6
    assert (predicted.fit.op_overhead, predicted.fit.latency_factor) == pytest.approx((9e-6, 2.5), rel=1e-5)
    parts = split_times(
        [row.recorded for row in predicted.rows], [row.algorithm for row in predicted.rows], made, cluster
    )
    for row, timed in zip(predicted.rows, parts, strict=True):
        # Simulation with the fitted overheads agrees with the fitted equation.
        simulated, _ = run_alone(row.recorded, made, predicted.cluster, row.algorithm)
        assert simulated == pytest.approx(predicted.fit.seconds(timed), rel=1e-9)
        assert row.described_s < row.measured_s
    # Errors of nearly nothing still have an interval: no spread is below 2 %.
    assert predicted.covered == 1.0
    errors = predicted.to_json()["errors"]
    assert errors["left_out"]["worst"] < 1e-6 < errors["described"]["median"]


def test_waiting_for_late_ranks_is_not_part_of_the_transfer(made, cluster):
    rows = predict_collectives(made, cluster).to_json()["collectives"]
    assert [row["waiting_max_s"] for row in rows] == pytest.approx([30e-6] * len(rows))
    assert [row["waiting_median_s"] for row in rows] == pytest.approx([15e-6] * len(rows))


def test_with_nccl_nothing_is_fitted_and_profiled_kernels_take_no_launch(made):
    servers = load_cluster("h100-8x_rail_128")
    predicted = predict_collectives(made, servers)
    assert predicted.fit is None and all(row.predicted_s == row.described_s for row in predicted.rows)
    profiled = replace(made, header=replace(made.header, software={"imported": "profiles"}))
    kernels = predict_collectives(profiled, servers)
    for whole, kernel in zip(predicted.rows, kernels.rows, strict=True):
        assert 0.8e-6 < whole.predicted_s - kernel.predicted_s < 4e-6
    found = kernels.to_json()
    assert found["op_overhead_s"] is None and set(found["errors"]) == {"described"}
    assert all(op["interval"]["low_s"] < op["predicted_s"] < op["interval"]["high_s"] for op in found["collectives"])


def test_messages_that_had_arrived_when_the_last_rank_started_do_not_count(made):
    uneven = next(one for one in matched_collectives(made) if one.ops[0].splits)
    members = made.header.groups["world"]
    assert after_last_start(uneven, members, 1.0).ops == uneven.ops  # no rank had started that long before
    rest = after_last_start(uneven, members, 5e-6)  # ranks start 10 us apart, so only the last is late
    assert [rest.ops[rank].splits for rank in range(RANKS)] == [(0, 0, 0, 100)] * 3 + [(1000, 2000, 900, 100)]


def test_too_few_collectives_and_too_small_clusters_are_refused(made, cluster):
    few = replace(made, ranks=tuple(ops[:2] for ops in made.ranks))
    with pytest.raises(UsageError, match=r"made.trace: 1 collectives are too few to fit 2"):
        predict_collectives(few, cluster)
    with pytest.raises(CapacityError):
        predict_collectives(recorded([1e-5] * len(CALLS), header_ranks=64), cluster)


def test_the_command_prints_errors_and_exits_3_beyond_its_bound(made, tmp_path):
    from dessim.trace.io import write_trace

    # Every other collective is 40 us longer, so no fit matches all of them.
    spoilt = [[replace(op, dur_us=op.dur_us + 40 * (op.id % 2)) for op in ops] for ops in made.ranks]
    for name, ranks in (("made", made.ranks), ("spoilt", spoilt)):
        write_trace(tmp_path / f"{name}.trace", made.header, ranks)

    def run(name: str, *more: str) -> tuple[int, str, str]:
        arguments = ("trace", "collectives", str(tmp_path / f"{name}.trace"), "--cluster", "one-switch_16", *more)
        result = CliRunner().invoke(app, arguments)
        return result.exit_code, result.stdout, result.stderr

    code, text, _ = run("made")
    assert code == 0 and "fitted to all" in text and "9 us per call, latencies x 2.5" in text
    code, text, error = run("spoilt", "--bound", "1 %")
    assert code == 3 and "is more than 1 %" in error and "all_reduce.0" in text
    code, text, _ = run("spoilt", "--bound", "100 %", "--json")
    found = json.loads(text)
    assert code == 0 and found["bound"] == 1.0 and found["n"] == len(CALLS) - 1
    code, _, error = run("made", "--bound", "15")
    assert code == 2 and "--bound" in error
