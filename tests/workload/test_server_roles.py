"""A parameter server's plan split between workers and servers, against counts by hand."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dessim.errors import CapacityError
from dessim.workload.memory import memory_of, require, require_servers, served_memory
from dessim.workload.model import load_model
from dessim.workload.plan import Traffic
from dessim.workload.server_roles import Roles, moved, requests_of
from dessim.workload.strategies import plan

MODEL = load_model("deepfm")
PLAN = plan("ps_sync", MODEL)
V = MODEL.symbols(64)
WEIGHTS = V["P"] + V["F"] * V["D"] * V["H1"]  # the tail's, and the first layer's over the pooled vectors


def names(ops: tuple) -> list[str]:  # type: ignore[type-arg]
    return [op.name for op in ops]


def test_every_op_has_one_role() -> None:
    roles = Roles.of(PLAN)
    assert names(roles.prepare) == ["split_ids"] and "dense_forward" in names(roles.compute)
    assert names(roles.gather) == ["lookup"] and names(roles.merge) == ["sum_grad"]
    assert names(roles.update) == ["update_rows", "update_dense"]
    everything = [name for role in Roles.__slots__ for name in names(getattr(roles, role))]
    assert sorted(everything) == sorted(op.name for op in PLAN.ops)


@settings(max_examples=30, deadline=None)
@given(n=st.integers(1, 2000), servers=st.integers(1, 300))
def test_messages_and_work_equal_a_count_by_hand(n: int, servers: int) -> None:
    v = MODEL.symbols(n)
    u, row = v["u"] / servers, v["W"] * 4
    shard = math.ceil(WEIGHTS / servers) * 4
    sync, free = (requests_of(PLAN, v, servers, of) for of in (True, False))
    assert sync.request == free.request == pytest.approx(u * 8 + 8)  # ids and their count
    assert sync.reply == free.reply == pytest.approx(u * row + shard)
    assert sync.push == free.push == pytest.approx(u * (8 + row) + shard)
    # A pull looks ids up, reads and copies each row, and reads and copies the dense shard.
    assert sync.gather.mem == free.gather.mem == pytest.approx(4 * u * 8 + u * 2 * (8 + row) + u * row + 2 * shard)
    assert sync.merge.mem == pytest.approx(3 * u * row + 3 * shard)
    update = 3 * row + 2 * v["O"] * 4
    assert sync.apply.mem == pytest.approx(v["U"] / servers * update + 7 * shard)
    assert free.merge.mem == pytest.approx(u * update + 7 * shard) and free.apply.mem == 0


def test_bytes_on_the_network_equal_those_of_messages() -> None:
    v, servers = V, 16
    r = requests_of(PLAN, v, servers, sync=True)
    assert moved(PLAN, v, servers) == pytest.approx(servers * (r.request + r.reply + r.push))
    assert moved(PLAN, v, servers) == pytest.approx(sum(moved(PLAN, v, servers, t) for t in Traffic))
    # As many servers as workers move what servers on the workers do, including each worker's local share.
    apart, on_workers = moved(PLAN, v, 64, Traffic.SPARSE), PLAN.sent_bytes(v, Traffic.SPARSE)
    assert on_workers == pytest.approx(apart * 63 / 64)


def test_rows_and_optimizer_live_only_on_servers() -> None:
    v = MODEL.symbols(8)
    worker, server = served_memory(PLAN, v, 4)
    on_workers = memory_of(PLAN, v)
    assert worker.rows == worker.row_state == worker.index == worker.dense == 0
    assert 0 < worker.activations < on_workers.activations
    assert 4 * server.rows == pytest.approx(8 * on_workers.rows)
    assert 4 * server.index == pytest.approx(v["V"] * 24)
    assert 4 * server.dense == pytest.approx(3 * WEIGHTS * 4, rel=1e-4)  # shards hold whole weights
    # With more workers, more pushes may be waiting.
    assert served_memory(PLAN, MODEL.symbols(16), 4)[1].activations > server.activations


def test_the_error_for_small_servers_states_how_many_suffice() -> None:
    v = MODEL.symbols(8)
    _, server = served_memory(PLAN, v, 2)
    require_servers(server, server.total, "epyc-9654", "ps_sync of deepfm on 8 GPUs", 2)
    with pytest.raises(CapacityError, match=r"a host with epyc-9654 has .*; use about --servers 7 or more$") as caught:
        require_servers(server, server.total / 3.5 + 1, "epyc-9654", "ps_sync of deepfm on 8 GPUs", 2)
    assert str(caught.value).startswith("ps_sync of deepfm on 8 GPUs does not fit: a parameter server needs ")
    worker, _ = served_memory(PLAN, v, 2)
    with pytest.raises(CapacityError, match=r"use fewer samples a GPU \(--batch-per-worker\)$"):
        require(worker, worker.total / 2, "gpu", what="job", symbols=v)  # more GPUs would not help
