"""Projections of strategies with options: bytes of the plan, and copies at the bandwidth to the host."""

from __future__ import annotations

import pytest

from dessim.cluster import load_cluster
from dessim.commands.project import project
from dessim.commands.support.dedicated_servers import parse_servers
from dessim.errors import UsageError
from dessim.trace.schema import Kind
from dessim.workload import formula
from dessim.workload.model import load_model
from dessim.workload.scale import Job
from dessim.workload.strategies import plan

CACHED = "row_all_gather+cache_rows=200000"


def test_rows_have_the_bytes_of_their_plans_and_copies_take_time() -> None:
    model, cluster = load_model("deepfm"), load_cluster("h100-8x_rail_128")
    names = ["row_all_to_all", "row_all_to_all+look_ahead", "ps_sync+hot_rows=1000", "row_all_gather", CACHED]
    rows = dict(zip(names, project(Job.of_model(model), cluster, names, [16]), strict=True))
    for name, row in rows.items():
        planned = plan(name, model)
        assert row.strategy == name
        assert row.bytes_per_worker == pytest.approx(planned.sent_bytes(planned.symbols(model.symbols(16))))
    look_ahead = rows["row_all_to_all+look_ahead"]
    assert (
        look_ahead.bytes_per_worker < rows["row_all_to_all"].bytes_per_worker and "reads the whole" in look_ahead.caveat
    )
    cached = rows[CACHED]
    values = plan(CACHED, model).symbols(model.symbols(16))
    seconds = formula.evaluate("M*(W+O)*s", values) / cluster.nodes[0].pcie.capacity
    copies = [span for span in cached.record.spans if span.kind is Kind.COPY]
    assert sorted({span.name for span in copies}) == ["rows_in", "rows_out"]
    assert all(span.end - span.start == pytest.approx(seconds) for span in copies)
    assert cached.breakdown.step_time_s > rows["row_all_gather"].breakdown.step_time_s
    assert cached.memory.rows < rows["row_all_gather"].memory.rows
    assert "in each direction" in cached.provenance["compute"]


def test_impossible_combinations_are_refused() -> None:
    job = Job.of_model(load_model("fm"))
    with pytest.raises(UsageError, match=r"row_all_gather\+cache_rows=200000 needs the bandwidth to the host's memory"):
        project(job, load_cluster("one-switch_16"), [CACHED], [4])
    servers = parse_servers("4", "epyc-9654", threads=1, staleness=None, jitter=0.0, seed=0)
    with pytest.raises(UsageError, match=r"--servers and ps_sync\+hot_rows=9: options of strategies are not modelled"):
        project(job, load_cluster("h100-8x_rail_128"), ["ps_sync", "ps_sync+hot_rows=9"], [8], servers=servers)
