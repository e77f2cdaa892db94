"""Projections with parameter servers on dedicated hosts."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from typing import Any

import pytest
from typer.testing import CliRunner

from dessim.cli.app import app
from dessim.cluster import load_cluster
from dessim.cluster.load import load_device
from dessim.commands.support.dedicated_servers import Servers, parse_servers
from dessim.commands.support.project_request import ProjectRequest
from dessim.commands.support.projection import Misfit, Projection
from dessim.errors import CapacityError, UsageError
from dessim.results import tables
from dessim.sim.core.device import roofline
from dessim.sim.servers import parameter_server
from dessim.workload.memory import served_memory
from dessim.workload.model import load_model
from dessim.workload.owners import busiest_server
from dessim.workload.scale import Job
from dessim.workload.server_roles import requests_of
from dessim.workload.strategies import plan
from tests.projecting import project

CLUSTER = load_cluster("one-switch_16")
JOB = Job.of_model(load_model("fm"))
CPU = load_device("epyc-9654")
BOTH = ["ps_sync", "ps_async"]


@pytest.fixture(autouse=True)
def few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight steps of a worker are enough for these tests."""
    monkeypatch.setattr(parameter_server, "MEASURED_IN_TOTAL", 1)


def rows(n: int, strategies: list[str], servers: Servers | None, **more: Any) -> list[Projection]:
    found = project(JOB, CLUSTER, strategies, [n], servers=servers, **more)
    assert all(isinstance(row, Projection) for row in found)
    return found  # type: ignore[return-value]


def test_the_parts_of_a_step_add_up() -> None:
    for row in rows(6, BOTH, Servers(4, CPU, jitter=0.3, staleness=2, seed=1)):
        values = row.to_json()
        servers = values["servers"]
        calls = sum(servers[f"{part}_s"] for part in ("queue", "service", "transfer", "wait"))
        assert calls == pytest.approx(values["exposed_comm_s"], rel=1e-9)
        assert sum(op["exposed_s"] for op in values["comm_by_op"]) == pytest.approx(calls, rel=1e-9)
        assert sum(op["time_s"] for op in values["critical_path"]) == pytest.approx(
            values["compute_s"] + calls, rel=1e-9
        )
        assert servers["staleness_mean"] <= servers["staleness_p95"] <= servers["staleness_max"]
        assert values["step_time_s"] == pytest.approx(values["compute_s"] + calls + values["idle_s"], rel=1e-12)
        assert values["idle_s"] < 1e-3 * values["step_time_s"]


def test_busy_servers_limit_the_throughput() -> None:
    """Twelve workers keep one slow server busy all the time, so its service times alone determine the throughput."""
    slow = dataclasses.replace(CPU, launch_overhead=100e-6)
    (row,) = rows(12, ["ps_async"], Servers(1, slow), batch_per_worker=64)
    wanted = requests_of(plan("ps_async", JOB.model), JOB.symbols(12, 64), 1, sync=False)
    service = sum(roofline(slow, work.flops, work.mem, 1) for work in (wanted.gather, wanted.merge))
    assert row.served is not None
    assert 12 * service > 2 * (row.breakdown.compute_s + service)
    assert row.served.times.busy_share == pytest.approx(1, rel=1e-3)
    assert row.samples_per_s == pytest.approx(64 / service, rel=1e-3)


def test_bounds_and_folding_reach_the_simulation() -> None:
    servers = Servers(4, CPU, staleness=1, jitter=0.8, seed=5)
    sync, bounded = rows(8, BOTH, servers)
    (free,) = rows(8, ["ps_async"], dataclasses.replace(servers, staleness=None))
    assert sync.served and bounded.served and free.served
    assert sync.served.times.staleness_max == 0
    assert bounded.served.times.lead_steps <= 1 < free.served.times.lead_steps
    assert sync.samples_per_s < bounded.samples_per_s < free.samples_per_s
    (unfolded,) = rows(8, ["ps_async"], servers, folding=False)
    assert unfolded.breakdown.step_time_s == pytest.approx(bounded.breakdown.step_time_s, rel=1e-9)


def test_tables_that_do_not_fit_the_servers_give_a_misfit() -> None:
    small = dataclasses.replace(CPU, memory=1e9)
    found = project(JOB, CLUSTER, ["table_wise", "ps_sync"], [8], servers=Servers(1, small))
    assert isinstance(found[0], Projection) and isinstance(found[1], Misfit)
    assert "a parameter server needs" in found[1].reason and "use about --servers" in found[1].reason


def test_servers_have_hosts_to_themselves() -> None:
    Servers(4, CPU).first_gpus(CLUSTER, 12)
    with pytest.raises(CapacityError, match=r"16 hosts; 12 GPUs take 12 of them, which leaves 4 for --servers 5"):
        rows(12, ["ps_sync"], Servers(5, CPU))
    rail = load_cluster("h100-8x_rail_128")
    assert Servers(3, CPU).first_gpus(rail, 9).tolist() == [16, 24, 32]  # the first GPUs of hosts without workers


def test_by_default_there_are_as_many_servers_as_workers_hosts_while_hosts_are_free() -> None:
    auto = parse_servers("auto", "epyc-9654", threads=1, staleness=None, jitter=0.0, seed=0)
    assert auto is not None
    found = project(JOB, CLUSTER, ["ps_sync"], [4, 12, 16], servers=auto, batch_per_worker=64)
    some, fewer, none = (row for row in found if isinstance(row, Projection))
    assert some.served is not None and some.served.servers.count == 4 and not some.is_lower_bound
    assert fewer.served is not None and fewer.served.servers.count == 4  # four hosts are left
    assert none.served is None and none.is_lower_bound
    # The Python function has the command's default.
    assert ProjectRequest(job=JOB, cluster=CLUSTER, strategies=["ps_sync"], gpus=[4]).servers == auto
    (as_auto,) = project(JOB, CLUSTER, ["ps_sync"], [4], batch_per_worker=64)
    assert as_auto.to_json() == some.to_json()
    (with_options,) = rows(4, ["ps_sync+hot_rows=10"], auto)
    assert with_options.served is None and with_options.is_lower_bound
    with pytest.raises(CapacityError, match=r"ps_async on 16 GPUs: cluster one-switch_16 has no host left for servers"):
        rows(16, ["ps_async"], auto)


def test_the_server_with_the_most_frequent_ids_is_asked_for_more() -> None:
    skewed = Job.of_model(
        load_model("fm").model_copy(update={"input": JOB.model.input.model_copy(update={"skew": 2.0})})
    )
    even = Job.of_model(load_model("fm").model_copy(update={"input": JOB.model.input.model_copy(update={"skew": 0.0})}))
    for job, least in ((skewed, 1.02), (even, 1.0)):
        symbols = job.symbols(8)
        busiest, others = busiest_server(plan("ps_sync", job.model), job.model, symbols, 4)
        assert busiest.symbols(symbols)["u"] >= least * others.symbols(symbols)["u"] * (1 - 1e-9)
    (row,) = project(skewed, CLUSTER, ["ps_sync"], [8], servers=Servers(4, CPU))
    assert isinstance(row, Projection) and row.served is not None
    _, mean = served_memory(plan("ps_sync", skewed.model), skewed.symbols(8), 4)
    assert row.served.memory.total > mean.total


def test_options_that_do_not_go_together_are_refused() -> None:
    with pytest.raises(UsageError, match=r"ps_async needs dedicated servers: add --servers 16"):
        rows(4, ["ps_async"], None)
    with pytest.raises(UsageError, match=r"--servers is for ps_sync and ps_async"):
        rows(4, ["table_wise"], Servers(2, CPU))
    with pytest.raises(UsageError, match=r"--staleness is for ps_async"):
        rows(4, ["ps_sync"], Servers(2, CPU, staleness=1))
    for staleness, jitter in ((1, 0.0), (None, 0.5)):
        with pytest.raises(UsageError, match=r"--(staleness|jitter) is for dedicated parameter servers: add --servers"):
            parse_servers("ideal", "epyc-9654", threads=1, staleness=staleness, jitter=jitter, seed=0)
    for wrong in ("0", "-1", "many", "2.5"):
        with pytest.raises(UsageError, match=r"--servers .*: write a number of hosts from 1, auto or ideal"):
            parse_servers(wrong, "epyc-9654", threads=1, staleness=None, jitter=0.0, seed=0)
    with pytest.raises(UsageError, match=r"device 'epic' is unknown; choose from .*epyc-9654"):
        parse_servers("2", "epic", threads=1, staleness=None, jitter=0.0, seed=0)


def test_the_command_line_prints_staleness_and_the_same_bytes_twice() -> None:
    asked = ["project", "--model", "fm", "--strategy", "ps_async,table_wise", "--cluster", "one-switch_16"]
    asked += ["--gpus", "8", "--servers", "4", "--staleness", "4", "--jitter", "0.2", "--seed", "3"]
    table = CliRunner().invoke(app, asked)
    assert table.exit_code == 0, table.output
    assert all(word in table.output for word in ("server queue", "staleness", "parameter server, async", "epyc-9654"))
    first, second = (CliRunner().invoke(app, [*asked, "--json"]).output for _ in range(2))
    assert first == second
    served, plain = json.loads(first)["projection"]
    assert served["servers"]["count"] == 4 and served["servers"]["staleness_bound_steps"] == 4
    assert plain["servers"] is None
    of, _ = csv.DictReader(io.StringIO(tables.projection_csv([served, plain])))
    assert of["servers"] == "4" and float(of["server_staleness_mean"]) == served["servers"]["staleness_mean"]
