"""Jobs from traces: at the recorded scale, the recorded symbols; at other scales, scaled ones."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from dessim.compute import Precision
from dessim.errors import TraceError
from dessim.trace.io import Trace
from dessim.workload.model import Precisions, load_model
from dessim.workload.scale import Job
from dessim.workload.symbol_values import value_bytes
from tests.trace.build import all_ops, header

MODEL = load_model("deepfm_ml100k")


def trace(**symbols: float) -> Trace:
    recorded = MODEL.symbols(2, 64) | {"m": 9.25, "u": 120.0, "U": 171.0} | symbols
    return Trace(
        Path("run.trace"), header(model=MODEL.model_dump(mode="json"), symbols=recorded), tuple(map(tuple, all_ops()))
    )


@pytest.mark.parametrize("size", [4.0, 8.0])
def test_symbols_at_the_recorded_scale_equal_the_recorded_ones(size: float) -> None:
    """Also for float64 runs, whose values take 8 bytes."""
    recorded = trace(**value_bytes(size))
    found, due = Job.of_trace(recorded).symbols(2), dict(recorded.header.symbols)
    # q follows from m and N, and only FLOPs depend on it. A trace's value is valid only at its own number of ranks.
    found.pop("q"), due.pop("q")
    assert found == pytest.approx(due, rel=1e-12)


def test_more_ranks_change_only_dependent_symbols() -> None:
    job = Job.of_trace(trace())
    before, after = job.symbols(2), job.symbols(8)
    assert {key for key in after if after[key] != before[key]} == {"N", "B", "U", "q"}
    assert after["B"] == 256 and before["U"] < after["U"] < 4 * before["U"]


def test_a_job_of_a_model_has_the_models_symbols() -> None:
    assert Job.of_model(MODEL).symbols(4, 16) == MODEL.symbols(4, 64)


def test_a_trace_without_a_symbol_is_refused() -> None:
    with pytest.raises(TraceError, match="'U' is missing or zero"):
        Job.of_trace(trace(U=0.0))


def test_a_trace_from_before_precisions_has_one_size_of_values() -> None:
    recorded = trace(s=8.0)
    symbols = {name: value for name, value in recorded.header.symbols.items() if name not in ("sr", "sd", "so")}
    old = replace(recorded, header=replace(recorded.header, symbols=symbols))
    assert Job.of_trace(old).measured_symbols["sr"] == Job.of_trace(old).symbols(2)["so"] == 8.0
    at_bf16 = replace(Job.of_trace(old), model=MODEL.at(Precisions(wire=Precision.BF16)))
    assert (at_bf16.symbols(2)["s"], at_bf16.symbols(2)["sr"]) == (2.0, 4.0)
